// Codes to pixels: every pane is painted anew, pooled where a pixel holds several cells.
const Drawing = (Base) => class extends Base {
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
};
