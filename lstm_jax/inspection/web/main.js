// Puts the page together.

function describe() {
  document.title = `Inside ${plainText(DATA.title)}`;
  byId("title").textContent = plainText(DATA.title);
  byId("facts").replaceChildren(...DATA.facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, plainText(name)), element("dd", {}, plainText(value)))));
  const all = DATA.layers.reduce((sum, { units }) => sum + units, 0);
  const shown = UNITS.reduce((sum, units) => sum + units.length, 0);
  const whole = UNITS.reduce((sum, units, n) => sum
    + units.filter((unit) => DATA.layers[n].fields.every((field) => hasTrace(n, unit, field))).length, 0);
  byId("limit").textContent = whole === all
    ? `All ${all} units are on this page, each value in 8 bits.`
    : `To stay small this page has the memory of ${shown} of the ${all} units, all fields of the `
      + `${whole} that stand out most, and each value in 8 bits. The .npz file has everything.`;
}

function listen() {
  byId("layer").append(...DATA.layers.map((_, n) => element("option", { value: n, disabled: !UNITS[n].length }, String(n))));
  byId("layer").addEventListener("change", (event) => choose({ layer: Number(event.target.value) }));
  byId("unit").addEventListener("change", (event) => choose({ unit: Number(event.target.value) }));
  byId("previous").addEventListener("click", () => stepUnit(-1));
  byId("next").addEventListener("click", () => stepUnit(1));
  byId("underline").addEventListener("change", (event) => {
    STATE.underline = event.target.checked;
    underlineFeature();
  });
  byId("strip").addEventListener("click", (event) => {
    const { left, width } = byId("strip").getBoundingClientRect();
    moveCursor(Math.min(T - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * T))), true);
  });
  byId("features").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    stepFeature(by);
    byId("features").children[STATE.feature].focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const act = KEYS[event.key] ?? (/^[1-9]$/.test(event.key) ? () => chooseField(Number(event.key)) : null);
    if (act === null) return;
    event.preventDefault();
    act();
  });
}

const KEYS = {
  n: () => stepUnit(1),
  p: () => stepUnit(-1),
  l: stepLayer,
  s: () => choose({ field: SURPRISE }),
  f: () => stepFeature(1),
  u: () => { STATE.underline = !STATE.underline; underlineFeature(); },
};

function chooseField(number) {
  const field = DATA.layers[STATE.layer].fields[number - 1];
  if (field !== undefined && hasTrace(STATE.layer, STATE.unit, field)) choose({ field });
}

function stepFeature(by) {
  const count = DATA.features.length;
  chooseFeature((STATE.feature + by + count) % count);
}

function drawCharts() {
  drawSaturation();
  drawNorms();
  drawReach();
}

describe();
writeText();
listFeatures();
listen();
STATE.layer = UNITS.findIndex((units) => units.length);
const before = remembered();
if (before === null) chooseFeature(firstFeature());
else choose(before);
moveCursor(Math.min(T - 1, Math.max(1, SPANS.findIndex((span) => span.classList.contains("in")))));
listSurprises();
drawCharts();

let drawnAt = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === drawnAt) return; // a phone's bars come and go
  drawnAt = window.innerWidth;
  requestAnimationFrame(() => { drawStrip(); drawCharts(); });
});
