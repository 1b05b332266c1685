// Tables that can be sorted and filtered.
const tables = [...document.querySelectorAll("table.sortable")].map((table, place) => {
  const owner = table.closest("figure")?.id ?? table.closest("section")?.id ?? "";
  const name = `${owner}.${table.closest("[data-key]")?.dataset.key ?? place}`;
  return { table, name, rows: [...table.tBodies[0].rows], heads: [...table.tHead.rows[0].cells] };
});

function sortTable({ table, name, rows, heads }) {
  for (const head of heads) head.removeAttribute("aria-sort");
  const [column, order] = (state.sorts.get(name) ?? "").split(",");
  const head = heads[Number(column)];
  if (!column || !head) return;
  const down = order === "down";
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const number = (text) => (text === "nan" || text === "" ? NaN : Number(text));
  table.tBodies[0].append(...[...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    const [m, n] = [number(x), number(y)];
    if (Number.isNaN(m) !== Number.isNaN(n) && head.classList.contains("n")) return Number.isNaN(m) ? 1 : -1;
    const less = Number.isNaN(m) ? x.localeCompare(y, "en", { numeric: true }) : m - n;
    return down ? -less : less;
  }));
}

function filterTable(one) {
  const words = (state.filters.get(one.name) ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of one.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    left += row.hidden ? 0 : 1;
  }
  if (!one.field) return;
  one.field.value = state.filters.get(one.name) ?? "";
  one.count.textContent = words.length ? `${left} of ${one.rows.length} rows` : "";
}

for (const one of tables) {
  one.heads.forEach((head, column) => {
    const press = make("button", { type: "button" }, ...head.childNodes);
    head.append(press);
    press.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      state.sorts.set(one.name, `${column},${down ? "down" : "up"}`);
      sortTable(one);
      writeAddress();
    });
  });
  if (one.rows.length < 8) continue;
  const box = one.table.closest(".scroll");
  one.field = make("input", { type: "search", placeholder: "filter rows" });
  one.field.setAttribute("aria-label", `Filter: ${box.getAttribute("aria-label")}`);
  one.count = make("span");
  one.count.setAttribute("role", "status");
  one.field.addEventListener("input", () => {
    const typed = one.field.value;
    state.filters.set(one.name, typed);
    filterTable(one);
    cutInARow(one);
    one.field.value = typed;
    writeAddress();
  });
  box.before(make("div", { className: "filter" }, one.field, one.count));
}

// A long table ends in the middle of a row, so that one sees that there are more below.
function cutInARow({ table, rows }) {
  const box = table.closest(".scroll.long");
  if (!box) return;
  box.style.maxHeight = "";
  const [room, start] = [box.clientHeight, box.getBoundingClientRect().top + box.clientTop - box.scrollTop];
  if (box.scrollHeight <= room) return;
  const middles = rows.filter((row) => !row.hidden).map((row) => row.getBoundingClientRect())
    .map((row) => row.top - start + row.height / 2);
  const cut = middles.filter((middle) => middle < room).pop();
  if (cut) box.style.maxHeight = `${Math.round(cut)}px`;
}
const cutAll = () => tables.forEach(cutInARow);
window.addEventListener("resize", cutAll);
document.addEventListener("toggle", cutAll, true);
