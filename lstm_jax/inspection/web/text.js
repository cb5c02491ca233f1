// The text: a span for each symbol, coloured, with a cursor.

const SPANS = [];

// The colour's name: surprise, a gate, a value below or above 0.
function hueOf(value, { bottom }, field) {
  if (field === SURPRISE) return "nats";
  if (bottom === 0) return "open";
  return value < 0 ? "down" : "up";
}

function colourOf(value, scale, field) {
  if (Number.isNaN(value)) return "";
  const share = Math.abs(shareOf(value, scale)), name = hueOf(value, scale, field);
  return share < 0.02 ? "" : `rgb(var(--${name}) / ${(0.78 * share ** 0.85).toFixed(3)})`;
}

function writeText() {
  const pane = byId("text");
  for (let t = 0; t < T; t++) {
    const symbol = DATA.symbols[IDS[t]];
    const span = element("span", {}, inText(symbol));
    if (symbol === "\n") span.classList.add("mark");
    else if (Array.from(symbol).some((each) => ODD.test(each))) span.classList.add("odd");
    SPANS.push(span);
  }
  pane.append(...SPANS);
  const places = new Map(SPANS.map((span, t) => [span, t]));
  pane.addEventListener("pointerover", (event) => {
    if (places.has(event.target)) moveCursor(places.get(event.target));
  });
  pane.addEventListener("click", (event) => {
    if (places.has(event.target)) moveCursor(places.get(event.target));
  });
  pane.addEventListener("keydown", (event) => {
    const to = target(event.key);
    if (to === null || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moveCursor(to, true);
  });
}

// Where a key takes the cursor; null: nowhere.
function target(key) {
  const t = STATE.cursor;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: lineAway(t, -1), ArrowDown: lineAway(t, 1) };
  if (key === "Home") return 0;
  if (key === "End") return T - 1;
  return key in steps ? Math.min(T - 1, Math.max(0, t + steps[key])) : null;
}

// How far it is to what stands nearest on the line above or below, as the text is wrapped.
function lineAway(t, direction) {
  const here = SPANS[t].getBoundingClientRect();
  let best = 0, nearest = Infinity, line = null;
  for (let other = t + direction; other >= 0 && other < T; other += direction) {
    const there = SPANS[other].getClientRects()[0];
    if (!there || Math.abs(there.top - here.top) < 4) continue;
    line = line ?? there.top;
    if (Math.abs(there.top - line) > 4) break;
    const away = Math.abs(there.left - here.left);
    if (away < nearest) [nearest, best] = [away, other - t];
  }
  return best;
}

function paintText() {
  const { layer, unit, field } = STATE;
  const scale = scaleOf(layer, unit, field);
  for (let t = 0; t < T; t++) {
    SPANS[t].style.backgroundColor = colourOf(valueOf(layer, unit, field, t), scale, field);
  }
  paintLegend(scale);
  drawStrip(scale);
}

function paintLegend(scale) {
  const end = `rgb(var(--${hueOf(1, scale, STATE.field)}) / .78)`;
  const start = scale.bottom ? "rgb(var(--down) / .78), transparent" : "transparent";
  const bar = element("i");
  bar.style.background = `linear-gradient(90deg, ${start}, ${end})`;
  const what = STATE.field === SURPRISE
    ? "surprise in nats" : `layer ${STATE.layer} · unit ${STATE.unit} · ${STATE.field}`;
  byId("legend").replaceChildren(
    digits(scale.bottom, 1), bar, digits(scale.top, 1), element("b", {}, what));
}

// The whole text at once: between which values the unit lies.
function drawStrip(scale = scaleOf(STATE.layer, STATE.unit, STATE.field)) {
  const strip = byId("strip"), width = strip.clientWidth || 600, height = 64;
  const { layer, unit, field } = STATE;
  const y = (value) => {
    const share = Math.max(0, Math.min(1, ((value || 0) - scale.bottom) / (scale.top - scale.bottom)));
    return 59 - share * 54;
  };
  const path = [];
  for (let column = 0; column < width; column++) {
    const from = Math.floor((column * T) / width);
    const to = Math.max(from + 1, Math.floor(((column + 1) * T) / width));
    let low = Infinity, high = -Infinity;
    for (let t = from; t < Math.min(to, T); t++) {
      const value = y(valueOf(layer, unit, field, t));
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    path.push(`M${column + 0.5} ${low - 0.5}V${high + 0.5}`);
  }
  const stroke = scale.bottom ? "var(--soft)" : `rgb(var(--${hueOf(1, scale, field)}))`;
  strip.replaceChildren(drawing("svg", { width, height, "aria-hidden": "true" },
    drawing("path", { d: `M0 ${y(0)}H${width}`, class: "axis" }),
    drawing("path", { d: path.join(""), stroke }),
    drawing("path", { id: "here", stroke: "var(--accent)", "stroke-width": 2 })));
  markHere();
}

function markHere() {
  const x = ((STATE.cursor + 0.5) / T) * (byId("strip").clientWidth || 600);
  byId("here")?.setAttribute("d", `M${x.toFixed(1)} 0V64`);
}

function underlineFeature() {
  const feature = DATA.features[STATE.feature];
  const where = feature.where === null ? null : bytesOf(feature.where);
  for (let t = 0; t < T; t++) {
    SPANS[t].classList.toggle("in", where !== null && Boolean((where[t >> 3] >> (t & 7)) & 1));
  }
  byId("text").classList.toggle("underlined", STATE.underline);
  byId("underline").checked = STATE.underline;
  byId("underline").disabled = where === null;
  byId("underlined").textContent = `Underline: ${feature.name}`;
}

function showInPane(t) {
  const pane = byId("text"), span = SPANS[t];
  const top = span.offsetTop - pane.offsetTop * (span.offsetParent === pane ? 0 : 1);
  if (top < pane.scrollTop + 40 || top > pane.scrollTop + pane.clientHeight - 60) {
    pane.scrollTop = top - pane.clientHeight / 3;
  }
}

function moveCursor(t, scroll = false) {
  SPANS[STATE.cursor].classList.remove("cursor");
  STATE.cursor = t;
  SPANS[t].classList.add("cursor");
  if (scroll) showInPane(t);
  markHere();
  showReadout();
}
