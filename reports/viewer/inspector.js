// Linked panes over the 8-bit codes of pooled maps: full attention, the pattern, their difference.
// It shares one scope with the other inspector.*.js. Nothing is ever read back from a canvas.
const PANE_KEYS = ["map", "head", "row", "part", "difference", "cells", "zoom"]; // in the address
const SMALLEST = 8; // bins that a pane shows when zoomed in
const root = document.getElementById("explorer");
const readJSON = (id) => JSON.parse(document.getElementById(id).textContent);

// ---- the panes of one map --------------------------------------------------------------------
class Explorer {
  constructor(index) {
    this.index = index;
    this.held = new Map(); // block number -> Promise of its codes
    this.state = { map: index.maps[0].key, head: index.head, plane: 0, row: 0, absolute: false, cells: "mean" };
    this.zoom = { x: 0, y: 0, size: 1 };
    this.at = null; // the cell under the crosshair, in bins
    this.build();
  }

  get map() { return this.index.maps.find((one) => one.key === this.state.map); }
  get plane() { return this.map.planes[this.state.plane]; }
  get kinds() { return ["mean", ...(this.head.full_max ? ["max"] : []), ...(this.plane.shares ? ["mask"] : [])]; }
  get head() { return this.plane.heads[this.map.heads.indexOf(this.state.head)]; }

  build() {
    const select = (name, key) => {
      const box = element("select", { "aria-label": name, "data-key": key });
      box.addEventListener("change", () => this.change(key === "map" || key === "layer" ? { map: box.value } : { [key]: Number(box.value) }));
      return [element("label", {}, element("span", {}, name), box), box];
    };
    const choice = (name, key, choices) => {
      const buttons = Object.entries(choices).map(([word, value]) => {
        const one = element("button", { type: "button", "data-key": key, "data-value": value }, word);
        one.addEventListener("click", () => this.change({ [key]: value }));
        return one;
      });
      return [element("div", { role: "group", class: "choice", "aria-label": name }, ...buttons), buttons];
    };
    const press = (sign, name, act) => {
      const one = element("button", { type: "button", "aria-label": name, title: name }, sign);
      one.addEventListener("click", act);
      return one;
    };
    const [mapLabel, mapBox] = select("Pattern", "map");
    const [layerLabel, layerBox] = select("Layer", "layer");
    const [headLabel, headBox] = select("Head", "head");
    const [planeLabel, planeBox] = select("Part", "plane");
    const [cells, cellButtons] = choice("Cells of the maps", "cells", { mean: "mean", max: "max", mask: "mask" });
    const [difference, differenceButtons] = choice("Difference", "absolute", { signed: false, absolute: true });
    const zooming = element("div", { role: "group", class: "choice", "aria-label": "Zoom" },
      press("\u2212", "Zoom out", () => this.zoomBy(2)),
      press("+", "Zoom in", () => this.zoomBy(1 / 2)),
      press("all", "Show the whole map", () => this.zoomBy(Infinity)));
    const worst = press("worst row", "Go to the row that differs most", () => this.goToWorst());
    Object.assign(this, { mapBox, mapLabel, layerBox, layerLabel, headBox, headLabel, planeBox, planeLabel, cells, cellButtons, differenceButtons });
    this.bins = element("p", { class: "bins" });
    this.panes = ["full", "effective", "difference"].map((kind) => this.pane(kind));
    this.margin = element("svg", { class: "margin", role: "img", preserveAspectRatio: "none" });
    this.panes[2].stage.append(this.margin);
    this.margin.addEventListener("click", (event) => this.choose(this.cellOf(event, this.margin).row));
    this.stages = element("div", { class: "stages", tabindex: "0", role: "group", "aria-describedby": "explorer-keys",
      "aria-label": "Maps: arrow keys move the crosshair, plus and minus zoom" }, ...this.panes.map((one) => one.box));
    this.stages.addEventListener("keydown", (event) => this.key(event));
    this.values = Object.fromEntries(["query", "key", "full", "effective", "difference", "absolute"].map((one) => [one, element("b")]));
    this.names = Object.fromEntries(Object.keys(this.values).map((one) => [one, element("span", {}, one)]));
    this.readout = element("div", { class: "readout", "aria-live": "polite", "aria-atomic": "true" },
      ...Object.keys(this.values).map((one) => element("div", { "data-name": one }, this.names[one], " ", this.values[one])));
    this.contexts = Object.fromEntries(["query", "key"].map((one) => [one, element("span", { class: "text" })]));
    this.contextLines = Object.entries(this.contexts).map(([name, place]) => element("p", { class: "context", "data-name": name }, element("b", {}, `${name} `), place));
    this.regionLine = element("div", { class: "region" });
    this.words = element("div", { class: "words" }, ...this.contextLines, this.regionLine);
    this.shade = element("path", { class: "shade" });
    this.profile = element("svg", { class: "profile", role: "img" });
    this.profileTitle = element("p", { class: "legend" });
    this.profile.addEventListener("pointermove", (event) => {
      const box = this.profile.getBoundingClientRect();
      const part = (event.clientX - box.left - 46) / (box.width - 56);
      this.point(this.selected, Math.floor(this.zoom.x + part * this.zoom.size), "off");
    });
    root.append(
      element("div", { class: "tools" }, mapLabel, layerLabel, headLabel, planeLabel, cells, difference, zooming, worst),
      this.bins, this.stages, this.readout, this.words, this.profileTitle, this.profile,
      element("p", { class: "keys", id: "explorer-keys" },
        "Click a row for its profile; drag, or wheel after a click, to zoom and move. Keys: arrows (Shift: 16 cells), "
        + "+ and \u2212, 0 for all, [ and ] for the head, d for the difference, c for the cells, w for the worst row. "
        + "Values are \u2018about\u2019: within about 3 % of what the map file (npz) holds."));
    new ResizeObserver(() => this.schedule()).observe(this.stages);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.schedule());
    new MutationObserver(() => this.schedule()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    addEventListener("hashchange", () => { if (location.hash !== this.written) this.open(location.hash); });
  }

