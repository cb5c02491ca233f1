// The features, the units that go with them, and what surprised the model.

function scoreOf(found) {
  return found.length ? found[0][5] : null;
}

// The feature to begin with: the first that some unit tells nearly always, or else the best.
function firstFeature() {
  const scores = DATA.features.map(({ found }) => scoreOf(found) ?? 0);
  const good = scores.findIndex((score) => score > 0.95);
  return good >= 0 ? good : scores.indexOf(Math.max(...scores));
}

function listFeatures() {
  byId("features").replaceChildren(...DATA.features.map(({ name, where, found }, feature) => {
    const score = scoreOf(found);
    const shown = score === null
      ? [element("small", {}, where === null ? "never changes enough" : "too rare here to tell")]
      : [bar(where === null ? Math.abs(score) : 2 * score - 1, "var(--accent)"),
         element("output", {}, digits(score, 3))];
    return element("button", {
      role: "radio", class: score === null ? "rare" : null,
      title: where === null ? "Spearman’s correlation" : "AUC",
      onclick: () => chooseFeature(feature),
    }, element("span", {}, name), ...shown);
  }));
}

function chooseFeature(feature) {
  const [best] = DATA.features[feature].found.filter(([layer, unit]) => UNITS[layer].includes(unit));
  const [layer, unit, field] = best ?? [STATE.layer, STATE.unit, STATE.field];
  choose({ feature, layer, unit, field });
}

function markFound() {
  [...byId("features").children].forEach((button, feature) => {
    button.setAttribute("aria-checked", feature === STATE.feature);
    button.tabIndex = feature === STATE.feature ? 0 : -1;
  });
  const { name, where, found } = DATA.features[STATE.feature];
  const heads = where === null
    ? ["Unit", "Rises or falls", "Chosen by", "Scored"]
    : ["Unit", "Inside", "AUC, chosen by", "AUC, scored", "Balanced acc."];
  const rows = found.map(([layer, unit, field, sign, chosen, scored, threshold, accuracy]) => {
    const here = UNITS[layer].includes(unit);
    const label = `${DATA.layers.length > 1 ? `${layer} · ` : ""}${unit} ${field}`;
    const button = element("button", {
      disabled: !here, title: here ? "Show it" : "Not on this page, for want of room",
      onclick: () => showAbove({ layer, unit, field }),
    }, label);
    const way = where === null ? (sign < 0 ? "falls" : "rises") : (sign < 0 ? "low" : "high");
    const now = layer === STATE.layer && unit === STATE.unit;
    const cells = [button, way, digits(chosen, 3), digits(scored, 3)];
    if (where !== null) cells.push(digits(accuracy, 3));
    return element("tr", { class: now ? "now" : null }, ...cells.map((cell) => element("td", {}, cell)));
  });
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows));
  byId("units").replaceChildren(
    element("h3", {}, `The units that go best with: ${name}`),
    found.length ? element("div", { class: "scroll" }, table)
      : element("p", { class: "note" }, "It is too rare in this text, or always the same."));
}

const BEFORE = 14, BEHIND = 10;

function listSurprises() {
  const known = NATS.filter((nats) => !Number.isNaN(nats));
  const mean = known.reduce((sum, nats) => sum + nats, 0) / known.length;
  byId("surprise-lead").textContent = known.length
    ? `Surprise is −log of the probability that the model gave to what came: ${digits(mean, 3)} nats `
      + "on average here. These surprised it most."
    : "Nothing was predicted.";
  const order = [...NATS.keys()].filter((t) => !Number.isNaN(NATS[t]))
    .sort((a, b) => NATS[b] - NATS[a]).slice(0, 9);
  byId("surprises").replaceChildren(...order.map((t) => {
    const part = (from, to) => IDS.slice(Math.max(0, from), to)
      .map((id) => plainText(DATA.symbols[id])).join("");
    const [first] = LIKELIEST.slice(t * DATA.alternatives);
    return element("button", { onclick: () => goTo(t) },
      element("span", { class: "glyphs" }, part(t - BEFORE, t),
        element("mark", {}, visibleText(DATA.symbols[IDS[t]])), part(t + 1, t + 1 + BEHIND)),
      element("b", {}, `${digits(NATS[t])} nats`),
      element("small", {}, `${visibleText(DATA.symbols[first])} was expected, at `
        + percent(PROBABILITIES[t * DATA.alternatives])));
  }));
}

function goTo(t) {
  choose({ field: SURPRISE });
  moveCursor(t, true);
  byId("text").scrollIntoView({ block: "center" });
  byId("text").focus({ preventScroll: true });
}
