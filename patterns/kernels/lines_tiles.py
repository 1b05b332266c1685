"""Tile sizes for attention along the lines of a grid; guesses for an H100, safe ones elsewhere."""

from typing import Literal

import torch

from patterns.kernels.tile_choice import choose
from patterns.kernels.tuned import SAFE, Tiles

Work = Literal["read", "summarise", "queries", "keys"]

_HALF: dict[tuple[Work, int], Tiles] = {
    ("read", 64): Tiles(queries=64, keys=64, warps=4, stages=3),
    ("read", 128): Tiles(queries=64, keys=64, warps=4, stages=2),
    ("summarise", 64): Tiles(queries=64, keys=64, warps=4, stages=3),
    ("summarise", 128): Tiles(queries=64, keys=64, warps=4, stages=2),
    ("queries", 64): Tiles(queries=64, keys=32, warps=4, stages=3),
    ("queries", 128): Tiles(queries=64, keys=32, warps=4, stages=2),
    ("keys", 64): Tiles(queries=64, keys=64, warps=4, stages=2),
    ("keys", 128): Tiles(queries=32, keys=64, warps=4, stages=2),
}
_SINGLE = Tiles(queries=32, keys=32, warps=4, stages=1)  # float32, whose tiles are twice as large
_WIDE = Tiles(queries=32, keys=32, warps=4, stages=1)  # heads of more than 128


def line_tiles(
    work: Work, width: int, half: bool, queries: int, keys: int, device: torch.device
) -> Tiles:
    """Of the kernels of this kind, for lines of so many queries and keys.

    Args:
        work: reading sources, making summaries, or gradients of queries or of keys.
        width: of a head, padded to a power of two.
        half: the dtype has 16 bits.
        device: that of the launch.
    """
    if not half:
        shipped = _SINGLE
    elif width > 128:
        shipped = _WIDE
    else:
        shipped = _HALF[work, max(64, width)]
    bits = 16 if half else 32
    chosen = choose(f"lines.{work}", width, bits, device=device, shipped=shipped, safe=SAFE)
    return Tiles(
        queries=_at_most(chosen.queries, queries),
        keys=_at_most(chosen.keys, keys),
        warps=chosen.warps,
        stages=chosen.stages,
    )


def _at_most(tile: int, count: int) -> int:
    return min(tile, max(16, 1 << (count - 1).bit_length()))
