"""Tile sizes for Combiner-Logsparse, for Hopper and 16-bit numbers; safe ones elsewhere."""

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a kernel is compiled: warps of a program, tiles in flight."""

    warps: int
    stages: int


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a call is cut.

    rows: of a tile of queries, which is also how many tokens the regions inside a tile span.
    chunk: tokens of a chunk, at least.
    most: chunks, at most.
    pool, weigh, attend: the three kernels that read tokens.
    """

    rows: int
    chunk: int
    most: int
    pool: Launch
    weigh: Launch
    attend: Launch


def _cut(
    rows: int, pool: tuple[int, int], weigh: tuple[int, int], attend: tuple[int, int]
) -> Tiles:
    """Each pair is warps, stages."""
    launches = {
        name: Launch(warps=warps, stages=stages)
        for name, (warps, stages) in (("pool", pool), ("weigh", weigh), ("attend", attend))
    }
    return Tiles(rows=rows, chunk=256, most=128, **launches)


_HALF = {  # by width of a head
    64: _cut(64, (4, 3), (4, 3), (4, 2)),
    128: _cut(64, (4, 3), (4, 3), (8, 2)),
    256: _cut(32, (4, 2), (4, 2), (8, 1)),
}
_SINGLE = {
    64: _cut(32, (4, 2), (4, 2), (4, 1)),
    128: _cut(32, (4, 2), (4, 2), (4, 1)),
    256: _cut(16, (4, 1), (4, 1), (4, 1)),
}
_INTERPRETED = Tiles(  # small: several tiles and chunks at small lengths
    rows=16,
    chunk=32,
    most=128,
    pool=Launch(warps=4, stages=1),
    weigh=Launch(warps=4, stages=1),
    attend=Launch(warps=4, stages=1),
)


@functools.lru_cache
def tiles(width: int, dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles for heads of this width (a power of two)."""
    if device.type == "cpu":
        return _INTERPRETED
    return (_SINGLE if dtype == torch.float32 else _HALF)[max(width, 64)]
