// The region under the crosshair: its words and its outline.
const Outline = (Base) => class extends Base {
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
};
