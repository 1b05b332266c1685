"""Tile sizes for Combiner-Logsparse, for Hopper and 16-bit numbers; safe ones elsewhere."""

import dataclasses
from dataclasses import dataclass

import torch

from patterns.kernels.tile_choice import choose, remembered


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a kernel is compiled: warps of a program, tiles in flight, registers of a thread."""

    warps: int
    stages: int
    registers: int | None = None  # at most; the compiler decides if None

    @property
    def options(self) -> dict[str, int]:
        """As Triton takes them."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return options if self.registers is None else {**options, "maxnreg": self.registers}


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a call is cut.

    rows: of a tile of queries, which is also how many tokens the regions inside a tile span.
    chunk: tokens of a chunk, at least.
    most: chunks, at most.
    pool, weigh, attend, own: the four forward kernels that read tokens.
    reads, summaries, tokens, queries: the four backward ones, in their order.
    """

    rows: int
    chunk: int
    most: int
    pool: Launch
    weigh: Launch
    attend: Launch
    own: Launch
    reads: Launch
    summaries: Launch
    tokens: Launch
    queries: Launch


def _cut(rows: int, chunk: int, /, **launches: tuple[int, ...]) -> Tiles:
    """Each launch is warps, stages and, where they are bounded, registers."""
    made = {
        name: Launch(warps=warps, stages=stages, registers=next(iter(most), None))
        for name, (warps, stages, *most) in launches.items()
    }
    return Tiles(rows=rows, chunk=chunk, most=128, **made)


_HALF = {  # by width of a head
    64: _cut(
        64,
        256,
        pool=(2, 3),
        weigh=(4, 3, 128),
        attend=(4, 2, 168),
        own=(4, 2, 128),
        reads=(4, 2),
        summaries=(4, 2),
        tokens=(8, 1),
        queries=(8, 1),
    ),
    128: _cut(
        64,
        256,
        pool=(4, 3),
        weigh=(4, 3),
        attend=(8, 2),
        own=(4, 2, 168),
        reads=(4, 2),
        summaries=(4, 2),
        tokens=(8, 1),
        queries=(8, 1),
    ),
    256: _cut(
        32,
        256,
        pool=(4, 2),
        weigh=(4, 2),
        attend=(8, 1),
        own=(8, 1),
        reads=(8, 1),
        summaries=(8, 1),
        tokens=(8, 1),
        queries=(8, 1),
    ),
}
_KERNELS = ("pool", "weigh", "attend", "own", "reads", "summaries", "tokens", "queries")
_SAFE = Launch(warps=8, stages=1)
# Float32 is not multiplied by tensor cores: the least tiles, and many warps to hold them.
_EXACT = _cut(32, 256, **dict.fromkeys(_KERNELS, (8, 1)))
# Small: several tiles and chunks at small lengths.
_INTERPRETED = _cut(16, 32, **dict.fromkeys(_KERNELS, (4, 1)))


@remembered
def tiles(width: int, dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles for heads of this width (a power of two)."""
    if device.type == "cpu":
        return _INTERPRETED
    half = dtype != torch.float32
    cut = _HALF[max(width, 64)] if half else _EXACT
    launches = {
        name: choose(
            f"logsparse.{name}",
            width,
            16 if half else 32,
            device=device,
            shipped=getattr(cut, name),
            safe=_SAFE,
        )
        for name in _KERNELS
    }
    return dataclasses.replace(cut, **launches)
