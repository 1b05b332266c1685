"""StreamingLLM: a sliding window and the first tokens, which collect what goes nowhere else.

>>> from patterns.draw import draw
>>> print(draw(Sinks(window=3, sink=2), 9))
#........
##.......
###......
####.....
#####....
##.###...
##..###..
##...###.
##....###
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper
from patterns.checks import require_not_negative, require_positive
from patterns.pieces import attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.tiles import Cover, TilePair, keys_below, near
from patterns.sparse.window import sinks_beyond, sinks_pairs, window_piece


@dataclass(frozen=True, kw_only=True)
class Sinks(SparsePattern):
    """Softmax over the last `window` tokens, the own one included, and the first `sink` ones.

    Bidirectional: the tokens less than `window` away on either side, and the first `sink` ones.
    """

    causal: bool = True
    window: AutoInt = AUTO  # tokens seen, the own one included; automatic: about sqrt(L)
    sink: int = 4  # leading tokens that every later token sees

    name: ClassVar = "sinks"
    paper: ClassVar = Paper(
        title="Efficient Streaming Language Models with Attention Sinks",
        authors="Xiao, Tian, Chen, Han, Lewis",
        year=2023,
        link="https://arxiv.org/abs/2309.17453",
        section="3.2",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"window": 4, "sink": 2}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def __post_init__(self) -> None:
        require_positive(self, "window")
        require_not_negative(self, "sink")

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        return ((query - key).abs() < self.window) | (key < self.sink)

    def _tiles(self, pair: TilePair) -> Cover:
        return near(pair, self.window - 1) | keys_below(pair, self.sink)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        from patterns.kernels.window import attend_window

        return attend_window(
            q, k, v, window=self.window, sink=self.sink, causal=self.causal, scale=scale
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        window = window_piece(q, k, v, window=self.window, causal=self.causal, backend=backend)
        sinks = sinks_beyond(k, v, window=self.window, sink=self.sink, causal=self.causal)
        return attend_pieces(q, [window, *sinks], scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        pairs = sinks_pairs(length, window=self.window, sink=self.sink, causal=self.causal)
        return pairs, 0
