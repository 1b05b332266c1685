// The parts of the panes, built once.
const Panes = (Base) => class extends Base {
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
};
