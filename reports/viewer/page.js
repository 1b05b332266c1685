"use strict";
// The page is complete without this. It adds switches for patterns, sorting and filtering of
// tables, a theme button, and addresses that bring all of these back. What it reads from the page
// is only ever written as text.
(() => {
  const state = { anchor: "", theme: "", hidden: new Set(), sorts: new Map(), filters: new Map() };

  function make(tag, settings = {}, ...inside) {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...inside);
    return made;
  }

  function readAddress() {
    const [anchor, ...rest] = location.hash.slice(1).split("&");
    const given = new URLSearchParams(rest.join("&"));
    state.anchor = anchor;
    state.theme = ["light", "dark"].includes(given.get("theme")) ? given.get("theme") : "";
    state.hidden = new Set(given.getAll("hide"));
    const pairs = (key) => given.getAll(key).map((one) => {
      const at = one.indexOf(":");
      return [one.slice(0, at), one.slice(at + 1)];
    });
    state.sorts = new Map(pairs("sort"));
    state.filters = new Map(pairs("filter"));
  }

  function writeAddress() {
    const said = new URLSearchParams();
    if (state.theme) said.set("theme", state.theme);
    for (const one of state.hidden) said.append("hide", one);
    for (const [key, order] of state.sorts) said.append("sort", `${key}:${order}`);
    for (const [key, text] of state.filters) if (text) said.append("filter", `${key}:${text}`);
    const rest = said.toString();
    const hash = state.anchor || rest ? `#${state.anchor}${rest ? `&${rest}` : ""}` : " ";
    try {
      history.replaceState(null, "", hash === " " ? location.href.split("#")[0] : hash);
    } catch { /* a sandboxed frame has no address of its own to change */ }
  }

  // Patterns: a group of an SVG has an id such as latency--series:fixed[block=64]@auto--2.
  const PART = /--(series|band|end|crossover|rival|equal-ms|equal-keys|parent|label):(.+?)(--\d+)?$/;
  const marks = new Map();
  for (const one of document.querySelectorAll("svg.picture [id]")) {
    const found = PART.exec(one.id);
    if (!found) continue;
    const key = /@[a-z:_]*$/.test(found[2]) ? found[2] : `${found[2]}@auto`;
    if (!marks.has(key)) marks.set(key, []);
    marks.get(key).push(one);
  }
  const keys = [...marks.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const boxes = new Map();
  const told = make("span", { className: "told" });
  told.setAttribute("role", "status");

  function showPatterns() {
    for (const key of keys) {
      const off = state.hidden.has(key);
      boxes.get(key).checked = !off;
      for (const one of marks.get(key)) one.classList.toggle("off", off);
    }
    const off = keys.filter((key) => state.hidden.has(key)).length;
    told.textContent = off ? `${keys.length - off} of ${keys.length} shown` : "";
  }

  function buildSwitches() {
    if (keys.length < 2) return;
    const list = make("fieldset", {}, make("legend", { textContent: "Patterns shown in every figure" }));
    const press = (text, choose) => {
      const made = make("button", { type: "button", textContent: text });
      made.addEventListener("click", () => {
        state.hidden = new Set(keys.filter((key) => !choose(key)));
        showPatterns();
        writeAddress();
      });
      return made;
    };
    const combiner = (key) => key.startsWith("combiner") || key.startsWith("full@auto");
    list.append(make("div", { className: "presses" }, press("all", () => true), press("none", () => false),
      ...(keys.some((key) => key.startsWith("combiner")) ? [press("Combiners and full", combiner)] : [])));
    const grid = make("div", { className: "choices" });
    for (const key of keys) {
      const box = make("input", { type: "checkbox", value: key });
      boxes.set(key, box);
      box.addEventListener("change", () => {
        state.hidden[box.checked ? "delete" : "add"](key);
        showPatterns();
        writeAddress();
      });
      const drawn = marks.get(key).flatMap((one) => [...one.querySelectorAll("path, use")])
        .map((one) => getComputedStyle(one).stroke).find((colour) => colour && colour !== "none");
      const swatch = make("i", { className: "swatch" });
      if (drawn) swatch.style.background = drawn;
      const [asked, backend] = [key.slice(0, key.lastIndexOf("@")), key.slice(key.lastIndexOf("@") + 1)];
      const name = backend === "auto" || backend === "" ? asked : `${asked} (${backend})`;
      grid.append(make("label", {}, box, swatch, make("bdi", { textContent: name })));
    }
    list.append(grid);
    const folded = make("details", { id: "patterns" }, make("summary", {}, "Patterns ", told), list);
    document.querySelector("header .bar").insertBefore(folded, document.getElementById("theme"));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !folded.open) return;
      folded.open = false;
      folded.querySelector("summary").focus();
    });
    document.addEventListener("click", (event) => {
      if (!folded.contains(event.target)) folded.open = false;
    });
  }

  // Tables.
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
      one.field.value = typed;
      writeAddress();
    });
    box.before(make("div", { className: "filter" }, one.field, one.count));
  }

  // Light and dark.
  const button = document.getElementById("theme");
  button.hidden = false;
  const dark = () => (state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  function showTheme() {
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    button.setAttribute("aria-pressed", String(dark()));
  }
  button.addEventListener("click", () => {
    state.theme = dark() ? "light" : "dark";
    showTheme();
    writeAddress();
  });

  function restore() {
    readAddress();
    showTheme();
    if (boxes.size) showPatterns();
    for (const one of tables) {
      sortTable(one);
      filterTable(one);
    }
    if (location.hash.includes("&")) document.getElementById(state.anchor)?.scrollIntoView();
  }
  // A link to a place of the page keeps what was chosen.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    const target = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    state.anchor = target.id;
    writeAddress();
    target.scrollIntoView();
    target.tabIndex = -1;
    target.focus({ preventScroll: true });
  });
  buildSwitches();
  window.addEventListener("hashchange", restore);
  restore();
})();
