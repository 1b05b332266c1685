// Moving over the maps: zoom, crosshair, the chosen row, keys.
const SMALLEST = 8; // bins that a pane shows when zoomed in

const Moving = (Base) => class extends Base {
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
};
