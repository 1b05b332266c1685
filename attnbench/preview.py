"""A map as a small picture, for a notebook: full attention, the pattern, and where they differ."""

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from attnbench.mapfile import Maps

SIDE = 256  # pixels of a pane, at least; a bin is a whole number of pixels
GAP = 8
HEADS = 4  # rows of panes at most
DECADES = 6.0
_HIDDEN, _EMPTY = (236, 239, 242), (255, 255, 255)

Array = npt.NDArray[np.float64]


def png(maps: "Maps") -> bytes:
    """Three panes a head in a row, the first heads: full, effective, |difference|; queries down.

    Logarithms over six decades below the largest weight of the head; white has no weight, grey is
    not visible.
    """
    from matplotlib.image import imsave

    held = io.BytesIO()
    settings: dict[str, Any] = {"format": "png", "metadata": {"Software": None}}
    imsave(held, pixels(maps), **settings)
    return held.getvalue()


def pixels(maps: "Maps") -> npt.NDArray[np.uint8]:
    """The picture, [pixels, pixels, 3]."""
    names = ("full", "effective", "absolute")
    rows = []
    for head in range(min(HEADS, len(maps.full))):
        panes = [_pooled(getattr(maps, name)[head], maps.visible) for name in names]
        seen = _summed(maps.visible) > 0
        top = max(float(one[seen].max(initial=0.0)) for one in panes[:2]) or 1.0
        size = max(1, SIDE // len(seen))
        painted = [
            np.kron(_paint(pane, seen, top, index == 2), np.ones((size, size, 1), dtype=np.uint8))
            for index, pane in enumerate(panes)
        ]
        gap = np.full((painted[0].shape[0], GAP, 3), 255, dtype=np.uint8)
        rows.append(np.concatenate([painted[0], gap, painted[1], gap, painted[2]], axis=1))
        rows.append(np.full((GAP, rows[-1].shape[1], 3), 255, dtype=np.uint8))
    return np.concatenate(rows[:-1])


def html(maps: "Maps") -> str:
    """The picture under a line that says what it is, and how far the two are apart."""
    case = maps.meta.get("case") or {}
    asked = str(case.get("asked") or maps.meta.get("pattern") or "pattern")
    heads = ", ".join(map(str, (maps.meta.get("heads") or range(len(maps.full)))[:HEADS]))
    bins = f"bins of {maps.meta.get('bin_size', 1)} tokens, {maps.meta.get('length', '?')} in all"
    seen = maps.visible
    apart = float((maps.absolute[0] * seen).sum() / (2 * _length(maps)))
    where = "" if case.get("layer") is None else f", layer {case['layer']}"
    said = (
        f"<b>{escape(asked)}</b> on {escape(str(case.get('source', 'given q, k, v')))}"
        f"{escape(where)}: full attention, the pattern, |difference|; heads {escape(heads)} from "
        f"the top; {escape(bins)}; total variation of the first {apart:.3f}"
    )
    data = base64.b64encode(png(maps)).decode()
    return (
        f'<figure style="margin:0"><figcaption>{said}</figcaption>'
        f'<img alt="{escape(asked)}" src="data:image/png;base64,{data}"></figure>'
    )


def _length(maps: "Maps") -> int:
    return int(maps.meta.get("length") or len(maps.visible))


def _step(bins: int) -> int:
    return -(-bins // (2 * SIDE))


def _summed(values: npt.NDArray[Any]) -> Array:
    edges = np.arange(0, values.shape[-1], _step(values.shape[-1]))
    rows = np.add.reduceat(values.astype(np.float64), edges, axis=0)
    found: Array = np.add.reduceat(rows, edges, axis=1)
    return found


def _pooled(values: npt.NDArray[Any], visible: npt.NDArray[Any]) -> Array:
    """Means over visible pairs, with at most twice `SIDE` bins."""
    found: Array = _summed(values.astype(np.float64) * visible) / np.maximum(_summed(visible), 1)
    return found


def _paint(values: Array, seen: npt.NDArray[np.bool_], top: float, apart: bool) -> Any:
    from matplotlib import colormaps

    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(np.where(values > 0, values, np.nan) / top) / DECADES + 1
    found = colormaps["magma_r" if apart else "viridis"](np.clip(np.nan_to_num(level), 0, 1))
    colours = (255 * found[..., :3]).round().astype(np.uint8)
    colours[values <= 0] = _EMPTY
    colours[~seen] = _HIDDEN
    return colours
