"""What a pattern's definition says of each cell: the region it is in, and how many pairs may weigh.

It comes from the definition and its length alone, never from a map, so that old maps have it too.
Letters: L length, N cells a side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attnbench import BadInput, pattern
from reports.codes import HIDDEN

DIRECT, MIXED, UNSEEN = 65533, 65534, 65535  # in place of a region's number
ALL = 254  # the share of a cell all of whose visible pairs may have weight
_MOST_PAIRS = 1 << 29  # of a length whose pairs are counted; more would take longer than drawing
_AT_ONCE = 1 << 24  # pairs

Labels = npt.NDArray[np.uint16]
Shares = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square of cells in a sequence of L tokens."""

    total: int  # L
    query: int  # the first
    key: int  # the first
    length: int  # tokens a side
    bin_size: int

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Of each cell along a side, in tokens from the first one."""
        return np.arange(0, self.length, self.bin_size)

    @property
    def queries(self) -> npt.NDArray[np.int64]:
        """The query that stands for each row of cells: the one in its middle."""
        middle = np.minimum(self.starts + self.bin_size // 2, self.length - 1)
        return self.query + middle


def definition(spec: str, length: int) -> Any:
    """The pattern of a map at its length; None where this version does not know it."""
    try:
        return pattern(spec).resolve(length)
    except BadInput:
        return None


def regions(made: Any, window: Window) -> Labels | None:
    """[N, N]: which region the keys of a cell are in for the query that stands for its row.

    Equal numbers are the same region. DIRECT keys are read one by one, UNSEEN ones not at all, and
    a MIXED cell holds several of these. None for a pattern without regions, or with several plans.
    """
    partitions = getattr(made, "partitions", None)
    if partitions is None:
        return None
    queries = torch.from_numpy(window.queries)
    parts = []
    step = max(1, _AT_ONCE // (8 * window.total))
    for start in range(0, len(queries), step):
        plans = partitions(queries[start : start + step], window.total)
        if len(plans) != 1:
            return None
        parts.append(_alike(plans[0][:, window.key : window.key + window.length].numpy(), window))
    labels = np.concatenate(parts)
    known, ranks = np.unique(labels, return_inverse=True)
    if (known >= 0).sum() >= DIRECT:
        return None
    special = {-3: UNSEEN, -2: MIXED, -1: DIRECT}
    names = np.array([special.get(int(one), rank) for rank, one in enumerate(known)], np.uint16)
    return names[ranks.reshape(labels.shape)]


def shares(made: Any, window: Window) -> Shares | None:
    """[N, N]: of the visible pairs of a cell how many may have weight, as codes of 8 bits.

    0 for none and ALL for all of them, exactly; between these in equal steps; HIDDEN where no pair
    is visible. None for a length whose pairs are too many to count.
    """
    if window.length * window.total > _MOST_PAIRS:
        return None
    size = window.bin_size
    rows = torch.arange(window.query, window.query + window.length)
    step = max(1, _AT_ONCE // (window.total * size)) * size
    keys = np.arange(window.key, window.key + window.length)
    found = []
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        seen = made.support(window.total, some)[:, window.key : window.key + window.length]
        visible = keys <= some.numpy()[:, None] if made.causal else np.ones_like(seen, dtype=bool)
        sums = [_sums(np.asarray(x) & visible, size) for x in (seen, visible)]
        found.append(_share(*sums))
    return np.concatenate(found)


def _alike(labels: npt.NDArray[np.int64], window: Window) -> npt.NDArray[np.int64]:
    """[rows, N]: the label that all seen keys of a cell share; -2 where they do not, -3 unseen.

    `partitions` says -1 for a direct key and -2 for one that is not visible.
    """
    high = np.iinfo(np.int64).max
    unseen = labels == -2
    lowest = np.minimum.reduceat(np.where(unseen, high, labels), window.starts, axis=1)
    highest = np.maximum.reduceat(np.where(unseen, -3, labels), window.starts, axis=1)
    return np.where(highest == -3, -3, np.where(lowest == highest, lowest, -2))


def _share(seen: npt.NDArray[np.int64], visible: npt.NDArray[np.int64]) -> Shares:
    part = np.clip(np.rint(ALL * seen / np.maximum(visible, 1)), 1, ALL - 1)
    codes = np.where(seen == 0, 0, np.where(seen == visible, ALL, part))
    return np.where(visible == 0, HIDDEN, codes).astype(np.uint8)


def _sums(pairs: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.int64]:
    """Sums over squares of cells."""
    down = np.arange(0, pairs.shape[0], size)
    across = np.arange(0, pairs.shape[1], size)
    rows = np.add.reduceat(pairs, down, axis=0, dtype=np.int64)
    found: npt.NDArray[np.int64] = np.add.reduceat(rows, across, axis=1)
    return found
