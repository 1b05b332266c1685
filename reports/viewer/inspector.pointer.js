// The pointer over the maps: click for a row, drag and wheel to zoom and move.
const Pointer = (Base) => class extends Base {
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

  cellOf(event, over) {
    const box = over.getBoundingClientRect(), { x, y, size } = this.zoom, { bins } = this.plane;
    const fit = (one) => Math.min(bins - 1, Math.max(0, Math.floor(one)));
    return { row: fit(y + ((event.clientY - box.top) / box.height) * size), column: fit(x + ((event.clientX - box.left) / box.width) * size) };
  }
};
