// Beside the maps: total variation by row, and the weights of the chosen row.
const Profile = (Base) => class extends Base {
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
};
