// What the controls, the titles and the read-out say.
const Words = (Base) => class extends Base {
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
};
