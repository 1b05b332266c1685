"""Tile sizes of the window kernels: tried ones for Hopper, safe ones for everything else."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import torch

from patterns.kernels.tile_choice import choose

Kernel = Literal["forward", "queries", "keys", "sinks"]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a kernel is cut and compiled.

    rows, keys: queries and keys of a tile, powers of two, at least 16.
    warps, stages: of a program, and the depth of its pipeline of loads.
    split: whether tiles that nothing hides run in a loop of their own, without a mask.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    split: bool = True


_HOPPER: dict[tuple[Kernel, int], Tiles] = {  # 16-bit dtypes, by width of a head
    ("forward", 64): Tiles(rows=128, keys=64, warps=4, stages=3),
    ("forward", 128): Tiles(rows=128, keys=64, warps=8, stages=3),
    ("forward", 256): Tiles(rows=128, keys=32, warps=8, stages=2),
    ("queries", 64): Tiles(rows=128, keys=64, warps=8, stages=3),
    ("queries", 128): Tiles(rows=128, keys=64, warps=8, stages=2),
    ("queries", 256): Tiles(rows=64, keys=32, warps=8, stages=2),
    ("keys", 64): Tiles(rows=64, keys=128, warps=8, stages=3),
    ("keys", 128): Tiles(rows=64, keys=128, warps=8, stages=2),
    ("keys", 256): Tiles(rows=32, keys=64, warps=8, stages=2),
    ("sinks", 64): Tiles(rows=128, keys=16, warps=4, stages=3),
    ("sinks", 128): Tiles(rows=64, keys=16, warps=4, stages=3),
    ("sinks", 256): Tiles(rows=32, keys=16, warps=4, stages=2),
}
_SAFE = {  # by bytes of a number, then by width of a head; "sinks" takes 16 of the keys
    2: {
        64: Tiles(rows=64, keys=32, warps=4, stages=2),
        256: Tiles(rows=32, keys=32, warps=4, stages=1),
    },
    4: {
        64: Tiles(rows=32, keys=32, warps=4, stages=1),
        256: Tiles(rows=16, keys=16, warps=4, stages=1),
    },
}
_INTERPRETED = Tiles(rows=32, keys=16, warps=4, stages=1)  # small: several tiles at small lengths


def tiles(kernel: Kernel, width: int, dtype: torch.dtype, device: torch.device) -> Tiles:
    """The tiles of a kernel for heads of this width (a power of two)."""
    if device.type == "cpu":
        return _INTERPRETED
    bits = 8 * dtype.itemsize
    shipped, safe = _known(kernel, width, bits)
    return choose(f"window.{kernel}", width, bits, device=device, shipped=shipped, safe=safe)


@functools.cache
def _known(kernel: Kernel, width: int, bits: int) -> tuple[Tiles, Tiles]:
    """Those for Hopper, and safe ones."""
    safe = _SAFE[bits // 8][64 if width <= 64 else 256]
    safe = dataclasses.replace(safe, keys=16) if kernel == "sinks" else safe
    return _HOPPER[kernel, max(width, 64)] if bits == 16 else safe, safe


def sink_parts(length: int, rows: int, programs: int, device: torch.device) -> int:
    """Into how many parts the queries are cut for the sinks: enough to fill the device.

    At least 8 tiles of queries a part; `programs` would run without the cut.
    """
    units = 2 if device.type == "cpu" else _multiprocessors(device)
    longest = -(-length // (8 * rows)) if device.type != "cpu" else -(-length // rows)
    return max(1, min(longest, -(-4 * units // programs)))


@functools.lru_cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
