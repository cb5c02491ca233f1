// The numbers of the page, out of base64. Everything is little-endian.

const DATA = JSON.parse(document.getElementById("data").textContent);

function bytesOf(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = characters.charCodeAt(n);
  return bytes;
}

function numbersOf(text, size, read) {
  const view = new DataView(bytesOf(text).buffer);
  return Array.from({ length: view.byteLength / size }, (_, n) => view[read](n * size, true));
}

const IDS = numbersOf(DATA.ids, 4, "getUint32");
const NATS = numbersOf(DATA.nats, 4, "getFloat32"); // of the first NaN: nothing predicted it
const LIKELIEST = numbersOf(DATA.likeliest, 4, "getUint32");
const PROBABILITIES = numbersOf(DATA.probabilities, 2, "getUint16").map((p) => p / 65535);
const T = IDS.length;
const LEVELS = bytesOf(DATA.bytes);
const SURPRISE = "surprise";

// Where each trace lies: TRACES.get("layer.unit.field").
const TRACES = new Map(
  DATA.traces.map(([layer, unit, field, low, high], place) => [
    `${layer}.${unit}.${field}`, { place, low, high },
  ]),
);
// The units of each layer that have a trace, in the order of their numbers.
const UNITS = DATA.layers.map((_, n) =>
  [...new Set(DATA.traces.filter(([layer]) => layer === n).map(([, unit]) => unit))]
    .sort((a, b) => a - b));

function hasTrace(layer, unit, field) {
  return TRACES.has(`${layer}.${unit}.${field}`);
}

function valueOf(layer, unit, field, t) {
  if (field === SURPRISE) return NATS[t];
  const { place, low, high } = TRACES.get(`${layer}.${unit}.${field}`);
  return low + (LEVELS[place * T + t] / 255) * (high - low);
}

const ENDS = 0.01; // the share of values, at either end, that the colours do not tell apart
const LEAST = 0.07; // of the other side: what hardly moves to one side is not blown up

// Between which values all but the ends of a trace lie.
function spanOf(trace) {
  if (trace.span) return trace.span;
  const sorted = LEVELS.slice(trace.place * T, (trace.place + 1) * T).sort();
  const at = (n) => trace.low + (sorted[n] / 255) * (trace.high - trace.low);
  const end = Math.floor(ENDS * T);
  trace.span = [at(end), at(T - 1 - end)];
  return trace.span;
}

// What a field's colours go down and up to.
function scaleOf(layer, unit, field) {
  if (field === SURPRISE) return { bottom: 0, top: 6 };
  if (DATA.layers[layer].gates.includes(field)) return { bottom: 0, top: 1 };
  const trace = TRACES.get(`${layer}.${unit}.${field}`), [low, high] = spanOf(trace);
  // An output is at most 1 in size, so that two units' colours mean the same.
  if (field === "h" && Math.max(-trace.low, trace.high) <= 1) return { bottom: -1, top: 1 };
  const up = Math.max(high, 0), down = Math.max(-low, 0);
  return { bottom: -Math.max(down, LEAST * up) || -1, top: Math.max(up, LEAST * down) || 1 };
}

// A value's place on its scale, from -1 to 1.
function shareOf(value, { bottom, top }) {
  const share = value < 0 ? value / -bottom || 0 : value / top;
  return Math.max(-1, Math.min(1, share));
}

function digits(value, count = 2) {
  if (value === null || Number.isNaN(value)) return "–";
  return value.toFixed(count).replace(/^-/, "−");
}
