"""The linked panes: the codes of maps as blocks of a page, for the viewer script to draw.

Without the script nothing of this shows; the page keeps static figures for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from attnbench.mapfile import Maps
from reports.codes import DECADES, LINEAR, Array, packed, signed_codes, weight_codes
from reports.frame.maps import Map, pooled, view
from reports.html import data_block, escape
from reports.style import look, shaded
from reports.text import size_text

_HOW = (
    "A row is a query and a column a key: first full attention, then what the pattern really "
    "applies, then what it takes from a key (blue) or gives to it (red). The bars at the margin "
    "are each row's total variation."
)
_MEANS, _MAXIMA = ("full", "effective"), ("full_max", "effective_max")
_DIFFERENCES = ("difference", "absolute")


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A square of cells as it is drawn: [heads, N, N], and where in the sequence it lies."""

    name: str
    start: int  # token of the first cell
    length: int  # tokens it covers
    bin_size: int
    visible: Array
    arrays: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One stored map with its planes: the whole, and the 1:1 corners where they are wanted."""

    key: str
    name: str
    about: Map
    planes: tuple[Plane, ...]


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Maps that share their colour scales and one set of panes."""

    sheets: tuple[Sheet, ...]
    title: str = ""
    head: int | None = None  # it opens with; the first if None
    row: int | None = None  # it opens with, in tokens; in the second half if None

    def markup(self, *, heads: int | None = None) -> str:
        """What the page holds: an empty place, the index, and a block for each set of codes.

        Args:
            heads: of each map so many, from its first one on; all if None.
        """
        blocks: dict[str, str] = {}
        index = {
            "decades": DECADES, "linear": LINEAR, "row": self.row,
            "head": self.sheets[0].about.heads[0] if self.head is None else self.head,
            "maps": [self._sheet(one, heads, blocks) for one in self.sheets],
        }  # fmt: skip
        held = "\n".join(data_block(f"codes-{key}", text) for text, key in blocks.items())
        how = f'<p class="how"><b>How to read this.</b> {escape(_HOW)}</p>'
        said = f"<h3>{escape(self.title)}</h3>{how}" if self.title else ""
        place = f'<div class="explorer" id="explorer" hidden>{said}</div>'
        return f"{place}\n{data_block('explorer-index', index)}\n{held}"

    def fitting(self, room: int) -> str:
        """The markup with as many heads of each map as there is room for; '' where none fits."""
        fitting = ""
        for heads in range(1, 1 + max((len(one.about.heads) for one in self.sheets), default=0)):
            found = self.markup(heads=heads)
            if len(found.encode()) > room:
                break
            fitting = found
        return fitting

    def _sheet(self, sheet: Sheet, heads: int | None, blocks: dict[str, str]) -> dict[str, Any]:
        about = sheet.about
        style = look(about.asked)
        case = about.case
        layer = case.get("layer")
        said = ["" if layer is None else f"layer {layer}", str(case.get("source", "")),
                f"{size_text(about.length)} tokens"]  # fmt: skip
        return {
            "key": sheet.key, "name": sheet.name, "asked": about.asked,
            "about": " · ".join(part for part in said if part),
            "ink": style.ink, "bright": shaded(style.colour, 0.25),
            "causal": bool(about.meta.get("causal", True)),
            "heads": about.heads[:heads],
            "planes": [
                self._plane(plane, place, len(about.heads[:heads]), blocks)
                for place, plane in enumerate(sheet.planes)
            ],
        }  # fmt: skip

    def _plane(
        self, plane: Plane, place: int, heads: int, blocks: dict[str, str]
    ) -> dict[str, Any]:
        peers = [one.planes[place] for one in self.sheets if len(one.planes) > place]
        tops = {
            name: _largest(peers, names)
            for name, names in (("mean", _MEANS), ("max", _MAXIMA), ("difference", _DIFFERENCES))
        }

        def block(name: str, head: int) -> dict[str, Any]:
            values = plane.arrays[name][head]
            negative = name not in _DIFFERENCES and bool((values[plane.visible > 0] < 0).any())
            signed = name in _DIFFERENCES or negative
            kind = "difference" if name in _DIFFERENCES else "max" if name in _MAXIMA else "mean"
            code = signed_codes if signed else weight_codes
            text = packed(code(values, plane.visible, tops[kind]))
            return {"codes": blocks.setdefault(text, str(len(blocks))), "signed": signed,
                    "top": tops[kind]}  # fmt: skip

        return {
            "name": plane.name, "start": plane.start, "length": plane.length,
            "bin": plane.bin_size, "bins": int(plane.visible.shape[-1]),
            "heads": [
                {name: block(name, head) for name in plane.arrays}
                | {"variation": row_variation(plane, head)}
                for head in range(heads)
            ],
        }  # fmt: skip


