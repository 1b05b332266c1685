// Light and dark, links inside the page, and the start.
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
  const target = document.getElementById(state.anchor);
  showSource();
  showSourceOf(target);
  for (const one of tables) {
    sortTable(one);
    filterTable(one);
  }
  cutAll();
  if (location.hash.includes("&") || target?.closest(".sources")) target?.scrollIntoView();
}
// A link to a place of the page keeps what was chosen.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#"]');
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!target) return;
  event.preventDefault();
  state.anchor = target.id;
  showSourceOf(target);
  writeAddress();
  target.scrollIntoView();
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
});
buildSwitches();
buildSources();
window.addEventListener("hashchange", restore);
restore();
