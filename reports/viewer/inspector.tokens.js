// The text of tokens, only ever as text: it may hold markup, any script, or signs that cannot be seen.
const AROUND = 6; // tokens of context on either side
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

const visibleText = (token) =>
  token.replace(/\r?\n/g, "\u23ce").replace(/\t/g, "\u21e5").replace(CONTROL, "\u25a1") || "\u2205";

// Tokens from `first` up to `end` within their context.
const inContext = (texts, first, end) => {
  const said = (from, to) => texts.slice(Math.max(0, from), Math.min(texts.length, to)).map(visibleText).join("");
  const dots = (there) => (there ? "\u2026" : "");
  return [
    element("bdi", {}, dots(first > AROUND) + said(first - AROUND, first)),
    element("mark", {}, element("bdi", {}, said(first, end))),
    element("bdi", {}, said(end, end + AROUND) + dots(end + AROUND < texts.length)),
  ];
};
