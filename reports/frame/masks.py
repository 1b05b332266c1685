"""The masks of the gallery: each pattern with its own tiny parameters at length 16."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from attnbench import PATTERNS

LENGTH = 16
INVISIBLE, DIRECT = -2, -1


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One mask: cells [L, L] are INVISIBLE, DIRECT, or the number of a region from 0 on."""

    asked: str
    name: str
    cells: npt.NDArray[np.int64]
    density: float
    keys_per_query: float


def tiles(names: Iterable[str] | None = None) -> list[Tile]:
    """A tile a pattern of the registry; names that it does not know are passed over."""
    return [tile(name) for name in sorted(names or PATTERNS) if name in PATTERNS]


def tile(name: str) -> Tile:
    """One pattern, causal, as it is registered."""
    made = PATTERNS[name](**PATTERNS[name].tiny).resolve(LENGTH)
    seen = made.support(LENGTH)
    cells = torch.where(seen, DIRECT, INVISIBLE)
    partitions = getattr(made, "partitions", None)
    if partitions is not None:
        labels = partitions(torch.arange(LENGTH), LENGTH)[0]
        for rank, label in enumerate(labels[labels > DIRECT].unique()):
            cells[labels == label] = rank
    keys, _ = made._pairs(LENGTH)
    return Tile(
        asked=name,
        name=name,
        cells=cells.numpy().astype(np.int64),
        density=float(seen.sum()) / (LENGTH * (LENGTH + 1) / 2),
        keys_per_query=keys / LENGTH,
    )
