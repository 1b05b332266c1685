// Linked panes over the 8-bit codes of pooled maps: full attention, the pattern, their difference.
// The files inspector.*.js share one scope; each holds one part of what the panes can do, as methods
// of one class. Nothing is ever read back from a canvas.
const PARTS = [State, Panes, Pointer, Moving, Words, Outline, Drawing, Scales, Profile];

class Explorer extends PARTS.reduce((made, part) => part(made), Object) {
  constructor(index) {
    super();
    this.index = index;
    this.held = new Map(); // block number -> Promise of its codes
    this.state = { map: index.maps[0].key, head: index.head, plane: 0, row: 0, absolute: false, cells: "mean" };
    this.zoom = { x: 0, y: 0, size: 1 };
    this.at = null; // the cell under the crosshair, in bins
    this.build();
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
