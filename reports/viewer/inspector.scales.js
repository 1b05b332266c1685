// Colour bars, ticks along the sides, the crosshair.
const Scales = (Base) => class extends Base {
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
};
