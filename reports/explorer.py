"""The linked panes: the codes of maps as blocks of a page, for the viewer script to draw.

Without the script nothing of this shows; the page keeps static figures for that.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from reports.codes import DECADES, LINEAR, Codes, packed, signed_codes, weight_codes
from reports.html import data_block, escape, scripts
from reports.planes import DIFFERENCES, MAXIMA, MEANS, Plane, Sheet, row_variation
from reports.structure import Labels
from reports.style import look, shaded
from reports.text import size_text

_HOW = (
    "A row is a query and a column a key: first full attention, then what the pattern really "
    "applies, then what it takes from a key (blue) or gives to it (red). The bars at the margin "
    "are each row's total variation."
)
_SCRIPTS = (
    *("codes", "regions", "tokens", "state", "panes", "pointer", "moving", "words", "outline"),
    *("drawing", "scales", "profile", ""),
)


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Maps that share their colour scales and one set of panes."""

    sheets: tuple[Sheet, ...]
    title: str = ""
    head: int | None = None  # it opens with; the first if None
    row: int | None = None  # it opens with, in tokens; in the second half if None

    def markup(self, *, heads: int | None = None, memo: dict[Any, str] | None = None) -> str:
        """What the page holds: an empty place, the index, and a block for each set of codes.

        Args:
            heads: of each map so many, from its first one on; all if None.
            memo: keeps codes from call to call, as packing them takes the time.
        """
        memo = {} if memo is None else memo
        blocks: dict[str, str] = {}
        index = {
            "decades": DECADES, "linear": LINEAR, "row": self.row,
            "head": self.sheets[0].about.heads[0] if self.head is None else self.head,
            "maps": [self._sheet(one, heads, blocks, memo) for one in self.sheets],
        }  # fmt: skip
        held = "\n".join(data_block(f"codes-{key}", text) for text, key in blocks.items())
        how = f'<p class="how"><b>How to read this.</b> {escape(_HOW)}</p>'
        said = f"<h3>{escape(self.title)}</h3>{how}" if self.title else ""
        place = f'<div class="explorer" id="explorer" hidden>{said}</div>'
        return f"{place}\n{data_block('explorer-index', index)}\n{held}"

    def fitting(self, room: int) -> str:
        """The markup with as many heads of each map as there is room for; '' where none fits."""
        fitting, memo = "", dict[Any, str]()
        for heads in range(1, 1 + max((len(one.about.heads) for one in self.sheets), default=0)):
            found = self.markup(heads=heads, memo=memo)
            if len(found.encode()) > room:
                break
            fitting = found
        return fitting

    def _sheet(
        self, sheet: Sheet, heads: int | None, blocks: dict[str, str], memo: dict[Any, str]
    ) -> dict[str, Any]:
        about = sheet.about
        style = look(about.asked)
        case = about.case
        layer = case.get("layer")
        where = f"{case.get('source', 'given q, k, v')} · {size_text(about.length)} tokens"
        return {
            "key": sheet.key, "name": sheet.name, "asked": about.asked, "where": where,
            "layer": None if layer is None else str(layer),
            "tokens": None if sheet.tokens is None
            else blocks.setdefault(_text_block(sheet.tokens), str(len(blocks))),
            "ink": style.ink, "bright": shaded(style.colour, 0.25),
            "causal": bool(about.meta.get("causal", True)),
            "heads": about.heads[:heads],
            "planes": [
                self._plane(plane, place, len(about.heads[:heads]), blocks, memo)
                for place, plane in enumerate(sheet.planes)
            ],
        }  # fmt: skip

    def _plane(
        self,
        plane: Plane,
        place: int,
        heads: int,
        blocks: dict[str, str],
        memo: dict[Any, str],
    ) -> dict[str, Any]:
        peers = [one.planes[place] for one in self.sheets if len(one.planes) > place]
        tops = {
            name: _largest(peers, names)
            for name, names in (("mean", MEANS), ("max", MAXIMA), ("difference", DIFFERENCES))
        }

        def block(name: str, head: int) -> dict[str, Any]:
            values = plane.arrays[name][head]
            negative = name not in DIFFERENCES and bool((values[plane.visible > 0] < 0).any())
            signed = name in DIFFERENCES or negative
            kind = "difference" if name in DIFFERENCES else "max" if name in MAXIMA else "mean"
            code = signed_codes if signed else weight_codes
            held = (id(plane), name, head)
            if held not in memo:
                memo[held] = packed(code(values, plane.visible, tops[kind]))
            text = memo[held]
            return {"codes": blocks.setdefault(text, str(len(blocks))), "signed": signed,
                    "top": tops[kind]}  # fmt: skip

        structure = {
            name: blocks.setdefault(packed(codes), str(len(blocks)))
            for name, codes in (("shares", plane.shares), ("regions", _two_bytes(plane.regions)))
            if codes is not None
        }
        return {
            "name": plane.name, "start": plane.start, "keyStart": plane.key_start,
            "length": plane.length, **structure,
            "bin": plane.bin_size, "bins": int(plane.visible.shape[-1]),
            "heads": [
                {name: block(name, head) for name in plane.arrays}
                | {"variation": row_variation(plane, head)}
                for head in range(heads)
            ],
        }  # fmt: skip


def style_and_script() -> tuple[str, str]:
    """The style sheet and the scripts of the panes, which share a scope of their own."""
    style = (files("reports") / "viewer" / "inspector.css").read_text(encoding="utf-8")
    return style, scripts("inspector", _SCRIPTS)


def _text_block(tokens: tuple[str, ...]) -> str:
    """A list of texts as JSON; halves of characters, which no file can hold, are replaced."""
    return json.dumps([one.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                       for one in tokens], ensure_ascii=False)  # fmt: skip


def _two_bytes(labels: Labels | None) -> Codes | None:
    """Low bytes, then high bytes."""
    if labels is None:
        return None
    return np.stack([labels & 0xFF, labels >> 8]).astype(np.uint8)


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
