"""Tile sizes for Combiner-Fixed, as measured on an H100 with bfloat16; safe ones elsewhere."""

from dataclasses import dataclass

import torch

from patterns.kernels.tile_choice import Key, choose


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
        most = max(16, _power(block))
        queries, keys = min(self.queries, most), min(self.keys, most)
        return Tiles(queries=queries, keys=keys, warps=self.warps, stages=self.stages)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Sizes of a launch whose programs own a block: keys at a time, warps of a program."""

    keys: int
    warps: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Sizes of a launch in whose programs a block passes by: as `Pass`, and tiles in flight."""

    keys: int
    warps: int
    stages: int


_SINGLE = Tiles(queries=32, keys=32, warps=4, stages=1)  # float32, whose tiles are twice as large
_WIDE = Tiles(queries=32, keys=32, warps=4, stages=1)  # heads of more than 128
SAFE = Tiles(queries=32, keys=32, warps=4, stages=1)


def forward_tiles(
    width: int, half: bool, block: int, device: torch.device, *, biased: bool = False
) -> Tiles:
    """Of the forward kernel, whose programs own queries and pass over keys."""
    if not half:
        tiles = _SINGLE
    elif width <= 128:
        keys = 64 if width <= 64 and block >= (512 if biased else 256) else 32
        tiles = Tiles(queries=64, keys=keys, warps=4, stages=3)
    else:
        tiles = _WIDE
    form = ("biased",) if biased else ()
    return _chosen("forward", width, half, tiles, device, _power(block), *form)


def query_tiles(width: int, half: bool, device: torch.device) -> Tiles:
    """Of the gradient of the queries, which goes as the forward does."""
    if not half:
        tiles = _SINGLE
    elif width <= 128:
        tiles = Tiles(queries=64, keys=32, warps=4, stages=3)
    else:
        tiles = _WIDE
    return _chosen("queries", width, half, tiles, device)


def token_tiles(width: int, half: bool, block: int, device: torch.device) -> Tiles:
    """Of the gradients of keys and values, whose programs own keys and pass over queries."""
    if not half:
        tiles = _SINGLE
    elif width <= 64:
        tiles = Tiles(queries=32 if block < 256 else 64, keys=64, warps=4, stages=2)
    elif width == 128:
        tiles = Tiles(queries=32, keys=32, warps=4, stages=3)
    else:
        tiles = _WIDE
    return _chosen("tokens", width, half, tiles, device, _power(block))


def far_tiles(width: int, half: bool, device: torch.device) -> Tiles:
    """Of the gradients of far keys: as for tokens, with much longer passes."""
    if not half:
        tiles = _SINGLE
    elif width <= 64:
        tiles = Tiles(queries=128, keys=64, warps=4, stages=2)
    elif width == 128:
        tiles = Tiles(queries=32, keys=64, warps=4, stages=3)
    else:
        tiles = _WIDE
    return _chosen("far", width, half, tiles, device)


def summary_tiles(
    width: int, half: bool, block: int, biased: bool, indexed: bool, device: torch.device
) -> Stream:
    """Of the kernel that makes summaries: all tokens of a block at once, or in passing.

    Args:
        width: of a head, padded to a power of two.
        half: the dtype has 16 bits.
        block: tokens.
        biased: the summaries have a bias.
        indexed: it is kept which token has each maximum.
        device: where it runs.
    """
    tokens = max(16, min(_power(block), 256, 32768 // width))
    large = half and (width == 128 or (width <= 64 and block > 128))
    if tokens < block or (large and not indexed):
        if width == 128 and block <= 128:
            warps, stages = 2, 3
        else:
            warps, stages = (4, 5) if biased else (2, 4)
        shipped = Stream(keys=16, warps=warps, stages=stages)
    else:
        numbers = tokens * width
        warps = max(1, min(8, numbers // 2048))
        if numbers <= 16384 and (indexed or width > 64):
            warps = min(warps, 4)
        shipped = Stream(keys=tokens, warps=warps, stages=1)
    return choose(
        "fixed.summaries",
        width,
        16 if half else 32,
        _power(block),
        "indexed" if indexed else "biased" if biased else "plain",
        device=device,
        shipped=shipped,
        safe=Stream(keys=16, warps=4, stages=1),
    )


def summary_gradient_tiles(width: int, block: int, device: torch.device) -> Pass:
    """Of the kernel that goes back through the summaries."""
    tokens = max(16, min(_power(block), 64, 8192 // width))
    return choose(
        "fixed.summary_gradients",
        width,
        _power(block),
        device=device,
        shipped=Pass(keys=tokens, warps=2),
        safe=_safe_pass(width, block),
    )


def _chosen(
    kernel: str, width: int, half: bool, tiles: Tiles, device: torch.device, *more: Key
) -> Tiles:
    key = (width, 16 if half else 32, *more)
    return choose(f"fixed.{kernel}", *key, device=device, shipped=tiles, safe=SAFE)


def _safe_pass(width: int, block: int) -> Pass:
    return Pass(keys=max(16, min(_power(block), 32, 4096 // width)), warps=4)


def _power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()