def sheet(key: str, name: str, held: Maps, *, bins: int | None = None, rich: bool = False) -> Sheet:
    """A stored map for the panes.

    Args:
        key: names it in links.
        name: how people call it.
        held: from `load_map` or `make`.
        bins: at most so many a side; as stored if None.
        rich: with the maxima of bins, and with the 1:1 corners where bins are wider than a token.
    """
    about = view(held)
    if bins is not None:
        about = pooled(about, bins)
    arrays = {name: getattr(about, name) for name in (*_MEANS, *_DIFFERENCES)}
    if rich and about.bin_size > 1 and about.bins == held.full.shape[-1]:
        arrays |= {name: getattr(held, name).astype(np.float64) for name in _MAXIMA}
    whole = Plane(
        name="whole map", start=0, length=about.length, bin_size=about.bin_size,
        visible=about.visible, arrays=arrays,
    )  # fmt: skip
    corners = _corners(about, held) if rich and about.bin_size > 1 else ()
    return Sheet(key=key, name=name, about=about, planes=(whole, *corners))


def row_variation(plane: Plane, head: int) -> list[float]:
    """Total variation of each row of bins, mean over its queries and exact: from |difference|.

    In a corner only the keys of the corner count.
    """
    mass = (np.nan_to_num(plane.arrays["absolute"][head]) * plane.visible).sum(axis=1)
    starts = np.arange(plane.visible.shape[0]) * plane.bin_size
    queries = np.minimum(plane.bin_size, plane.length - starts)
    return [float(f"{x:.4g}") for x in mass / (2 * queries)]


def style_and_script() -> tuple[str, str]:
    """The style sheet and the script of the panes."""
    folder = files("reports") / "viewer"
    css, js = (folder / f"inspector.{kind}" for kind in ("css", "js"))
    return css.read_text(encoding="utf-8"), js.read_text(encoding="utf-8")


def _corners(about: Map, held: Maps) -> tuple[Plane, ...]:
    side = held.crop_full.shape[-1]
    i, j = np.mgrid[0:side, 0:side]
    causal = bool(about.meta.get("causal", True))
    visible = (j <= i if causal else np.ones_like(i)).astype(np.float64)
    found = []
    for corner, (word, start) in enumerate((("first", 0), ("last", about.length - side))):
        full, ours = (
            x[:, corner].astype(np.float64) for x in (held.crop_full, held.crop_effective)
        )
        arrays = {
            "full": full, "effective": ours, "difference": ours - full,
            "absolute": np.abs(ours - full),
        }  # fmt: skip
        found.append(
            Plane(name=f"{word} {side} tokens, 1:1", start=start, length=side, bin_size=1,
                  visible=visible, arrays=arrays)
        )  # fmt: skip
    return tuple(found)


def _largest(planes: Sequence[Plane], names: tuple[str, ...]) -> float:
    """The largest finite magnitude among the visible cells, three digits, rounded up; 1 if none."""
    found = 0.0
    for plane in planes:
        for name in names:
            if name not in plane.arrays:
                continue
            values = np.abs(plane.arrays[name][:, plane.visible > 0])
            found = max(found, float(values[np.isfinite(values)].max(initial=0.0)))
    if found == 0:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(found)) - 2)
    return float(f"{np.ceil(found / unit - 1e-9) * unit:.3g}")
