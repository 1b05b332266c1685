"use strict";
// Linked panes over the 8-bit codes of pooled maps: full attention, the pattern, their difference.
// Codes come from reports/codes.py. Nothing is ever read back from a canvas.
{
  const HIDDEN = 255, MIDDLE = 127, SMALLEST = 8; // SMALLEST: bins that a pane shows when zoomed in
  const root = document.getElementById("explorer");
  const readJSON = (id) => JSON.parse(document.getElementById(id).textContent);

  const element = (tag, settings = {}, ...children) => {
    const one = document.createElementNS(
      ["svg", "path", "line", "text", "g"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
    for (const [name, value] of Object.entries(settings)) one.setAttribute(name, value);
    one.append(...children);
    return one;
  };

  // ---- numbers as text -------------------------------------------------------------------------
  const tokens = (x) => (x >= 1024 && x % 1024 === 0 ? `${x / 1024}k` : String(x));
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

  // ---- the panes of one map --------------------------------------------------------------------
  class Explorer {
    constructor(index) {
      this.index = index;
      this.held = new Map(); // block number -> Promise of its codes
      this.state = { map: index.maps[0].key, head: index.head, plane: 0, row: 0, absolute: false, max: false };
      this.zoom = { x: 0, y: 0, size: 1 };
      this.at = null; // the cell under the crosshair, in bins
      this.build();
    }

    get map() { return this.index.maps.find((one) => one.key === this.state.map); }
    get plane() { return this.map.planes[this.state.plane]; }
    get head() { return this.plane.heads[this.map.heads.indexOf(this.state.head)]; }

    build() {
      const select = (name, key) => {
        const box = element("select", { "aria-label": name, "data-key": key });
        box.addEventListener("change", () => this.change({ [key]: key === "map" ? box.value : Number(box.value) }));
        return [element("label", {}, element("span", {}, name), box), box];
      };
      const choice = (name, key, words) => {
        const buttons = words.map((word, place) => {
          const one = element("button", { type: "button", "data-key": key }, word);
          one.addEventListener("click", () => this.change({ [key]: place === 1 }));
          return one;
        });
        return [element("div", { role: "group", class: "choice", "aria-label": name }, ...buttons), buttons];
      };
      const press = (sign, name, act) => {
        const one = element("button", { type: "button", "aria-label": name, title: name }, sign);
        one.addEventListener("click", act);
        return one;
      };
      const [mapLabel, mapBox] = select("Map", "map");
      const [headLabel, headBox] = select("Head", "head");
      const [planeLabel, planeBox] = select("Part", "plane");
      const [cells, cellButtons] = choice("Cells of the maps", "max", ["mean", "max"]);
      const [difference, differenceButtons] = choice("Difference", "absolute", ["signed", "absolute"]);
      const zooming = element("div", { role: "group", class: "choice", "aria-label": "Zoom" },
        press("\u2212", "Zoom out", () => this.zoomBy(2)),
        press("+", "Zoom in", () => this.zoomBy(1 / 2)),
        press("all", "Show the whole map", () => this.zoomBy(Infinity)));
      const worst = press("worst row", "Go to the row that differs most", () => this.goToWorst());
      Object.assign(this, { mapBox, headBox, planeBox, planeLabel, cells, cellButtons, differenceButtons });
      mapBox.append(...this.index.maps.map((one) => element("option", { value: one.key }, `${one.name} \u00b7 ${one.about}`)));
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
      this.profile = element("svg", { class: "profile", role: "img" });
      this.profileTitle = element("p", { class: "legend" });
      this.profile.addEventListener("pointermove", (event) => {
        const box = this.profile.getBoundingClientRect();
        const part = (event.clientX - box.left - 46) / (box.width - 56);
        this.point(this.selected, Math.floor(this.zoom.x + part * this.zoom.size), "off");
      });
      root.append(
        element("div", { class: "tools" }, mapLabel, headLabel, planeLabel, cells, difference, zooming, worst),
        this.bins, this.stages, this.readout, this.profileTitle, this.profile,
        element("p", { class: "keys", id: "explorer-keys" },
          "Click a row for its profile; drag, or wheel after a click, to zoom and move. Keys: arrows (Shift: 16 cells), "
          + "+ and \u2212, 0 for all, [ and ] for the head, d for the difference, w for the worst row. "
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
      const stage = element("div", { class: "stage" }, canvas, ...lines, ticks);
      const bar = element("canvas", { width: "256", height: "1", "aria-hidden": "true" });
      const limits = element("div", { class: "limits" });
      const title = element("h4");
      const box = element("div", { class: `pane ${kind}` }, title, stage, element("div", { class: "scale" }, bar), limits);
      const pane = { kind, canvas, stage, bar, limits, title, box, ticks, across: lines[0], down: lines[1], chosen: lines[2], drawn: lines[3] };
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
        absolute: asked.get("difference") === "absolute", max: asked.get("cells") === "max",
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
      if (this.state.max && !head.full_max) this.state.max = false;
      if (zoom !== undefined || before.bins !== plane.bins || before.start !== plane.start || !this.codes) {
        this.zoom = { x: 0, y: 0, size: plane.bins };
        this.at = null;
      }
      const row = Math.min(Math.max(this.state.row, plane.start), plane.start + plane.length - 1);
      this.state.row = row;
      const cells = this.state.max ? "_max" : "";
      const blocks = { full: head[`full${cells}`], effective: head[`effective${cells}`], difference: head.difference, absolute: head.absolute };
      const asked = (this.asked = {});
      const codes = {};
      await Promise.all(Object.entries(blocks).map(async ([name, block]) => { codes[name] = await this.load(block, plane.bins); }));
      if (asked !== this.asked) return; // something else was chosen in the meantime
      Object.assign(this, { blocks, codes });
      this.tables = Object.fromEntries(Object.entries(blocks).map(([name, block]) => [name, decodeTable(block, this.index)]));
      if (zoom) this.look(zoom);
      if (!this.at || map !== this.map) this.at = { row: this.selected, column: this.brightest(this.selected) };
      this.describe();
      this.choose(this.selected, row);
      this.draw();
    }

    load(block, bins) {
      if (!this.held.has(block.codes)) {
        this.held.set(block.codes, (async () => {
          const text = readJSON(`codes-${block.codes}`);
          const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
          const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
          const codes = new Uint8Array(await new Response(stream).arrayBuffer());
          if (codes.length !== bins * bins) throw new Error(`expected ${bins * bins} codes, got ${codes.length}`);
          return codes;
        })());
      }
      return this.held.get(block.codes);
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
      const { map, head, plane, row, absolute, max } = this.state, { x, y, size } = this.zoom;
      const said = [`map=${encodeURIComponent(map)}`, `head=${head}`, `row=${row}`];
      if (plane) said.push(`part=${plane}`);
      if (absolute) said.push("difference=absolute");
      if (max) said.push("cells=max");
      if (size < this.plane.bins) said.push(`zoom=${[x, y, size].map((one) => Number(one.toFixed(2))).join(",")}`);
      this.written = `#${said.join("&")}`;
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
      if (this.readout.getAttribute("aria-live") !== live) this.readout.setAttribute("aria-live", live);
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
      this.mapBox.value = map.key;
      this.headBox.replaceChildren(...map.heads.map((one) => element("option", { value: one }, `head ${one}`)));
      this.headBox.value = state.head;
      this.planeBox.replaceChildren(...map.planes.map((one, place) => element("option", { value: place }, one.name)));
      this.planeBox.value = state.plane;
      this.planeLabel.hidden = map.planes.length < 2;
      this.cells.hidden = !this.head.full_max;
      this.cellButtons.forEach((one, place) => one.setAttribute("aria-pressed", state.max === (place === 1)));
      this.differenceButtons.forEach((one, place) => one.setAttribute("aria-pressed", state.absolute === (place === 1)));
      const titles = ["full attention", name, state.absolute ? "|difference|" : "difference"];
      const asides = ["", map.asked.slice(name.length), state.absolute ? "taken before pooling" : `${name} \u2212 full`];
      this.names.effective.textContent = name;
      this.names.absolute.textContent = "|difference|";
      this.panes.forEach((pane, place) => {
        pane.title.replaceChildren(titles[place], element("small", {}, ` ${asides[place]}`));
        pane.canvas.setAttribute("aria-label", `${titles[place]} ${asides[place]}, ${map.about}, head ${state.head}, ${plane.bins} by ${plane.bins} cells`);
        this.drawBar(pane);
      });
    }

    saidOf(name, at) {
      const { bins } = this.plane, code = this.codes[name][at.row * bins + at.column], block = this.blocks[name];
      if (code === HIDDEN) return { text: this.map.causal && at.column > at.row ? "not visible" : "not a number", value: NaN };
      const value = this.tables[name][code];
      if (!block.signed && code === 1) return { text: `below ${number(2 * value)}`, value };
      const sign = name === "difference" && value > 0 ? "+" : "";
      return { text: value === 0 ? (name === "full" || name === "effective" ? "no weight" : "about 0") : `about ${sign}${number(value)}`, value };
    }

    tell() {
      const { plane, at } = this;
      const range = (one) => [plane.start + one * plane.bin, plane.start + Math.min(plane.length, (one + 1) * plane.bin) - 1];
      this.values.query.textContent = span(...range(at.row));
      this.values.key.textContent = span(...range(at.column));
      for (const name of ["full", "effective", "difference", "absolute"]) {
        const { text, value } = this.saidOf(name, at);
        this.values[name].textContent = text;
        this.values[name].dataset.value = value;
      }
      this.readout.dataset.row = at.row;
      this.readout.dataset.column = at.column;
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
      const how = plane.bin === 1 ? "every pair by itself" : `the ${this.state.max ? "maximum" : "mean"} over ${plane.bin} \u00d7 ${plane.bin} tokens`;
      const part = this.state.max ? "; differences are means" : "";
      this.bins.textContent = `A cell is ${how}${drawn}${part} \u00b7 ${plane.bins} \u00d7 ${plane.bins} cells \u00b7 limits shared by all ${this.index.maps.length > 1 ? "maps here" : "heads"}`;
      this.cross();
      this.drawMargin();
      this.drawProfile();
      root.dataset.drawMs = (performance.now() - started).toFixed(2);
    }

    paint(pane, device) {
      const name = pane.kind === "difference" && this.state.absolute ? "absolute" : pane.kind;
      const codes = this.codes[name], block = this.blocks[name], { bins } = this.plane;
      const { x, y, size } = this.zoom, colours = block.signed ? SIGNED : WEIGHTS;
      const edges = (low) => Int32Array.from({ length: device + 1 }, (_, i) => Math.min(bins, Math.floor(low + (i * size) / device + 1e-9)));
      const [columns, rows] = [edges(x), edges(y)];
      const [ground, hatch] = (this.dark ? [[34, 39, 46], [50, 57, 66]] : [[238, 240, 243], [222, 226, 231]]).map(pixel);
      const image = (pane.image = pane.image?.width === device ? pane.image : new ImageData(device, device));
      const out = new Uint32Array(image.data.buffer), thick = Math.max(1, Math.round(devicePixelRatio)), period = 7 * thick;
      const pooled = size > device ? this.pooler(name) : null;
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
      const highest = this.state.max && (name === "full" || name === "effective");
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
      const absolute = pane.kind === "difference" && this.state.absolute;
      const { signed, top } = this.blocks[absolute ? "absolute" : pane.kind];
      const image = new ImageData(256, 1), out = new Uint32Array(image.data.buffer);
      for (let i = 0; i < 256; i++) out[i] = signed ? SIGNED[absolute ? MIDDLE + (i >> 1) : Math.min(254, i)] : WEIGHTS[Math.max(1, Math.min(254, i))];
      pane.bar.getContext("2d").putImageData(image, 0, 0);
      const { linear } = this.index, middle = linear * top * Math.sinh(Math.asinh(1 / linear) / 2);
      const ends = signed
        ? absolute ? ["0", number(middle), number(top)] : [number(-top), "0", `+${number(top)}`]
        : [number(top * 10 ** -this.index.decades), number(top * 10 ** (-this.index.decades / 2)), number(top)];
      const swatch = (kind, word) => element("span", { class: "swatch" }, element("i", { class: kind }), word);
      pane.limits.replaceChildren(element("div", {}, ...ends.map((one) => element("span", {}, one))),
        element("p", {}, swatch("none", signed ? "no difference" : "no weight"), swatch("hidden", "not visible"), signed ? "asinh scale" : "log scale"));
    }

    ticksOf(low, size) {
      const { plane } = this, [first, last] = [plane.start + low * plane.bin, plane.start + (low + size) * plane.bin];
      let step = 1;
      while ((last - first) / step > 4.5) step *= 2;
      const found = [];
      for (let at = Math.ceil(first / step) * step; at <= Math.min(last, plane.start + plane.length); at += step) found.push([at, (at - first) / (last - first)]);
      return found;
    }

    drawTicks(pane, side) {
      const { x, y, size } = this.zoom;
      const tick = (kind, [at, part]) => {
        const one = element("span", { class: kind }, tokens(at));
        one.style[kind === "key" ? "left" : "top"] = `${part * side}px`;
        return one;
      };
      pane.ticks.replaceChildren(...this.ticksOf(x, size).map((one) => tick("key", one)), ...this.ticksOf(y, size).map((one) => tick("query", one)),
        element("em", {}, "key \u2192"), element("em", { class: "down" }, "query \u2192"));
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
      for (const [at, part] of this.ticksOf(zoom.x, zoom.size)) {
        const anchor = part > 0.97 ? "end" : "middle";
        parts.push(element("text", { x: left + part * (width - left - right), y: height - 9, "text-anchor": anchor }, tokens(at)));
      }
      this.marker = element("g", { class: "marker" }, element("line", { x1: 0, x2: 0, y1: up, y2: height - low }));
      this.profile.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.profile.replaceChildren(...parts, trace("full"), trace("effective"), this.marker);
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
}
