"""A pooled map as `run` has stored it, and what is read off it for drawing."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.mapfile import Maps

Array = npt.NDArray[np.float64]
ARRAYS = ("full", "effective", "difference", "absolute")


@dataclass(frozen=True, kw_only=True)
class Map:
    """Means over the visible pairs of a bin, [heads, bins, bins]; `visible` counts those pairs."""

    meta: dict[str, Any]
    full: Array
    effective: Array
    difference: Array
    absolute: Array
    visible: Array

    @property
    def case(self) -> dict[str, Any]:
        """The case that the map belongs to."""
        found = self.meta.get("case")
        return found if isinstance(found, dict) else {}

    @property
    def asked(self) -> str:
        """The pattern as asked."""
        return str(self.case.get("asked") or self.meta.get("pattern") or "pattern")

    @property
    def bins(self) -> int:
        """How many bins a side has."""
        return int(self.full.shape[-1])

    @property
    def length(self) -> int:
        """How many tokens the map covers."""
        return int(self.meta.get("length") or self.bins * self.bin_size)

    @property
    def bin_size(self) -> int:
        """Tokens a bin."""
        return int(self.meta.get("bin_size") or 1)

    @property
    def heads(self) -> list[int]:
        """The numbers of the heads, in the order of the arrays."""
        found = self.meta.get("heads")
        return [int(x) for x in found] if isinstance(found, list) else list(range(len(self.full)))


def view(held: Maps) -> Map:
    """What the figures need of a map that `run` or `inspect` made."""
    arrays = {key: np.asarray(getattr(held, key), dtype=np.float64) for key in ARRAYS}
    return Map(meta=held.meta, visible=np.asarray(held.visible, dtype=np.float64), **arrays)


def pooled(found: Map, bins: int) -> Map:
    """The same map with at most this many bins a side: means weighted by the visible pairs."""
    step = -(-found.bins // bins)
    if step <= 1:
        return found
    weight = _blocks(found.visible, step)

    def mean(values: Array) -> Array:
        total = np.stack([_blocks(np.nan_to_num(one) * found.visible, step) for one in values])
        result: Array = total / np.maximum(weight, 1)
        return result

    fewer = {key: mean(getattr(found, key)) for key in ARRAYS}
    meta = found.meta | {"bin_size": found.bin_size * step}
    return replace(found, meta=meta, visible=weight, **fewer)


def row_profile(found: Map, head: int, row: int) -> tuple[Array, Array, Array]:
    """(key positions, full, effective) of one row of bins, as mean weight of a pair."""
    seen = found.visible[row] > 0
    keys = (np.arange(found.bins) + 0.5) * found.bin_size
    return keys[seen], found.full[head, row, seen], found.effective[head, row, seen]


def mass_by_distance(found: Map, head: int) -> tuple[list[float], list[float], list[float]]:
    """(edges in tokens, full, effective): shares of mass by distance, from the pooled map.

    Bins a power of two of bins apart; finer than a bin nothing is known.
    """
    across = np.abs(np.subtract.outer(np.arange(found.bins), np.arange(found.bins)))
    steps = [0, 1]
    while steps[-1] < found.bins:
        steps.append(steps[-1] * 2)
    shares = []
    for values in (found.full[head], found.effective[head]):
        mass = np.nan_to_num(values) * found.visible
        total = mass.sum() or 1.0
        pairs = itertools.pairwise(steps)
        shares.append([float(mass[(across >= a) & (across < b)].sum() / total) for a, b in pairs])
    return [float(step * found.bin_size) for step in steps], shares[0], shares[1]


def mean_variation(found: Map, head: int) -> float:
    """Half the row sums of |difference|, averaged over rows, from the pooled absolute values.

    Exact: the absolute difference was taken before pooling.
    """
    mass = (np.nan_to_num(found.absolute[head]) * found.visible).sum()
    return float(mass / (2 * found.length))


def _blocks(values: Array, step: int) -> Array:
    """Sums over step x step blocks; the last ones may be smaller."""
    edges = np.arange(0, values.shape[-1], step)
    found: Array = np.add.reduceat(np.add.reduceat(values, edges, axis=0), edges, axis=1)
    return found
