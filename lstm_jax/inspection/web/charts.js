// Charts, drawn at the width that there is.

const LAYERS = 4; // colours; further layers take them in turn

function colourOfLayer(n) {
  return `var(--layer${n % LAYERS})`;
}

function frame(title, width, height, ...marks) {
  return element("div", { class: "chart" }, element("h3", {}, title),
    drawing("svg", { width, height, role: "img", "aria-label": title }, ...marks));
}

function label(text, x, y, anchor = "middle") {
  const made = drawing("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function keyOfLayers() {
  return element("div", { class: "key" }, ...DATA.layers.map((_, n) =>
    element("span", {}, drawing("svg", { width: 12, height: 10, "aria-hidden": "true" },
      drawing("circle", { cx: 5, cy: 5, r: 4.5, fill: colourOfLayer(n) })), `layer ${n}`)));
}

function widthFor(id, columns) {
  const room = byId(id).clientWidth || 320;
  const each = Math.max(1, Math.min(columns, Math.floor((room + 22) / (288 + 22))));
  return Math.floor((room - 22.4 * (each - 1)) / each);
}

// Karpathy, Johnson and Li 2015: each unit at its shares of steps shut and open.
function drawSaturation() {
  const { left, right, still } = DATA.limits;
  byId("saturation-lead").textContent =
    `Each dot is a unit: how often its gate is below ${left} (left-saturated) and above ${right} `
    + "(right-saturated), as in Karpathy, Johnson and Li 2015. On the diagonal a gate is always "
    + "one or the other.";
  const gates = [...new Set(DATA.layers.flatMap(({ gates }) => gates))];
  const size = Math.min(320, widthFor("saturation", 4)), room = size - 46;
  const x = (share) => 38 + share * room, y = (share) => 6 + (1 - share) * room;
  const charts = gates.map((gate) => {
    const dots = DATA.layers.flatMap(({ saturation }, layer) => {
      if (!(gate in saturation)) return [];
      const [lefts, rights] = saturation[gate].map(bytesOf);
      return Array.from(lefts, (share, unit) => dotOf(layer, unit, gate, share / 255, rights[unit] / 255, x, y));
    });
    return withKey(frame(`Gate ${gate}`, size, size, ...axesOfShares(x, y, room), ...dots));
  });
  byId("saturation").replaceChildren(...charts.length ? charts
    : [element("p", { class: "note" }, "This cell keeps no gates that could be shown.")]);
  const dead = DATA.layers.map(({ dead, units }, n) => {
    const which = dead.length ? ` (${dead.slice(0, 40).join(", ")}${dead.length > 40 ? ", …" : ""})` : "";
    return `layer ${n}: ${dead.length} of ${units}${which}`;
  });
  byId("dead").textContent =
    `Dead units, whose output deviates by less than ${still} over the text: ${dead.join("; ")}.`;
}

function dotOf(layer, unit, gate, left, right, x, y) {
  const here = UNITS[layer].includes(unit);
  const dot = drawing("circle", {
    cx: x(left).toFixed(1), cy: y(right).toFixed(1), r: 3.6, "fill-opacity": 0.5,
    fill: colourOfLayer(layer), style: here ? "cursor: pointer" : "",
  });
  const title = drawing("title");
  title.textContent = `layer ${layer}, unit ${unit}: shut in ${percent(left)}, open in ${percent(right)}`;
  dot.append(title);
  if (here) dot.addEventListener("click", () => showAbove({ layer, unit, field: gate }));
  return dot;
}

function axesOfShares(x, y, room) {
  const marks = [
    drawing("path", { d: `M${x(0)} ${y(1)}V${y(0)}H${x(1)}`, class: "axis" }),
    drawing("path", { d: `M${x(0)} ${y(1)}L${x(1)} ${y(0)}`, class: "axis", "stroke-dasharray": "3 4" }),
    label("share of steps shut", x(0.5), y(0) + 34),
  ];
  const upright = label("share of steps open", 0, 0);
  upright.setAttribute("transform", `translate(10 ${y(0.5)}) rotate(-90)`);
  for (const share of [0, 0.5, 1]) {
    marks.push(label(String(share), x(share), y(0) + 17), label(String(share), x(0) - 6, y(share) + 4, "end"));
  }
  return [...marks, upright];
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((n) => n * power).find((top) => top >= value);
}

function drawNorms() {
  const names = [...new Set(DATA.layers.flatMap(({ norms }) => Object.keys(norms)))];
  const width = wideWidth("norms"), height = 210;
  byId("norms").replaceChildren(...names.map((name) => {
    const lines = DATA.layers.map(({ norms }) => norms[name] && numbersOf(norms[name], 4, "getFloat32"));
    const top = niceTop(Math.max(...lines.map((line) => line ? line.reduce((a, b) => Math.max(a, b), 0) : 0)));
    const x = (t) => 44 + (t / T) * (width - 56), y = (value) => 8 + (1 - value / top) * (height - 42);
    const marks = [0, 0.5, 1].flatMap((share) => [
      drawing("path", { d: `M44 ${y(share * top)}H${width - 12}`, class: "axis" }),
      label(String(Number((share * top).toPrecision(2))), 38, y(share * top) + 4, "end"),
      label(Math.round(share * T).toLocaleString("en"), x(share * T), height - 14, share === 1 ? "end" : "middle"),
    ]);
    lines.forEach((line, n) => line && marks.push(...bandOf(line, x, y, colourOfLayer(n), width)));
    return withKey(frame(`‖${name}‖ over the text`, width, height, ...marks));
  }));
}

function withKey(chart) {
  if (DATA.layers.length > 1) chart.querySelector("h3").after(keyOfLayers());
  return chart;
}

function wideWidth(id) {
  const room = byId(id).clientWidth || 320;
  const columns = Math.max(1, Math.floor((room + 22) / (480 + 22)));
  return Math.floor((room - 22.4 * (Math.min(columns, 2) - 1)) / Math.min(columns, 2));
}

// Means of neighbours as a line, and their range as a band.
function bandOf(line, x, y, colour, width) {
  const count = Math.min(T, Math.floor(width / 3)), upper = [], lower = [], means = [];
  for (let n = 0; n < count; n++) {
    const part = line.slice(Math.floor((n * T) / count), Math.max(Math.floor((n * T) / count) + 1, Math.floor(((n + 1) * T) / count)));
    const at = x(((n + 0.5) / count) * T).toFixed(1);
    upper.push(`${at} ${y(Math.max(...part)).toFixed(1)}`);
    lower.unshift(`${at} ${y(Math.min(...part)).toFixed(1)}`);
    means.push(`${at} ${y(part.reduce((a, b) => a + b, 0) / part.length).toFixed(1)}`);
  }
  return [
    drawing("path", { d: `M${[...upper, ...lower].join("L")}Z`, fill: colour, "fill-opacity": 0.16 }),
    drawing("path", { d: `M${means.join("L")}`, fill: "none", stroke: colour, "stroke-width": 1.6 }),
  ];
}

function drawReach() {
  const { layers, ends, by_hand: byHand } = DATA.reach;
  const names = layers.length ? Object.keys(layers[0]) : [];
  byId("reach-lead").textContent = names.length
    ? `The length of ∂loss at t by a layer’s state at t − k, all ways, taken back step by step `
      + `${byHand ? "by the backward derived by hand" : "by autodiff, because this cell has no backward by hand"}: `
      + `medians and quartiles of ${ends} places in the text.`
    : "The text is too short to follow a gradient back.";
  const width = wideWidth("reach"), height = 300;
  byId("reach").replaceChildren(...names.map((name) =>
    withKey(reachOf(name, layers.map((layer) => layer[name]), width, height))));
}

function reachOf(name, lines, width, height) {
  const logs = lines.map((three) => three.map((line) => line.map((value) => value > 0 ? Math.log10(value) : null)));
  const all = logs.flat(2).filter((value) => value !== null);
  const low = Math.max(Math.floor(Math.min(...all, 0)), -16), high = Math.ceil(Math.max(...all, 0) || 1);
  const K = lines[0][0].length;
  const x = (k) => 52 + ((k - 1) / Math.max(1, K - 1)) * (width - 66);
  const y = (log) => 8 + ((high - Math.max(low, log)) / (high - low)) * (height - 52);
  const every = Math.ceil((high - low) / 6), marks = [];
  for (let power = high; power >= low; power -= every) {
    const text = label("10", 40, y(power) + 4, "end"), raised = drawing("tspan", { dy: -5, "font-size": 9 });
    raised.textContent = String(power).replace("-", "−");
    text.append(raised);
    marks.push(drawing("path", { d: `M52 ${y(power)}H${width - 14}`, class: "axis" }), text);
  }
  const ticks = [1, ...[0.25, 0.5, 0.75, 1].map((share) => Math.round(share * K))];
  for (const k of new Set(ticks)) marks.push(label(String(k), x(k), height - 26));
  marks.push(label("k, steps back", (52 + width) / 2, height - 6));
  logs.forEach(([quarter, median, most], n) => {
    const points = (line) => line.flatMap((log, k) => log === null ? [] : [`${x(k + 1).toFixed(1)} ${y(log).toFixed(1)}`]);
    const around = [...points(most), ...points(quarter).reverse()];
    if (around.length) marks.push(drawing("path", { d: `M${around.join("L")}Z`, fill: colourOfLayer(n), "fill-opacity": 0.16 }));
    if (points(median).length) marks.push(drawing("path", { d: `M${points(median).join("L")}`, fill: "none", stroke: colourOfLayer(n), "stroke-width": 2 }));
  });
  return frame(`|∂loss(t) / ∂${name}(t − k)|`, width, height, ...marks);
}
