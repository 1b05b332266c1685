// Figures that are drawn once a source of inputs: one is shown, everywhere the same.
const groups = [...document.querySelectorAll(".sources")].map((box, place) => {
  for (const one of box.querySelectorAll(":scope > details")) {
    const [, ...inside] = one.childNodes; // without what unfolds it
    const part = make("div", {}, ...inside);
    part.dataset.source = one.dataset.source;
    one.replaceWith(part);
  }
  const parts = [...box.querySelectorAll(":scope > [data-source]")];
  return { box, place, parts, note: make("span", { className: "told" }), radios: new Map() };
});
const sources = [...new Set(groups.flatMap(({ parts }) => parts.map((one) => one.dataset.source)))];

function showSource() {
  const wanted = sources.includes(state.source) ? state.source : sources[0];
  for (const { parts, note, radios } of groups) {
    const shown = parts.find((one) => one.dataset.source === wanted) ?? parts[0];
    for (const one of parts) one.hidden = one !== shown;
    radios.get(shown.dataset.source).checked = true;
    note.textContent = shown.dataset.source === wanted ? "" : `not measured on ${wanted}`;
  }
}

function chooseSource(name, at) {
  const before = at.getBoundingClientRect().top;
  state.source = name === sources[0] ? "" : name;
  showSource();
  scrollBy({ top: at.getBoundingClientRect().top - before, behavior: "instant" }); // what was pressed stays
  writeAddress();
}

// A place inside the figures of a source is seen only when that source is.
function showSourceOf(target) {
  const part = target?.closest(".sources > [data-source]");
  if (part) state.source = part.dataset.source === sources[0] ? "" : part.dataset.source;
  if (part) showSource();
}

function buildSources() {
  for (const { box, place, parts, note, radios } of groups) {
    const choices = parts.map((part) => {
      const name = part.dataset.source;
      const radio = make("input", { type: "radio", name: `source-${place}`, value: name });
      radio.addEventListener("change", () => chooseSource(name, radio));
      radios.set(name, radio);
      return make("label", {}, radio, make("bdi", { textContent: name }));
    });
    note.setAttribute("role", "status");
    box.prepend(make("fieldset", { className: "source" }, make("legend", { textContent: box.dataset.title }), ...choices, note));
  }
}
