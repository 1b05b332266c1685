"""Sparse Transformer, strided: the last tokens, and every stride-th token before them.

>>> from patterns.draw import draw
>>> print(draw(Strided(stride=3), 10))
#.........
##........
###.......
####......
.####.....
..####....
#..####...
.#..####..
..#..####.
#..#..####
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper
from patterns.checks import require_positive
from patterns.pieces import attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.columns import column_pairs, column_pieces
from patterns.sparse.lines import attend_lines
from patterns.sparse.tiles import Cover, TilePair, multiple_apart, near
from patterns.sparse.window import window_pairs, window_piece


@dataclass(frozen=True, kw_only=True)
class Strided(SparsePattern):
    """Softmax over the keys at most `stride` away and those a multiple of it away.

    The paper gives the two halves to different heads or layers; here every head has their union.
    Bidirectional: the same distances on either side.
    """

    causal: bool = True
    stride: AutoInt = AUTO  # tokens from one distant key to the next, l in the paper; about sqrt(L)

    name: ClassVar = "strided"
    paper: ClassVar = Paper(
        title="Generating Long Sequences with Sparse Transformers",
        authors="Child, Gray, Radford, Sutskever",
        year=2019,
        link="https://arxiv.org/abs/1904.10509",
        section="4.3",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"stride": 4}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def __post_init__(self) -> None:
        require_positive(self, "stride")

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        away = (query - key).abs()
        return (away <= self.stride) | (away % self.stride == 0)

    def _tiles(self, pair: TilePair) -> Cover:
        return near(pair, self.stride) | multiple_apart(pair, self.stride)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return attend_lines(
            q, k, v, "strided", columns=self.stride, causal=self.causal, scale=scale
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        near = window_piece(
            q, k, v, window=self.stride + 1, causal=self.causal, backend=backend
        )  # up to and with the first distant key
        far = column_pieces(k, v, width=self.stride, skip=2, causal=self.causal)
        return attend_pieces(q, [near, *far], scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        near = window_pairs(length, self.stride + 1, causal=self.causal)
        return near + column_pairs(length, width=self.stride, skip=2, causal=self.causal), 0
