// Switches for patterns. A part of an SVG has an id such as latency--series:fixed[block=64]@auto--2,
// a cover over a part of an image says panel:fixed[block=64], a figure of one pattern names it, and
// what belongs to a pattern with any parameters says name:fixed.
const PART = /(?:^|--)(series|band|end|crossover|rival|equal-ms|equal-keys|parent|label|panel|mass|top8|trail|waste|computed):(.+?)(--\d+)?$/;
const WHOLE = /(?:^|--)(name|curve):(.+?)(--\d+)?$/;
const marks = new Map(); // pattern and backend -> what to hide with it
const wholes = new Map(); // name -> what to hide with all of that name
const nameOf = (key) => key.split(/[[@]/)[0];

function mark(group, key, one) {
  if (!group.has(key)) group.set(key, []);
  group.get(key).push(one);
}

function findMarks() {
  const named = (one, said) => {
    const [part, whole] = [PART.exec(said), WHOLE.exec(said)];
    const asked = part?.[2].replace(/\s+/g, "_");
    if (part) mark(marks, /@[a-z:_]*$/.test(asked) ? asked : `${asked}@auto`, one);
    else if (whole) mark(wholes, whole[2], one);
  };
  for (const one of document.querySelectorAll("svg.picture [id]")) named(one, one.id);
  for (const one of document.querySelectorAll("[data-part]")) named(one, one.dataset.part);
}
findMarks();
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
  for (const [name, all] of wholes) {
    const same = keys.filter((key) => nameOf(key) === name);
    const off = same.length > 0 && same.every((key) => state.hidden.has(key));
    for (const one of all) one.classList.toggle("off", off);
  }
  const off = keys.filter((key) => state.hidden.has(key)).length;
  told.textContent = off ? `${keys.length - off} of ${keys.length} shown` : "";
}

function choosePatterns(hidden) {
  state.hidden = hidden;
  showPatterns();
  writeAddress();
}

function switchOf(key) {
  const box = make("input", { type: "checkbox", value: key });
  boxes.set(key, box);
  box.addEventListener("change", () => {
    const hidden = new Set(state.hidden);
    hidden[box.checked ? "delete" : "add"](key);
    choosePatterns(hidden);
  });
  const lines = marks.get(key).filter((one) => one.id.includes("--series:"));
  const drawn = lines.flatMap((one) => [...one.querySelectorAll("path, use")])
    .map((one) => getComputedStyle(one).stroke).find((colour) => colour && colour !== "none");
  const swatch = make("i", { className: "swatch" });
  if (drawn) swatch.style.background = drawn;
  const at = key.lastIndexOf("@"), [asked, backend] = [key.slice(0, at), key.slice(at + 1)];
  const name = backend === "auto" || backend === "" ? asked : `${asked} (${backend})`;
  const pieces = name.split(/(?<=[[,-])/).flatMap((one) => [one, make("wbr")]);
  return make("label", {}, box, swatch, make("bdi", {}, ...pieces));
}

function buildSwitches() {
  if (keys.length < 2) return;
  const press = (text, choose) => {
    const made = make("button", { type: "button", textContent: text });
    made.addEventListener("click", () => choosePatterns(new Set(keys.filter((key) => !choose(key)))));
    return made;
  };
  const combiner = (key) => key.startsWith("combiner") || key.startsWith("full@auto");
  const presses = [press("all", () => true), press("none", () => false)];
  if (keys.some((key) => key.startsWith("combiner"))) presses.push(press("Combiners and full", combiner));
  const list = make("fieldset", {}, make("legend", { textContent: "Patterns shown in every figure" }),
    make("div", { className: "presses" }, ...presses), make("div", { className: "choices" }, ...keys.map(switchOf)));
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
