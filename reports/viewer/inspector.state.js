// What is shown: the map, its head, the row; read from an address and written into one.
const PANE_KEYS = ["map", "head", "row", "part", "difference", "cells", "zoom"]; // in the address
const root = document.getElementById("explorer");
const readJSON = (id) => JSON.parse(document.getElementById(id).textContent);

const State = (Base) => class extends Base {
  get map() { return this.index.maps.find((one) => one.key === this.state.map); }
  get plane() { return this.map.planes[this.state.plane]; }
  get kinds() { return ["mean", ...(this.head.full_max ? ["max"] : []), ...(this.plane.shares ? ["mask"] : [])]; }
  get head() { return this.plane.heads[this.map.heads.indexOf(this.state.head)]; }

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
};