  pane(kind) {
    const canvas = element("canvas", { role: "img" });
    const lines = ["across", "down", "chosen", "box"].map((one) => element("i", { class: one }));
    const ticks = element("div", { class: "ticks", "aria-hidden": "true" });
    const outline = element("svg", { class: "outline", "aria-hidden": "true", preserveAspectRatio: "none" }, element("path"), element("path", { class: "own" }));
    const stage = element("div", { class: "stage" }, canvas, outline, ...lines, ticks);
    const bar = element("canvas", { width: "256", height: "1", "aria-hidden": "true" });
    const limits = element("div", { class: "limits" });
    const title = element("h4");
    const box = element("div", { class: `pane ${kind}` }, title, stage, element("div", { class: "scale" }, bar), limits);
    const pane = { kind, canvas, stage, bar, limits, title, box, ticks, outline, across: lines[0], down: lines[1], chosen: lines[2], drawn: lines[3] };
    this.listen(pane);
    return pane;
  }

  listen({ stage, canvas, drawn }) {
    let from = null;
    const away = (event) => Math.hypot(event.clientX - from.x, event.clientY - from.y) > 4;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const whole = this.zoom.size >= this.plane.bins;
      from = { x: event.clientX, y: event.clientY, zoom: { ...this.zoom }, cell: this.cellOf(event, canvas),
        boxing: (whole || event.shiftKey) && event.pointerType !== "touch" };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const { row, column } = this.cellOf(event, canvas);
      this.point(row, column, "off");
      if (!from || !away(event)) return;
      const side = canvas.clientWidth;
      if (from.boxing) {
        const box = stage.getBoundingClientRect();
        const reach = Math.max(Math.abs(event.clientX - from.x), Math.abs(event.clientY - from.y));
        const left = (event.clientX < from.x ? from.x - reach : from.x) - box.left;
        const top = (event.clientY < from.y ? from.y - reach : from.y) - box.top;
        Object.assign(drawn.style, { display: "block", left: `${left}px`, top: `${top}px`, width: `${reach}px`, height: `${reach}px` });
        from.target = { x: from.zoom.x + (left / side) * from.zoom.size, y: from.zoom.y + (top / side) * from.zoom.size, size: (reach / side) * from.zoom.size };
      } else {
        const step = from.zoom.size / side;
        this.look({ x: from.zoom.x - (event.clientX - from.x) * step, y: from.zoom.y - (event.clientY - from.y) * step, size: from.zoom.size });
      }
    });
    const end = (event) => {
      drawn.style.display = "none";
      if (from && event.type === "pointerup") {
        if (!away(event)) { this.stages.focus({ preventScroll: true }); this.choose(from.cell.row); }
        else if (from.target) this.look(from.target);
      }
      from = null;
    };
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, end);
    canvas.addEventListener("pointerleave", () => { if (!from) this.point(this.selected, this.at?.column ?? 0, "off"); });
    canvas.addEventListener("dblclick", (event) => this.zoomBy(1 / 2, this.cellOf(event, canvas)));
    canvas.addEventListener("wheel", (event) => {
      const inUse = this.stages.contains(document.activeElement) || event.ctrlKey;
      if (!inUse || (event.deltaY > 0 && this.zoom.size >= this.plane.bins)) return; // the page scrolls
      event.preventDefault();
      this.zoomBy(2 ** (Math.max(-100, Math.min(100, event.deltaY)) / 160), this.cellOf(event, canvas));
    }, { passive: false });
  }

  // ---- state ---------------------------------------------------------------------------------
  get selected() { return Math.min(this.plane.bins - 1, Math.max(0, Math.floor((this.state.row - this.plane.start) / this.plane.bin))); }

  async open(hash) {
    const asked = new URLSearchParams(hash.slice(1));
    const map = this.index.maps.find((one) => one.key === asked.get("map"));
    if (!map && asked.has("map")) return;
    const length = (map ?? this.map).planes[0].length;
    const whole = (key, otherwise) => { const x = asked.get(key); return x !== null && /^\d+$/.test(x) ? Number(x) : otherwise; };
    const zoom = (asked.get("zoom") ?? "").split(",").map(Number);
    await this.set({
      map: (map ?? this.map).key, head: whole("head", this.state.head), plane: whole("part", 0),
      row: Math.min(length - 1, whole("row", this.index.row ?? Math.floor((3 * length) / 4))),
      absolute: asked.get("difference") === "absolute", cells: asked.get("cells") ?? "mean",
    }, zoom.length === 3 && zoom.every(Number.isFinite) ? { x: zoom[0], y: zoom[1], size: zoom[2] } : null);
    if (map) root.scrollIntoView({ block: "start", behavior: "instant" });
  }

  change(changes) {
    this.used = true; // from here on the address follows
    return this.set(changes).catch(failed);
  }

  async set(changes, zoom) {
    const before = this.plane, map = this.map;
    Object.assign(this.state, changes);
    if (!this.map.heads.includes(this.state.head)) this.state.head = this.map.heads[0];
    if (!this.map.planes[this.state.plane]) this.state.plane = 0;
    const { plane, head } = this;
    if (!this.kinds.includes(this.state.cells)) this.state.cells = "mean";
    if (zoom !== undefined || before.bins !== plane.bins || before.start !== plane.start || before.keyStart !== plane.keyStart || !this.codes) {
      this.zoom = { x: 0, y: 0, size: plane.bins };
      this.at = null;
    }
    const row = Math.min(Math.max(this.state.row, plane.start), plane.start + plane.length - 1);
    this.state.row = row;
    const cells = this.state.cells === "max" ? "_max" : "";
    const blocks = { full: head[`full${cells}`], effective: head[`effective${cells}`], difference: head.difference, absolute: head.absolute };
    const asked = (this.asked = {});
    const codes = {};
    const cellsOf = plane.bins ** 2, { tokens } = this.map;
    await Promise.all(Object.entries(blocks).map(async ([name, block]) => { codes[name] = await this.load(block.codes, cellsOf); }));
    if (plane.shares) codes.shares = await this.load(plane.shares, cellsOf);
    const labels = plane.regions ? await this.load(plane.regions, 2 * cellsOf, labelsOf) : null;
    if (asked !== this.asked) return; // something else was chosen in the meantime
    this.texts = tokens === null ? null : this.textsOf(tokens);
    Object.assign(this, { blocks, codes, labels, around: null });
    this.tables = Object.fromEntries(Object.entries(blocks).map(([name, block]) => [name, decodeTable(block, this.index)]));
    if (zoom) this.look(zoom);
    if (!this.at || map !== this.map) this.at = { row: this.selected, column: this.brightest(this.selected) };
    this.describe();
    this.choose(this.selected, row);
    this.draw();
  }

  load(block, count, made = (codes) => codes) {
    if (!this.held.has(block)) {
      this.held.set(block, (async () => {
        const bytes = Uint8Array.from(atob(readJSON(`codes-${block}`)), (sign) => sign.charCodeAt(0));
        const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
        const codes = new Uint8Array(await new Response(stream).arrayBuffer());
        if (codes.length !== count) throw new Error(`expected ${count} codes, got ${codes.length}`);
        return made(codes);
      })());
    }
    return this.held.get(block);
  }

  textsOf(block) {
    if (!this.held.has(block)) this.held.set(block, JSON.parse(readJSON(`codes-${block}`)));
    return this.held.get(block);
  }

  brightest(row) {
    const { bins } = this.plane;
    let best = 0;
    for (let column = 0; column < bins; column++) {
      const code = this.codes.full[row * bins + column];
      if (code !== HIDDEN && code > this.codes.full[row * bins + best]) best = column;
    }
    return best;
  }

  remember() {
    const { map, head, plane, row, absolute, cells } = this.state, { x, y, size } = this.zoom;
    const said = [`map=${encodeURIComponent(map)}`, `head=${head}`, `row=${row}`];
    if (plane) said.push(`part=${plane}`);
    if (absolute) said.push("difference=absolute");
    if (cells !== "mean") said.push(`cells=${cells}`);
    if (size < this.plane.bins) said.push(`zoom=${[x, y, size].map((one) => Number(one.toFixed(2))).join(",")}`);
    const others = location.hash.slice(1).split("&").filter((one) => one && !PANE_KEYS.includes(one.split("=")[0]));
    this.written = `#${[...others, ...said].join("&")}`;
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      try { history.replaceState(null, "", this.written); } catch { /* a frame without an address */ }
    }, 120);
  }

  // ---- moving --------------------------------------------------------------------------------
  cellOf(event, over) {
    const box = over.getBoundingClientRect(), { x, y, size } = this.zoom, { bins } = this.plane;
    const fit = (one) => Math.min(bins - 1, Math.max(0, Math.floor(one)));
    return { row: fit(y + ((event.clientY - box.top) / box.height) * size), column: fit(x + ((event.clientX - box.left) / box.width) * size) };
  }

  look({ x, y, size }) {
    const { bins } = this.plane;
    size = Math.min(bins, Math.max(Math.min(SMALLEST, bins), size));
    const fit = (one) => Math.min(bins - size, Math.max(0, one));
    this.zoom = { x: fit(x), y: fit(y), size };
    if (this.used) this.remember();
    this.schedule();
  }

  zoomBy(factor, around = this.at) {
    this.used = true;
    const { x, y, size } = this.zoom, { bins } = this.plane;
    const wanted = Math.min(bins, Math.max(Math.min(SMALLEST, bins), size * factor));
    const column = around.column + 0.5, row = around.row + 0.5;
    this.look({ x: column - ((column - x) / size) * wanted, y: row - ((row - y) / size) * wanted, size: wanted });
  }

  point(row, column, live) {
    const { bins } = this.plane;
    this.at = { row: Math.min(bins - 1, Math.max(0, row)), column: Math.min(bins - 1, Math.max(0, column)) };
    for (const one of [this.readout, this.words]) if (one.getAttribute("aria-live") !== live) one.setAttribute("aria-live", live);
    this.tell();
    this.cross();
  }

  choose(row, token) {
    const { plane } = this;
    if (token === undefined) { this.used = true; token = plane.start + row * plane.bin; }
    this.state.row = token;
    this.point(row, this.at.column, "polite");
    if (this.used) this.remember();
    this.drawProfile();
  }

  goToWorst() {
    const { variation } = this.head;
    const row = variation.indexOf(Math.max(...variation));
    this.choose(row);
    this.look({ ...this.zoom, y: row - this.zoom.size / 2 });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 16 : 1, { row, column } = this.at;
    const turn = (by) => {
      const { heads } = this.map;
      this.change({ head: heads[(heads.indexOf(this.state.head) + by + heads.length) % heads.length] });
    };
    const moves = {
      ArrowUp: () => this.step(row - far, column), ArrowDown: () => this.step(row + far, column),
      ArrowLeft: () => this.step(row, column - far), ArrowRight: () => this.step(row, column + far),
      "+": () => this.zoomBy(1 / 2), "=": () => this.zoomBy(1 / 2), "-": () => this.zoomBy(2), "0": () => this.zoomBy(Infinity),
      "[": () => turn(-1), "]": () => turn(1), w: () => this.goToWorst(),
      d: () => this.change({ absolute: !this.state.absolute }),
      c: () => this.change({ cells: this.kinds[(this.kinds.indexOf(this.state.cells) + 1) % this.kinds.length] }),
      Enter: () => this.choose(row), " ": () => this.choose(row),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }

  step(row, column) {
    this.point(row, column, "polite");
    if (this.at.row !== this.selected) this.choose(this.at.row);
    const { x, y, size } = this.zoom, inside = (at, low) => Math.min(Math.max(low, at + 1 - size), at);
    const [nextX, nextY] = [inside(this.at.column, x), inside(this.at.row, y)];
    if (nextX !== x || nextY !== y) this.look({ x: nextX, y: nextY, size });
  }

  // ---- words ---------------------------------------------------------------------------------
  describe() {
    const { map, plane, state } = this;
    const name = map.asked.split("[")[0];
    root.style.setProperty("--ours-light", map.ink);
    root.style.setProperty("--ours-dark", map.bright);
    this.describeMaps();
    this.headBox.replaceChildren(...map.heads.map((one) => element("option", { value: one }, `head ${one}`)));
    this.headBox.value = state.head;
    this.headLabel.hidden = map.heads.length < 2;
    this.planeBox.replaceChildren(...map.planes.map((one, place) => element("option", { value: place }, one.name)));
    this.planeBox.value = state.plane;
    this.planeLabel.hidden = map.planes.length < 2;
    this.cells.hidden = this.kinds.length < 2;
    for (const one of this.cellButtons) one.hidden = !this.kinds.includes(one.dataset.value);
    this.cellButtons.forEach((one) => one.setAttribute("aria-pressed", state.cells === one.dataset.value));
    this.differenceButtons.forEach((one) => one.setAttribute("aria-pressed", String(state.absolute) === one.dataset.value));
    this.stages.classList.toggle("labelled", this.texts !== null && plane.bin === 1);
    for (const one of this.contextLines) one.hidden = this.texts === null;
    this.regionLine.hidden = this.labels === null && state.cells !== "mask";
    const titles = ["full attention", name, state.absolute ? "|difference|" : "difference"];
    const asides = ["", state.cells === "mask" ? "pairs that may have weight" : map.asked.slice(name.length), state.absolute ? "taken before pooling" : `${name} \u2212 full`];
    this.names.effective.textContent = name;
    this.names.absolute.textContent = "|difference|";
    this.panes.forEach((pane, place) => {
      pane.title.replaceChildren(titles[place], element("small", {}, ` ${asides[place]}`));
      pane.canvas.setAttribute("aria-label", `${titles[place]} ${asides[place]}, ${map.layer === null ? "" : `layer ${map.layer}, `}${map.where}, head ${state.head}, ${plane.bins} by ${plane.bins} cells`);
      this.drawBar(pane);
    });
  }

  describeMaps() {
    const { map, index: { maps } } = this, kind = (one) => `${one.asked}\n${one.name}\n${one.where}`;
    const option = (one, text) => element("option", { value: one.key }, text);
    const groups = new Map();
    for (const one of maps) groups.set(kind(one), [...(groups.get(kind(one)) ?? []), one]);
    const same = [...groups.values()].map((group) => group.find((one) => one.layer === map.layer) ?? group[0]);
    const many = new Set(maps.map((one) => one.where)).size > 1;
    this.mapBox.replaceChildren(...same.map((one) => option(one, many ? `${one.name} \u00b7 ${one.where}` : one.name)));
    this.mapBox.value = map.key;
    this.mapLabel.hidden = same.length < 2;
    const layers = groups.get(kind(map));
    this.layerBox.replaceChildren(...layers.map((one) => option(one, one.layer === null ? "none" : `layer ${one.layer}`)));
    this.layerBox.value = map.key;
    this.layerLabel.hidden = layers.length < 2;
  }

  // The tokens of a cell's queries or keys: [first, end).
  range(cell, start) {
    const { plane } = this, at = cell * plane.bin;
    return [start + at, start + Math.min(plane.length, at + plane.bin)];
  }

  saidOf(name, at) {
    const { bins } = this.plane, code = this.codes[name][at.row * bins + at.column], block = this.blocks[name];
    if (code === HIDDEN) return { text: this.map.causal && this.range(at.column, this.plane.keyStart)[0] >= this.range(at.row, this.plane.start)[1] ? "not visible" : "not a number", value: NaN };
    const value = this.tables[name][code];
    if (!block.signed && code === 1) return { text: `below ${number(2 * value)}`, value };
    const sign = name === "difference" && value > 0 ? "+" : "";
    return { text: value === 0 ? (name === "full" || name === "effective" ? "no weight" : "about 0") : `about ${sign}${number(value)}`, value };
  }

  tell() {
    const { plane, at } = this;
    for (const [name, cell, start] of [["query", at.row, plane.start], ["key", at.column, plane.keyStart]]) {
      const [first, end] = this.range(cell, start);
      this.values[name].textContent = span(first, end - 1);
      if (this.texts) this.contexts[name].replaceChildren(...inContext(this.texts, first, end));
    }
    for (const name of ["full", "effective", "difference", "absolute"]) {
      const { text, value } = this.saidOf(name, at);
      this.values[name].textContent = text;
      this.values[name].dataset.value = value;
    }
    this.readout.dataset.row = at.row;
    this.readout.dataset.column = at.column;
    this.outline();
  }

  // ---- regions -------------------------------------------------------------------------------
  outline() {
    const { at, labels, plane: { bins } } = this, said = [];
    if (this.state.cells === "mask") said.push(this.shareWords(at));
    if (labels) {
      const label = labels[at.row * bins + at.column];
      if (label < DIRECT) {
        if (this.around?.row !== at.row || this.around?.label !== label) this.around = this.regionAt(at.row, label);
        said.push(...this.around.said);
      } else {
        this.around = null;
        said.push({ [DIRECT]: "This key is read directly.", [MIXED]: `Several regions share this cell${this.map.planes.length > 1 ? "; the 1:1 parts show them apart" : ""}.`, [UNSEEN]: "This cell is not seen." }[label]);
      }
    }
    this.regionLine.replaceChildren(...said);
    this.regionLine.dataset.mass = this.around?.mass ?? "";
    this.regionLine.dataset.keys = this.around?.keys ?? "";
    this.drawOutline();
  }

  shareWords({ row, column }) {
    const code = this.codes.shares[row * this.plane.bins + column];
    const said = code === HIDDEN ? "none is visible" : code === 0 ? "none" : code === ALL ? "all" : `about ${number((100 * code) / ALL)} %`;
    return element("span", { class: "share" }, `Pairs of this cell that may have weight: ${said}. `);
  }

  regionAt(row, label) {
    const { plane, plane: { bins }, labels } = this, runs = runsOf(labels, bins, row, label);
    const local = { full: [], effective: [] };
    let count = 0;
    for (const [first, end] of runs) {
      for (let column = first; column < end; column++) {
        const [start, stop] = this.range(column, plane.keyStart);
        count += stop - start;
        for (const name of ["full", "effective"]) {
          const value = this.tables[name][this.codes[name][row * bins + column]];
          local[name].push((Number.isFinite(value) ? value : 0) * (stop - start));
        }
      }
    }
    const sum = (values) => values.reduce((a, b) => a + b, 0), mass = sum(local.effective);
    const places = runs.map(([first, end]) => span(this.range(first, plane.keyStart)[0], this.range(end - 1, plane.keyStart)[1] - 1));
    const keys = places.length > 4 ? `${places.slice(0, 3).join(", ")} \u2026 ${places.at(-1)}` : places.join(", ");
    const [first, end] = this.range(row, plane.start), query = Math.min(first + Math.floor(plane.bin / 2), plane.start + plane.length - 1);
    const kind = this.state.cells === "max" ? "at most" : "about";
    const cut = plane !== this.map.planes[0] && (runs[0][0] === 0 || runs.at(-1)[1] === bins) ? " in this part" : "";
    const said = [element("span", {}, element("b", {}, `Region of keys ${keys}`), ` (${count} tokens${cut}${plane.bin > 1 ? `, as query ${query} sees it` : ""}): `
      + `mass ${kind} ${number(mass)}, where full attention gives these keys ${number(sum(local.full))}${end - first > 1 ? ", mean of the row\u2019s queries" : ""}. `),
      element("span", { class: "locally" }, "Inside it: ", localShape(local.full, local.effective))];
    return { row, label, runs, mass, keys, said, boxes: outlineOf(labels, bins, row, label, runs) };
  }

  drawOutline() {
    const { zoom: { x, y, size }, around } = this, shape = (boxes) => boxes.map(({ left, right, top, bottom }) => `M${left} ${top}H${right}V${bottom}H${left}Z`).join("");
    const row = around && around.runs.slice(0, MOST_RUNS).map(([left, right]) => ({ left, right, top: around.row, bottom: around.row + 1 }));
    for (const { outline } of this.panes) {
      outline.setAttribute("viewBox", `${x} ${y} ${size} ${size}`);
      outline.firstChild.setAttribute("d", around ? shape(around.boxes) : "");
      outline.lastChild.setAttribute("d", around ? shape(row) : "");
    }
    const across = (column) => (46 + ((column - x) / size) * ((this.profileWidth ?? 600) - 56));
    const clip = (column) => Math.min(x + size, Math.max(x, column));
    const inside = (around?.runs ?? []).filter(([first, end]) => end > x && first < x + size);
    this.shade.setAttribute("d", inside.map(([first, end]) => `M${across(clip(first)).toFixed(1)} 8H${across(clip(end)).toFixed(1)}V164H${across(clip(first)).toFixed(1)}Z`).join(""));
  }

  // ---- drawing -------------------------------------------------------------------------------
  schedule() {
    if (this.waiting || !this.codes) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  get dark() {
    const { theme } = document.documentElement.dataset;
    return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  draw() {
    if (!this.codes) return;
    const started = performance.now();
    const side = this.panes[0].stage.clientWidth;
    if (!side) return;
    const device = Math.max(1, Math.round(side * devicePixelRatio));
    for (const pane of this.panes) {
      if (pane.canvas.width !== device) Object.assign(pane.canvas, { width: device, height: device });
      pane.canvas.style.width = pane.canvas.style.height = `${device / devicePixelRatio}px`;
      pane.canvas.style.touchAction = this.zoom.size < this.plane.bins ? "none" : "pan-y pinch-zoom";
      this.paint(pane, device);
      this.drawTicks(pane, side);
    }
    const { plane } = this, cells = this.zoom.size / device;
    const drawn = cells > 1 ? `; pooled further to about ${Math.round(cells * plane.bin)} tokens a pixel` : "";
    const how = plane.bin === 1 ? "every pair by itself" : `the ${this.state.cells === "max" ? "maximum" : "mean"} over ${plane.bin} \u00d7 ${plane.bin} tokens`;
    const part = { max: "; differences are means", mask: "; the mask says where the pattern may have weight: in none, some or all of a cell\u2019s pairs", mean: "" }[this.state.cells];
    const { layer, where } = this.map;
    const alike = this.index.maps.length > 1 ? "maps here" : this.map.heads.length > 1 ? "heads" : "";
    const shared = alike && ` \u00b7 limits shared by all ${alike}`;
    this.bins.textContent = `${layer === null ? "" : `layer ${layer}, `}head ${this.state.head} \u00b7 ${where} \u00b7 a cell is ${how}${drawn}${part} \u00b7 ${plane.bins} \u00d7 ${plane.bins} cells${shared}`;
    this.cross();
    this.drawOutline();
    this.drawMargin();
    this.drawProfile();
    root.dataset.drawMs = (performance.now() - started).toFixed(2);
  }

  paint(pane, device) {
    const masked = pane.kind === "effective" && this.state.cells === "mask";
    const name = pane.kind === "difference" && this.state.absolute ? "absolute" : pane.kind;
    const codes = masked ? this.codes.shares : this.codes[name], { bins } = this.plane;
    const { x, y, size } = this.zoom, colours = masked ? SHARES : this.blocks[name].signed ? SIGNED : WEIGHTS;
    const edges = (low) => Int32Array.from({ length: device + 1 }, (_, i) => Math.min(bins, Math.floor(low + (i * size) / device + 1e-9)));
    const [columns, rows] = [edges(x), edges(y)];
    const [ground, hatch] = (this.dark ? [[34, 39, 46], [50, 57, 66]] : [[238, 240, 243], [222, 226, 231]]).map(pixel);
    const image = (pane.image = pane.image?.width === device ? pane.image : new ImageData(device, device));
    const out = new Uint32Array(image.data.buffer), thick = Math.max(1, Math.round(devicePixelRatio)), period = 7 * thick;
    const pooled = size <= device ? null : masked ? shareOf(codes, bins) : this.pooler(name);
    for (let i = 0, to = 0; i < device; i++) {
      for (let j = 0; j < device; j++, to++) {
        const code = pooled ? pooled(rows[i], rows[i + 1], columns[j], columns[j + 1]) : codes[rows[i] * bins + columns[j]];
        out[to] = code === HIDDEN ? ((i + j) % period < thick ? hatch : ground) : colours[code];
      }
    }
    pane.canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // The code of several cells as one: the highest, or that of the mean over their visible pairs.
  pooler(name) {
    const codes = this.codes[name], values = this.tables[name], encode = encoder(this.blocks[name], this.index);
    const { plane, map: { causal } } = this, { bins } = plane;
    const highest = this.state.cells === "max" && (name === "full" || name === "effective");
    const tokensOf = Float64Array.from({ length: bins }, (_, at) => Math.min(plane.bin, plane.length - at * plane.bin));
    return (top, bottom, left, right) => {
      let best = -1, mass = 0, pairs = 0;
      for (let row = top; row < bottom; row++) {
        const size = tokensOf[row];
        for (let column = left, at = row * bins + left; column < right; column++, at++) {
          const code = codes[at];
          if (code === HIDDEN) continue;
          if (code > best) best = code;
          const weight = causal && row === column ? (size * (size + 1)) / 2 : size * tokensOf[column];
          mass += values[code] * weight;
          pairs += weight;
        }
      }
      return best < 0 ? HIDDEN : highest || bottom - top + right - left === 2 ? best : encode(mass / pairs);
    };
  }

  drawBar(pane) {
    const swatch = (kind, word) => element("span", { class: "swatch" }, element("i", { class: kind }), word);
    const masked = pane.kind === "effective" && this.state.cells === "mask";
    pane.box.classList.toggle("masked", masked);
    if (masked) {
      pane.limits.replaceChildren(element("p", {}, swatch("none", "no pair"), swatch("some", "some pairs"), swatch("every", "all pairs"), swatch("hidden", "not visible")));
      return;
    }
    const absolute = pane.kind === "difference" && this.state.absolute;
    const { signed, top } = this.blocks[absolute ? "absolute" : pane.kind];
    const image = new ImageData(256, 1), out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < 256; i++) out[i] = signed ? SIGNED[absolute ? MIDDLE + (i >> 1) : Math.min(254, i)] : WEIGHTS[Math.max(1, Math.min(254, i))];
    pane.bar.getContext("2d").putImageData(image, 0, 0);
    const { linear } = this.index, middle = linear * top * Math.sinh(Math.asinh(1 / linear) / 2);
    const ends = signed
      ? absolute ? ["0", number(middle), number(top)] : [number(-top), "0", `+${number(top)}`]
      : [number(top * 10 ** -this.index.decades), number(top * 10 ** (-this.index.decades / 2)), number(top)];
    pane.limits.replaceChildren(element("div", {}, ...ends.map((one) => element("span", {}, one))),
      element("p", {}, swatch("none", signed ? "no difference" : "no weight"), swatch("hidden", "not visible"), signed ? "asinh scale" : "log scale"));
  }

  ticksOf(low, size, start) {
    const { plane } = this, [first, last] = [start + low * plane.bin, start + (low + size) * plane.bin];
    let step = 1;
    while ((last - first) / step > 4.5) step *= 2;
    const found = [];
    for (let at = Math.ceil(first / step) * step; at <= Math.min(last, start + plane.length); at += step) found.push([at, (at - first) / (last - first)]);
    return found;
  }

  // The text of every token along a side, where there is room for it.
  labelsOf(low, size, start, side) {
    const found = [];
    if (!this.texts || this.plane.bin > 1 || side / size < 11) return null;
    for (let cell = Math.ceil(low - 0.5); cell + 0.5 < low + size; cell++) found.push([visibleText(this.texts[start + cell] ?? ""), (cell + 0.5 - low) / size]);
    return found;
  }

  drawTicks(pane, side) {
    const { x, y, size } = this.zoom, { start, keyStart } = this.plane;
    const tick = (kind, [at, part]) => {
      const one = element("span", { class: kind }, counted(at));
      one.style[kind === "key" ? "left" : "top"] = `${part * side}px`;
      return one;
    };
    const word = (kind, [text, part]) => {
      const one = element("span", { class: `${kind} word` }, element("bdi", {}, text));
      one.style[kind === "key" ? "left" : "top"] = `${part * side}px`;
      return one;
    };
    const sides = [["key", x, keyStart], ["query", y, start]].flatMap(([kind, low, from]) =>
      this.labelsOf(low, size, from, side)?.map((one) => word(kind, one)) ?? this.ticksOf(low, size, from).map((one) => tick(kind, one)));
    pane.ticks.replaceChildren(...sides);
  }

  cross() {
    const { x, y, size } = this.zoom, side = this.panes[0].canvas.width / devicePixelRatio;
    const place = (at, low) => ((at - low) / size) * side, cell = side / size;
    const [across, down] = [place(this.at.row + 0.5, y), place(this.at.column + 0.5, x)];
    const chosen = place(this.selected, y), thick = Math.max(2, cell);
    for (const pane of this.panes) {
      pane.across.style.transform = `translateY(${across}px)`;
      pane.down.style.transform = `translateX(${down}px)`;
      pane.across.hidden = across < 0 || across > side;
      pane.down.hidden = down < 0 || down > side;
      pane.chosen.hidden = chosen + thick < 0 || chosen > side;
      pane.chosen.style.transform = `translateY(${chosen + cell / 2}px)`;
    }
    if (this.marker) {
      const part = (this.at.column + 0.5 - x) / size;
      this.marker.style.display = part >= 0 && part <= 1 ? "" : "none";
      this.marker.setAttribute("transform", `translate(${46 + part * (this.profileWidth - 56)} 0)`);
    }
  }

  drawMargin() {
    const { variation } = this.head, { y, size } = this.zoom, top = Math.max(...variation, 1e-12);
    this.margin.setAttribute("viewBox", `0 ${y} 1 ${size}`);
    this.margin.setAttribute("aria-label", `Total variation by row, at most ${number(Math.max(...variation))}`);
    const path = variation.map((one, row) => `V${row}H${(one / top).toFixed(3)}`).join("");
    this.margin.replaceChildren(element("path", { d: `M0 0${path}V${variation.length}H0Z` }));
    this.marginWord ??= this.panes[2].stage.appendChild(element("small", { class: "variation" }));
    this.marginWord.textContent = `TV \u2264\n${number(top)}`;
    this.marginWord.title = "Total variation of each row between the pattern and full attention";
  }

  drawProfile() {
    const { plane, selected, zoom } = this, { bins } = plane, width = Math.max(240, this.profile.clientWidth || 600), height = 190;
    const [left, right, up, low] = [46, 10, 8, 26], { top } = this.blocks.full, decades = this.index.decades;
    this.profileWidth = width;
    const acrossOf = (column) => left + ((column - zoom.x) / zoom.size) * (width - left - right);
    const downOf = (value) => up + (Math.min(decades, Math.max(0, -Math.log10(value / top))) / decades) * (height - up - low);
    const trace = (name) => {
      let path = "", pen = false;
      for (let column = Math.floor(zoom.x); column < Math.min(bins, Math.ceil(zoom.x + zoom.size)); column++) {
        const code = this.codes[name][selected * bins + column], value = code === HIDDEN ? 0 : this.tables[name][code];
        if (value <= 0) { pen = false; continue; }
        const [a, b] = [acrossOf(Math.max(zoom.x, column)), acrossOf(Math.min(zoom.x + zoom.size, column + 1))].map((one) => one.toFixed(1));
        path += `${pen ? "V" : `M${a} `}${downOf(value).toFixed(1)}H${b}`;
        pen = true;
      }
      return element("path", { class: name, d: path });
    };
    const parts = [];
    for (let power = Math.floor(Math.log10(top)), shown = 0; shown < decades; power -= 1, shown++) {
      const at = downOf(10 ** power).toFixed(1);
      parts.push(element("line", { x1: left, x2: width - right, y1: at, y2: at }));
      if (shown % 2 === 0) parts.push(element("text", { x: left - 6, y: Number(at) + 3.5, "text-anchor": "end" }, `1e${power}`.replace("-", "\u2212")));
    }
    for (const [at, part] of this.ticksOf(zoom.x, zoom.size, plane.keyStart)) {
      const anchor = part > 0.97 ? "end" : "middle";
      parts.push(element("text", { x: left + part * (width - left - right), y: height - 9, "text-anchor": anchor }, counted(at)));
    }
    this.marker = element("g", { class: "marker" }, element("line", { x1: 0, x2: 0, y1: up, y2: height - low }));
    this.profile.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.profile.replaceChildren(this.shade, ...parts, trace("full"), trace("effective"), this.marker);
    const [first, last] = [plane.start + selected * plane.bin, plane.start + Math.min(plane.length, (selected + 1) * plane.bin) - 1];
    const said = `${first === last ? "query" : "queries"} ${span(first, last)}`;
    const name = this.map.asked.split("[")[0], variation = number(this.head.variation[selected]);
    this.profile.setAttribute("aria-label", `Weights of ${said} over the keys, full attention and ${name}; total variation ${variation}`);
    this.profileTitle.replaceChildren(element("b", {}, `Row profile, ${said}`), element("span", { class: "key-full" }, "full attention"),
      element("span", { class: "key-effective" }, name), element("span", {}, `total variation ${variation}`));
    this.cross();
  }
}

const start = async () => {
  const still = [...document.querySelectorAll("details.still")];
  root.hidden = false;
  const explorer = new Explorer(readJSON("explorer-index"));
  await explorer.open(location.hash.includes("map=") ? location.hash : "");
  for (const one of still) one.open = false;
  addEventListener("beforeprint", () => still.forEach((one) => { one.open = true; }));
  root.dataset.ready = performance.now().toFixed(0);
};
const failed = (error) => {
  for (const one of document.querySelectorAll("details.still")) one.open = true;
  root.replaceChildren(element("p", { class: "empty" }, `The interactive maps could not be opened (${error.message}); the figures below show them.`));
};
if (root && "DecompressionStream" in window) start().catch(failed);
