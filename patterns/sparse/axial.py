"""Axial attention: the rows as a grid, each token seeing its grid row and its grid column.

>>> from patterns.draw import draw
>>> print(draw(Axial(columns=3), 8))
#.......
##......
###.....
#..#....
.#.##...
..####..
#..#..#.
.#..#.##
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper
from patterns.checks import require_positive
from patterns.pieces import Blocks, attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.columns import column_pairs, column_pieces
from patterns.sparse.lines import attend_lines
from patterns.sparse.own_block import own_block_pairs, own_block_piece
from patterns.sparse.tiles import Cover, TilePair, multiple_apart, same_block


@dataclass(frozen=True, kw_only=True)
class Axial(SparsePattern):
    """Softmax over the own row and the own column of a grid `columns` wide, read row by row.

    The paper attends along one axis after the other; here one softmax has the keys of both, the
    token itself once. The last grid row may be short.
    """

    causal: bool = True
    columns: AutoInt = AUTO  # width of the grid; automatic: about sqrt(L)

    name: ClassVar = "axial"
    paper: ClassVar = Paper(
        title="Axial Attention in Multidimensional Transformers",
        authors="Ho, Kalchbrenner, Weissenborn, Salimans",
        year=2019,
        link="https://arxiv.org/abs/1912.12180",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"columns": 4}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def __post_init__(self) -> None:
        require_positive(self, "columns")

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        same_row = query // self.columns == key // self.columns
        return same_row | (query % self.columns == key % self.columns)

    def _tiles(self, pair: TilePair) -> Cover:
        return same_block(pair, self.columns) | multiple_apart(pair, self.columns)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return attend_lines(q, k, v, "cross", columns=self.columns, causal=self.causal, scale=scale)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        grid = Blocks(q.shape[2], min(self.columns, q.shape[2]))
        row = own_block_piece(k, v, grid, causal=self.causal)
        column = column_pieces(k, v, width=self.columns, skip=1, causal=self.causal)
        return attend_pieces(q, [row, *column], scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        row = own_block_pairs(length, self.columns, causal=self.causal)
        return row + column_pairs(length, width=self.columns, skip=1, causal=self.causal), 0
