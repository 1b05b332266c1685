// What a reader chose, and the address that brings it back. The page is complete without scripts;
// the files page.*.js share one scope, and what they read from the page they write only as text.
const state = { anchor: "", theme: "", source: "", hidden: new Set(), sorts: new Map(), filters: new Map() };
const OWN = ["theme", "source", "hide", "sort", "filter"]; // the rest of an address is the panes'

function make(tag, settings = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), settings);
  made.append(...inside);
  return made;
}

function partsOfAddress() {
  const [first, ...rest] = location.hash.slice(1).split("&");
  const anchored = !first.includes("=");
  return { anchor: anchored ? first : "", given: new URLSearchParams((anchored ? rest : [first, ...rest]).join("&")) };
}

function readAddress() {
  const { anchor, given } = partsOfAddress();
  state.anchor = anchor;
  state.theme = ["light", "dark"].includes(given.get("theme")) ? given.get("theme") : "";
  state.source = given.get("source") ?? "";
  state.hidden = new Set(given.getAll("hide"));
  const pairs = (key) => given.getAll(key).map((one) => {
    const at = one.indexOf(":");
    return [one.slice(0, at), one.slice(at + 1)];
  });
  state.sorts = new Map(pairs("sort"));
  state.filters = new Map(pairs("filter"));
}

function writeAddress() {
  const said = partsOfAddress().given;
  for (const one of OWN) said.delete(one);
  if (state.theme) said.set("theme", state.theme);
  if (state.source) said.set("source", state.source);
  for (const one of state.hidden) said.append("hide", one);
  for (const [key, order] of state.sorts) said.append("sort", `${key}:${order}`);
  for (const [key, text] of state.filters) if (text) said.append("filter", `${key}:${text}`);
  const hash = [state.anchor, said.toString()].filter(Boolean).join("&");
  try {
    history.replaceState(null, "", hash ? `#${hash}` : location.href.split("#")[0]);
  } catch { /* a sandboxed frame has no address of its own to change */ }
}
