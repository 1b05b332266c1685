"""Tile sizes for the kernels: measured on an H100, safe ones elsewhere."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Sizes of one launch.

    queries, keys: rows of a tile of each.
    warps: of a program.
    stages: tiles in flight.
    """

    queries: int
    keys: int
    warps: int
    stages: int

    def within(self, block: int) -> "Tiles":
        """No larger than a block of tokens, which bounds what a program may own."""
        most = max(16, 1 << (block - 1).bit_length())
        queries, keys = min(self.queries, most), min(self.keys, most)
        return Tiles(queries=queries, keys=keys, warps=self.warps, stages=self.stages)


def forward_tiles(width: int, half: bool) -> Tiles:
    """Of a kernel whose programs own queries and pass over keys."""
    if not half:
        return Tiles(queries=64, keys=32, warps=4, stages=1 if width > 64 else 2)
    if width <= 64:
        return Tiles(queries=128, keys=64, warps=4, stages=3)
    if width == 128:
        return Tiles(queries=128, keys=64, warps=8, stages=3)
    return Tiles(queries=64, keys=32, warps=4, stages=2)


def query_tiles(width: int, half: bool) -> Tiles:
    """Of the gradient of the queries."""
    if not half:
        return Tiles(queries=32, keys=32, warps=4, stages=1)
    if width <= 64:
        return Tiles(queries=128, keys=64, warps=8, stages=3)
    if width == 128:
        return Tiles(queries=64, keys=64, warps=4, stages=2)
    return Tiles(queries=32, keys=32, warps=4, stages=1)


def token_tiles(width: int, half: bool) -> Tiles:
    """Of the gradients of keys and values, whose programs own keys and pass over queries."""
    if not half:
        return Tiles(queries=32, keys=32, warps=4, stages=1)
    if width <= 64:
        return Tiles(queries=64, keys=64, warps=4, stages=3)
    if width == 128:
        return Tiles(queries=64, keys=64, warps=8, stages=2)
    return Tiles(queries=32, keys=32, warps=4, stages=1)


def far_tiles(width: int, half: bool) -> Tiles:
    """Of the gradients of far keys: as for tokens, with much longer passes."""
    if not half:
        return Tiles(queries=32, keys=32, warps=4, stages=1)
    if width <= 64:
        return Tiles(queries=64, keys=64, warps=4, stages=3)
    if width == 128:
        return Tiles(queries=64, keys=64, warps=8, stages=2)
    return Tiles(queries=32, keys=32, warps=4, stages=1)


def summary_tiles(width: int, block: int) -> Tiles:
    """Of the kernels that pass over the tokens of a block, so many at once."""
    tokens = max(16, min(1 << (block - 1).bit_length(), 16384 // width))
    return Tiles(queries=tokens, keys=tokens, warps=4 if tokens <= 64 else 8, stages=1)
