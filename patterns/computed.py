"""How many query-key products an implementation really makes: those that a mask hides too.

Kernels work in tiles, and a tile that shows one pair is multiplied whole. Every implementation
counts what it does as it runs, by these functions, and only while somebody listens. A pair is of
two tokens that exist: what a tile holds beyond the last token is not counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

FUSED = 128  # queries and keys of a tile of PyTorch's fused kernels, which do not tell theirs


@dataclass(kw_only=True)
class Tally:
    """Products counted so far, over all heads; None where nothing that ran counts itself."""

    pairs: int | None = None


_listening: ContextVar[Tally | None] = ContextVar("_listening", default=None)


@contextmanager
def counting() -> Iterator[Tally]:
    """Count what runs meanwhile in this thread."""
    tally = Tally()
    token = _listening.set(tally)
    try:
        yield tally
    finally:
        _listening.reset(token)


def count(pairs: Callable[[], int]) -> None:
    """Add products; `pairs` is asked for them only while somebody listens, and no code compiles."""
    if torch.compiler.is_compiling():
        return
    tally = _listening.get()
    if tally is not None:
        tally.pairs = (tally.pairs or 0) + pairs()


def band_pairs(
    queries: int,
    keys: int,
    *,
    left: int | None,
    right: int | None,
    rows: int = FUSED,
    columns: int = FUSED,
) -> int:
    """Pairs of one head in the tiles that a band touches.

    Args:
        queries: how many, at the positions 0, 1, ...
        keys: how many, likewise.
        left: how far behind itself a query sees; None: to the first key.
        right: how far ahead; None: to the last key.
        rows: queries of a tile.
        columns: keys of a tile.
    """
    first = torch.arange(0, queries, rows)
    last = (first + rows).clamp(max=queries) - 1
    begin = torch.zeros_like(first) if left is None else (first - left).clamp(min=0, max=keys)
    end = torch.full_like(first, keys) if right is None else (last + right + 1).clamp(max=keys)
    begin = begin // columns * columns
    end = (-(-end // columns) * columns).clamp(max=keys)
    return int(((last - first + 1) * (end - begin).clamp(min=0)).sum())
