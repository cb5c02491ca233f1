// Which unit is shown, and all that is known of it at the cursor.

const STATE = { layer: 0, unit: 0, field: "", feature: 0, cursor: 0, underline: true };

function choose(changes) {
  Object.assign(STATE, changes);
  if (!UNITS[STATE.layer].length) STATE.layer = UNITS.findIndex((units) => units.length);
  const { layer } = STATE;
  if (!UNITS[layer].includes(STATE.unit)) STATE.unit = UNITS[layer][0];
  const fields = [...DATA.layers[layer].fields, SURPRISE];
  if (!fields.includes(STATE.field)) STATE.field = fields[0];
  if (STATE.field !== SURPRISE && !hasTrace(layer, STATE.unit, STATE.field)) {
    STATE.field = fields.find((field) => hasTrace(layer, STATE.unit, field));
  }
  showControls(fields);
  paintText();
  underlineFeature();
  showReadout();
  markFound();
  remember();
}

function showControls(fields) {
  const { layer, unit } = STATE;
  byId("layer").value = layer;
  byId("layer").closest("label").hidden = DATA.layers.length === 1;
  byId("unit").replaceChildren(
    ...UNITS[layer].map((number) => element("option", { value: number }, String(number))));
  byId("unit").value = unit;
  const old = byId("fields").querySelector("input:focus") !== null;
  const buttons = fields.map((field) => {
    const input = element("input", {
      type: "radio", name: "field", value: field,
      onchange: () => choose({ field }),
    });
    input.checked = field === STATE.field;
    input.disabled = field !== SURPRISE && !hasTrace(layer, unit, field);
    const why = input.disabled ? "Not on this page, for want of room" : null;
    return element("label", { title: why }, input, element("span", {}, field));
  });
  byId("fields").replaceChildren(byId("fields").querySelector("legend"), ...buttons);
  if (old) byId("fields").querySelector("input:checked").focus();
}

function stepUnit(by) {
  const units = UNITS[STATE.layer];
  const place = (units.indexOf(STATE.unit) + by + units.length) % units.length;
  choose({ unit: units[place] });
}

function stepLayer() {
  const layers = [...DATA.layers.keys()].filter((n) => UNITS[n].length);
  choose({ layer: layers[(layers.indexOf(STATE.layer) + 1) % layers.length] });
}

function showAbove(changes) {
  choose(changes);
  byId("reading").scrollIntoView({ block: "start" });
}

function bar(share, colour = "var(--soft)", from = 0) {
  const fill = element("i");
  fill.style.background = colour;
  fill.style.left = `${100 * from}%`;
  fill.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
  return element("div", { class: "bar" }, fill);
}

function showReadout() {
  const t = STATE.cursor, symbol = DATA.symbols[IDS[t]];
  byId("readout").replaceChildren(
    element("div", { class: "glyph" },
      element("b", {}, visibleText(symbol)),
      element("span", {}, `${(t + 1).toLocaleString("en")} of ${T.toLocaleString("en")}`)),
    element("h3", {}, "Surprise"),
    ...surpriseRows(t),
    element("h3", {}, `Layer ${STATE.layer}, unit ${STATE.unit}, after reading it`),
    ...valueRows(t));
}

function surpriseRows(t) {
  if (Number.isNaN(NATS[t])) return ["Nothing predicts the first one."];
  const rows = [element("div", { class: "row now" },
    element("span", {}, `${digits(NATS[t])} nats`),
    bar(Math.exp(-NATS[t]), "rgb(var(--nats))"),
    element("output", {}, percent(Math.exp(-NATS[t]))))];
  for (let n = 0; n < DATA.alternatives; n++) {
    const place = t * DATA.alternatives + n;
    const itself = LIKELIEST[place] === IDS[t];
    rows.push(element("div", { class: itself ? "row now" : "row" },
      element("code", {}, visibleText(DATA.symbols[LIKELIEST[place]])),
      bar(PROBABILITIES[place], itself ? "rgb(var(--nats))" : undefined),
      element("output", {}, percent(PROBABILITIES[place]))));
  }
  return rows;
}

function valueRows(t) {
  const { layer, unit } = STATE;
  const fields = DATA.layers[layer].fields.filter((field) => hasTrace(layer, unit, field));
  return fields.map((field) => {
    const value = valueOf(layer, unit, field, t), scale = scaleOf(layer, unit, field);
    const share = shareOf(value, scale), size = Math.abs(share);
    const colour = `rgb(var(--${hueOf(value, scale, field)}))`;
    const drawn = scale.bottom
      ? bar(size / 2, colour, share < 0 ? 0.5 - size / 2 : 0.5) : bar(size, colour);
    if (scale.bottom) drawn.classList.add("mid");
    return element("div", { class: field === STATE.field ? "row now" : "row" },
      element("span", {}, nameOf(layer, field)), drawn, element("output", {}, digits(value, 3)));
  });
}

function nameOf(layer, field) {
  if (field === "h") return "output h";
  if (field === DATA.layers[layer].memory) return `memory ${field}`;
  return DATA.layers[layer].gates.includes(field) ? `gate ${field}` : field;
}

// The choice stands behind the page's address, so that it lasts and can be sent.
function remember() {
  const { layer, unit, field, feature } = STATE;
  const words = new URLSearchParams({ layer, unit, field, feature });
  try {
    history.replaceState(null, "", `#${words}`);
  } catch {
    // Not everywhere that a page is shown has it an address.
  }
}

function remembered() {
  const words = new URLSearchParams(location.hash.slice(1)), changes = {};
  for (const name of ["layer", "unit", "feature"]) {
    if (/^\d+$/.test(words.get(name) ?? "")) changes[name] = Number(words.get(name));
  }
  if (words.has("field")) changes.field = words.get("field");
  const known = (changes.layer ?? 0) < DATA.layers.length
    && (changes.feature ?? 0) < DATA.features.length;
  return known && "unit" in changes ? changes : null;
}
