"""A stored map as planes of cells: the whole, its 1:1 parts, and what its definition says."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnbench.mapfile import Maps
from attnbench.sources import sample_text
from reports.codes import Array
from reports.frame.maps import Map, pooled, view
from reports.structure import Labels, Shares, Window, definition, regions, shares

MEANS, MAXIMA = ("full", "effective"), ("full_max", "effective_max")
DIFFERENCES = ("difference", "absolute")


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A square of cells as it is drawn: [heads, N, N], and where in the sequence it lies."""

    name: str
    start: int  # token of the first query
    key_start: int  # and of the first key
    length: int  # tokens it covers
    bin_size: int
    visible: Array
    arrays: dict[str, Array]
    regions: Labels | None = None  # [N, N]
    shares: Shares | None = None  # [N, N]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One stored map with its planes: the whole, and the 1:1 parts where they are wanted."""

    key: str
    name: str
    about: Map
    planes: tuple[Plane, ...]
    tokens: tuple[str, ...] | None = None  # the text of each token, where it may be shown


def sheet(key: str, name: str, held: Maps, *, bins: int | None = None, rich: bool = False) -> Sheet:
    """A stored map for the panes.

    Args:
        key: names it in links.
        name: how people call it.
        held: from `load_map` or `make`.
        bins: at most so many a side; as stored if None.
        rich: with the maxima of bins, and with the 1:1 parts where bins are wider than a token.
    """
    about = view(held)
    made = definition(str(held.meta.get("pattern", "")), about.length)
    if bins is not None:
        about = pooled(about, bins)
    arrays = {name: getattr(about, name) for name in (*MEANS, *DIFFERENCES)}
    if rich and about.bin_size > 1 and about.bins == held.full.shape[-1]:
        arrays |= {name: getattr(held, name).astype(np.float64) for name in MAXIMA}
    whole = _plane("whole map", about, (0, 0), about.length, about.bin_size, arrays, made)
    parts = _parts(about, held, made) if rich and about.bin_size > 1 else ()
    return Sheet(key=key, name=name, about=about, planes=(whole, *parts), tokens=_tokens(about))


def row_variation(plane: Plane, head: int) -> list[float]:
    """Total variation of each row of bins, mean over its queries and exact: from |difference|.

    In a part of the map only the keys of that part count.
    """
    mass = (np.nan_to_num(plane.arrays["absolute"][head]) * plane.visible).sum(axis=1)
    starts = np.arange(plane.visible.shape[0]) * plane.bin_size
    queries = np.minimum(plane.bin_size, plane.length - starts)
    return [float(f"{x:.4g}") for x in mass / (2 * queries)]


def _parts(about: Map, held: Maps, made: Any) -> tuple[Plane, ...]:
    """The 1:1 parts that a map holds."""
    side = held.crop_full.shape[-1]
    worst, last = about.meta.get("worst"), about.length - side
    places = [(f"first {side} tokens", 0, 0), (f"last {side} tokens", last, last)]
    if isinstance(worst, dict):
        places.append((f"worst {side} queries", int(worst["query"]), int(worst["key"])))
    if last == 0:
        places = [("all tokens", 0, 0)]
    found = []
    for index, (what, query, key) in enumerate(places):
        full, ours = (x[:, index].astype(np.float64) for x in (held.crop_full, held.crop_effective))
        arrays = {
            "full": full, "effective": ours, "difference": ours - full,
            "absolute": np.abs(ours - full),
        }  # fmt: skip
        found.append(_plane(f"{what}, 1:1", about, (query, key), side, 1, arrays, made))
    return tuple(found)


def _plane(
    name: str,
    about: Map,
    first: tuple[int, int],
    length: int,
    bin_size: int,
    arrays: dict[str, Array],
    made: Any,
) -> Plane:
    query, key = first
    window = Window(total=about.length, query=query, key=key, length=length, bin_size=bin_size)
    visible = about.visible
    if bin_size < about.bin_size:
        causal = bool(about.meta.get("causal", True))
        i, j = np.mgrid[0:length, 0:length]
        visible = ((j + key <= i + query) | (not causal)).astype(np.float64)
    return Plane(
        name=name, start=query, key_start=key, length=length, bin_size=bin_size, visible=visible,
        arrays=arrays,
        regions=None if made is None else regions(made, window),
        shares=None if made is None else shares(made, window),
    )  # fmt: skip


def _tokens(about: Map) -> tuple[str, ...] | None:
    """The text of the tokens: what the map holds, or that of the shipped sample."""
    held = about.meta.get("tokens")
    if isinstance(held, list):
        return tuple(str(one) for one in held[: about.length])
    causal = bool(about.meta.get("causal", True))
    if about.case.get("source") != "captured":
        return None
    text = sample_text(causal)
    return None if text is None or len(text) < about.length else text[: about.length]
