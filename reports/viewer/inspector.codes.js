// Codes of maps (reports/codes.py): what they stand for, their colours, and numbers as text.
const HIDDEN = 255, MIDDLE = 127;

const element = (tag, settings = {}, ...children) => {
  const one = document.createElementNS(
    ["svg", "path", "line", "text", "g"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(settings)) one.setAttribute(name, value);
  one.append(...children);
  return one;
};

// ---- numbers as text -------------------------------------------------------------------------
const counted = (x) => (x >= 1024 && x % 1024 === 0 ? `${x / 1024}k` : String(x));
const number = (x) => {
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size < 1e-3 || size >= 1e4 ? size.toExponential(2) : size.toPrecision(3);
  return (x < 0 ? "\u2212" : "") + text.replace("e-", "e\u2212").replace("e+", "e");
};
const span = (first, last) => (first === last ? `${first}` : `${first}\u2013${last}`);

// ---- codes: what they stand for, and their colours -------------------------------------------
const decodeTable = (block, { decades, linear }) => {
  const values = new Float64Array(256), reach = Math.asinh(1 / linear);
  for (let code = 0; code < HIDDEN; code++) {
    values[code] = block.signed
      ? linear * block.top * Math.sinh(((code - MIDDLE) / MIDDLE) * reach)
      : code === 0 ? 0
      : code === 1 ? (block.top * 10 ** -decades) / 2
      : block.top * 10 ** (((code - 2) * decades) / (HIDDEN - 3) - decades);
  }
  return values;
};
const encoder = (block, { decades, linear }) => {
  const reach = Math.asinh(1 / linear);
  return (x) => {
    if (block.signed) return MIDDLE + Math.round((Math.asinh(x / (linear * block.top)) / reach) * MIDDLE);
    if (x <= 0) return 0;
    const step = (Math.log10(x / block.top) + decades) * ((HIDDEN - 3) / decades);
    return step < -0.5 ? 1 : 2 + Math.round(Math.min(Math.max(step, 0), HIDDEN - 3));
  };
};
const VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725";
const LOSS_GAIN = "053061 2166ac 4393c3 92c5de d1e5f0 ffffff fddbc7 f4a582 d6604d b2182b 67001f";
const ramp = (stops) => {
  const found = stops.split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return (x) => {
    const at = Math.min(Math.max(x, 0), 1) * (found.length - 1), low = Math.min(Math.floor(at), found.length - 2);
    return found[low].map((one, i) => Math.round(one + (found[low + 1][i] - one) * (at - low)));
  };
};
const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const pixel = ([r, g, b]) => (little ? ((255 << 24) | (b << 16) | (g << 8) | r) : ((r << 24) | (g << 16) | (b << 8) | 255)) >>> 0;
const [viridis, lossGain] = [ramp(VIRIDIS), ramp(LOSS_GAIN)];
const WEIGHTS = Uint32Array.from({ length: 256 }, (_, code) =>
  pixel(code === 0 ? [255, 255, 255] : viridis((code - 1) / (HIDDEN - 2))));
const SIGNED = Uint32Array.from({ length: 256 }, (_, code) => pixel(lossGain(code / (2 * MIDDLE))));
