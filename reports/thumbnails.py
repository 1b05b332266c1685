"""Small pictures of the maps that a page has no panes for, each with its file."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from reports.codes import DECADES, Array
from reports.frame.maps import Map, pooled
from reports.html import escape

SIDE = 64  # cells of a picture
MOST = 48  # pictures of a page; the others are counted
_HIDDEN = (0.93, 0.94, 0.95, 1.0)


def markup(found: Iterable[tuple[str, str, Map]]) -> str:
    """A list of (file key, name, map): the pattern's map of the first head, and how to open it."""
    items = [
        f'<li><img alt="" width="{2 * SIDE}" height="{2 * SIDE}" src="{_address(one)}">'
        f"<b>{escape(name)}</b><span>{escape(_place(one))}</span>"
        f"<code>maps/{escape(key)}.npz</code></li>"
        for key, name, one in found
    ]
    return f'<ul class="thumbnails">{"".join(items)}</ul>' if items else ""


def picture(found: Map) -> Array:
    """[N, N, 4]: weights by their logarithm; white has none, grey is not visible."""
    found = pooled(found, SIDE)
    values, seen = np.nan_to_num(found.effective[0]), found.visible > 0
    top = float(values[seen].max(initial=0.0)) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(np.where(values > 0, values, np.nan) / top) / DECADES + 1
    colours: Array = np.asarray(colormaps["viridis"](np.clip(np.nan_to_num(level), 0, 1)))
    colours[values <= 0] = (1.0, 1.0, 1.0, 1.0)
    colours[~seen] = _HIDDEN
    return colours


def _address(found: Map) -> str:
    held = io.BytesIO()
    imsave(held, picture(found), format="png", metadata={"Software": "attnbench"})
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def _place(found: Map) -> str:
    layer = found.case.get("layer")
    where = str(found.case.get("source", "given q, k, v"))
    return where if layer is None else f"{where}, layer {layer}"
