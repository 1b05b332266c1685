"""Tile sizes for Combiner-Fixed, as measured on an H100 with bfloat16; untried on other cards."""

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


_SINGLE = Tiles(queries=32, keys=32, warps=4, stages=1)  # float32, whose tiles are twice as large
_WIDE = Tiles(queries=32, keys=32, warps=4, stages=1)  # heads of more than 128


def forward_tiles(width: int, half: bool, block: int) -> Tiles:
    """Of the forward kernel, whose programs own queries and pass over keys."""
    if not half:
        return _SINGLE
    if width <= 128:
        keys = 64 if width <= 64 and block >= 512 else 32
        return Tiles(queries=64, keys=keys, warps=4, stages=3)
    return _WIDE


def query_tiles(width: int, half: bool) -> Tiles:
    """Of the gradient of the queries, which goes as the forward does."""
    if not half:
        return _SINGLE
    if width <= 128:
        return Tiles(queries=64, keys=32, warps=4, stages=3)
    return _WIDE


def token_tiles(width: int, half: bool, block: int) -> Tiles:
    """Of the gradients of keys and values, whose programs own keys and pass over queries."""
    if not half:
        return _SINGLE
    if width <= 64:
        return Tiles(queries=32 if block < 256 else 64, keys=64, warps=4, stages=2)
    if width == 128:
        return Tiles(queries=32, keys=32, warps=4, stages=3)
    return _WIDE


def far_tiles(width: int, half: bool) -> Tiles:
    """Of the gradients of far keys: as for tokens, with much longer passes."""
    if not half:
        return _SINGLE
    if width <= 64:
        return Tiles(queries=128, keys=64, warps=4, stages=2)
    if width == 128:
        return Tiles(queries=32, keys=64, warps=4, stages=3)
    return _WIDE


def summary_tiles(width: int, half: bool, block: int, biased: bool, indexed: bool) -> Tiles:
    """Of the kernel that makes summaries: all tokens of a block at once, or in passing.

    Args:
        width: of a head, padded to a power of two.
        half: the dtype has 16 bits.
        block: tokens.
        biased: the summaries have a bias.
        indexed: it is kept which token has each maximum.
    """
    tokens = max(16, min(1 << (block - 1).bit_length(), 256, 32768 // width))
    large = half and (width == 128 or (width <= 64 and block > 128))
    if tokens < block or (large and not indexed):
        if biased:
            return Tiles(queries=16, keys=16, warps=4, stages=5)
        return Tiles(queries=16, keys=16, warps=2, stages=4)
    numbers = tokens * width
    warps = max(1, min(8, numbers // 2048))
    if numbers <= 16384 and (indexed or width > 64):
        warps = min(warps, 4)
    return Tiles(queries=tokens, keys=tokens, warps=warps, stages=1)


def summary_gradient_tiles(width: int, block: int) -> Tiles:
    """Of the kernel that goes back through the summaries."""
    tokens = max(16, min(1 << (block - 1).bit_length(), 64, 8192 // width))
    return Tiles(queries=tokens, keys=tokens, warps=2, stages=1)
