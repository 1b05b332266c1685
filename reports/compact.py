"""An SVG of matplotlib in fewer bytes for a page: the same drawing, half the text.

Names that nothing refers to go, groups that say nothing go, numbers lose their last zeros, and
what is written on every element of a look is written once, as a rule of the drawing's own.
"""

import re
from collections import Counter
from string import ascii_lowercase

# Names by which a page hides what belongs to a pattern: viewer/page.patterns.js knows the same.
_TAGGED = re.compile(
    r"--(series|band|end|crossover|rival|equal-ms|equal-keys|parent|label|panel|name|curve):"
)

MANY = 60  # numbers of a path beyond which a tenth of a point is fine enough


def compact(svg: str, key: str) -> str:
    """The drawing, whose names all begin with `key` and two dashes.

    The rules are for elements below one of the class ``drawn-{key}``.
    """
    svg = _fewer_groups(_fewer_names(_paths(svg), key))
    return _with_rules(_clipped_by_style(svg), key)


def _fewer_names(svg: str, key: str) -> str:
    used = set(re.findall(r'(?:url\(#|href="#)([^")]*)', svg))
    short: dict[str, str] = {}

    def kept(found: re.Match[str]) -> str:
        name = found[1]
        if _TAGGED.search(name):
            return found[0]
        if name not in used:
            return ""
        return f' id="{short.setdefault(name, f"{key}--{len(short)}")}"'

    svg = re.sub(r' id="([^"]*)"', kept, svg)
    return re.sub(
        r'(url\(#|href="#)([^")]*)', lambda found: found[1] + short.get(found[2], found[2]), svg
    )


def _fewer_groups(svg: str) -> str:
    kept: list[str] = []
    open_groups: list[bool] = []
    for part in re.split(r"(<g\b[^>]*>|</g>)", svg):
        if part == "</g>":
            if open_groups.pop():
                kept.append(part)
        elif part.startswith(("<g>", "<g ")):
            open_groups.append(part != "<g>")
            if part != "<g>":
                kept.append(part)
        else:
            kept.append(part)
    return "".join(kept)


def _paths(svg: str) -> str:
    return re.sub(r' d="([^"]*)"', lambda found: f' d="{_path(found[1])}"', svg)


def _path(said: str) -> str:
    if said.count(" ") > MANY:
        said = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", said)
    said = re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", " ".join(said.split()))
    said = re.sub(r"\.(?=\D|$)", "", said)
    straight = re.fullmatch(r"(?:[MLz] ?(?:[-\d.]+ [-\d.]+ ?)?)+", said)
    return _straight(said) if straight else re.sub(r" ?([A-Za-z]) ?", r"\1", said)


def _straight(said: str) -> str:
    """A path of straight lines: level and upright ones need one number."""
    kept, at = [], ("", "")
    for sign, x, y in re.findall(r"([MLz]) ?(?:([-\d.]+) ([-\d.]+))?", said):
        if sign == "L" and y == at[1]:
            kept.append(f"H{x}")
        elif sign == "L" and x == at[0]:
            kept.append(f"V{y}")
        else:
            kept.append(f"{sign}{x} {y}".rstrip())
        at = (x, y)
    return "".join(kept)


def _clipped_by_style(svg: str) -> str:
    """What clips a part as one more word of its style, so that both become one rule."""
    return re.sub(r' clip-path="([^"]*)" style="([^"]*)"', r' style="\2; clip-path: \1"', svg)


def _with_rules(svg: str, key: str) -> str:
    counts = Counter(re.findall(r' style="([^"]*)"', svg))
    often = [style for style, count in counts.most_common() if count > 1]
    names = {style: _letters(place) for place, style in enumerate(often)}
    svg = re.sub(
        r' style="([^"]*)"',
        lambda found: f' class="{names[found[1]]}"' if found[1] in names else found[0],
        svg,
    )
    rules = "".join(f".drawn-{key} .{name}{{{style}}}" for style, name in names.items())
    return f"<style>{rules}</style>{svg}" if rules else svg


def _letters(place: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    rest, last = divmod(place, len(ascii_lowercase))
    return (_letters(rest - 1) if rest else "") + ascii_lowercase[last]
