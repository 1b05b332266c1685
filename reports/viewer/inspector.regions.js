// Regions of a pattern and the pairs that it may weigh, as reports/structure.py says them.
const DIRECT = 65533, MIXED = 65534, UNSEEN = 65535, ALL = 254;
const MOST_RUNS = 64; // of one region that are outlined

const labelsOf = (bytes) => {
  const cells = bytes.length / 2, labels = new Uint16Array(cells);
  for (let i = 0; i < cells; i++) labels[i] = bytes[i] | (bytes[cells + i] << 8);
  return labels;
};

// The cells of one row that lie in a region, as [first, end) pairs.
const runsOf = (labels, bins, row, label) => {
  const runs = [];
  for (let column = 0, open = false; column < bins; column++) {
    const inside = labels[row * bins + column] === label;
    if (inside && !open) runs.push([column, column + 1]);
    else if (inside) runs[runs.length - 1][1] = column + 1;
    open = inside;
  }
  return runs;
};

// These runs over all neighbouring rows that read the same region.
const outlineOf = (labels, bins, row, label, runs) => runs.slice(0, MOST_RUNS).map(([left, right]) => {
  const same = (at) => labels[at * bins + left] === label && labels[at * bins + right - 1] === label;
  let top = row, bottom = row + 1;
  while (top > 0 && same(top - 1)) top--;
  while (bottom < bins && same(bottom)) bottom++;
  return { left, right, top, bottom };
});

const NOTHING = pixel([255, 255, 255]), PARTIAL = pixel([159, 171, 184]), FULL = pixel([44, 95, 138]);
const SHARES = Uint32Array.from({ length: 256 }, (_, code) => (code === 0 ? NOTHING : code === ALL ? FULL : PARTIAL));

// Several cells as one: all of their pairs, none, or some.
const shareOf = (codes, bins) => (top, bottom, left, right) => {
  let found = HIDDEN;
  for (let row = top; row < bottom; row++) {
    for (let at = row * bins + left; at < row * bins + right; at++) {
      const code = codes[at];
      if (code === HIDDEN || code === found) continue;
      if (found !== HIDDEN || (code > 0 && code < ALL)) return 127;
      found = code;
    }
  }
  return found;
};

// How the weight of a region lies on its keys: full attention as bars, the pattern as a line.
const localShape = (full, ours) => {
  const width = 180, height = 34, count = full.length, step = width / count;
  const share = (values) => { const sum = values.reduce((a, b) => a + b, 0) || 1; return values.map((one) => one / sum); };
  const [a, b] = [share(full), share(ours)], top = Math.max(...a, ...b) || 1;
  const level = (one) => (height - (one / top) * (height - 1)).toFixed(1);
  const bars = a.map((one, i) => `M${(i * step).toFixed(1)} ${height}V${level(one)}h${step.toFixed(1)}V${height}`).join("");
  const line = b.map((one, i) => `${i ? "V" : `M0 `}${level(one)}H${((i + 1) * step).toFixed(1)}`).join("");
  return element("svg", { class: "local", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", preserveAspectRatio: "none" },
    element("path", { class: "full", d: bars }), element("path", { class: "effective", d: line }));
};
