"""The grid of a call along lines, and what its launches share.

Letters as in `patterns.kernels.lines`.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from patterns.kernels.launching import precision
from patterns.kernels.lines_tiles import Work, line_tiles
from patterns.kernels.tuned import Tiles

UPTO, APART, ALL, FROM = 0, 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The grid and the sizes that all launches of a call share; `scale` is that of the scores."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int
    columns: int
    scale: float
    half: bool
    exactness: str  # of the products of float32 numbers

    @property
    def rows(self) -> int:
        """S, a last short row included."""
        return -(-self.length // self.columns)

    @property
    def lines(self) -> int:
        """Query heads of all sequences."""
        return self.batch * self.heads

    @property
    def group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def padded(self) -> int:
        """P, the places of the grid."""
        return self.rows * self.columns

    @property
    def width(self) -> int:
        """D as a power of two that a matrix product takes."""
        return max(16, 1 << (self.dim - 1).bit_length())

    @property
    def base2(self) -> float:
        """The scale for scores in units of log 2."""
        return self.scale / math.log(2)

    def extent(self, down: bool) -> int:
        """How long a line is."""
        return self.rows if down else self.columns

    def programs(self, down: bool, tile: int) -> int:
        """How many tiles of a line there are in all lines of all heads."""
        across = self.columns if down else self.rows
        return -(-self.extent(down) // tile) * across * self.lines

    def tiles(self, work: Work, down: bool) -> Tiles:
        """Tile sizes for lines of this direction."""
        extent = self.extent(down)
        return line_tiles(work, self.width, self.half, extent, extent)

    @property
    def constants(self) -> dict[str, Any]:
        """What every kernel takes."""
        return {"DIM": self.dim, "WIDTH": self.width, "PRECISION": self.exactness}


def frame_of(q: Tensor, k: Tensor, columns: int, scale: float) -> Frame:
    """The frame of these queries and keys."""
    batch, heads, length, dim = q.shape
    return Frame(
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        length=length,
        dim=dim,
        columns=columns,
        scale=scale,
        half=q.element_size() == 2,
        exactness=precision(q),
    )
