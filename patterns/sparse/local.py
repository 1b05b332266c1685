"""A sliding window: each token sees its neighbours.

>>> from patterns.draw import draw
>>> print(draw(Local(window=3), 8))
#.......
##......
###.....
.###....
..###...
...###..
....###.
.....###
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper
from patterns.checks import require_positive
from patterns.pieces import attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.tiles import Cover, TilePair, near
from patterns.sparse.window import window_pairs, window_piece


@dataclass(frozen=True, kw_only=True)
class Local(SparsePattern):
    """Softmax over the last `window` tokens, the own one included.

    Bidirectional: the tokens less than `window` away on either side.
    """

    causal: bool = True
    window: AutoInt = AUTO  # tokens seen, the own one included; automatic: about sqrt(L)

    name: ClassVar = "local"
    paper: ClassVar = Paper(
        title="Longformer: The Long-Document Transformer",
        authors="Beltagy, Peters, Cohan",
        year=2020,
        link="https://arxiv.org/abs/2004.05150",
        section="3.1",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"window": 4}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def __post_init__(self) -> None:
        require_positive(self, "window")

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        return (query - key).abs() < self.window

    def _tiles(self, pair: TilePair) -> Cover:
        return near(pair, self.window - 1)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        from patterns.kernels.window import attend_window

        return attend_window(q, k, v, window=self.window, sink=0, causal=self.causal, scale=scale)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        piece = window_piece(q, k, v, window=self.window, causal=self.causal, backend=backend)
        return attend_pieces(q, [piece], scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        return window_pairs(length, self.window, causal=self.causal), 0
