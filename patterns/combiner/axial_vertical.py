"""Combiner-Axial, vertical: own row and own column directly, the rows above by columns.

>>> from patterns.draw import draw
>>> print(draw(CombinerAxialVertical(columns=3), 9))
#........
##.......
###......
#ab#.....
a#b##....
ab####...
#ab#ab#..
a#ba#b##.
ab#ab####
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.base import AUTO, AutoInt
from patterns.combiner.axial import AxialCombiner
from patterns.combiner.base import PAPER
from patterns.combiner.grid import Grid
from patterns.combiner.scan import summarise_prefixes
from patterns.combiner.summary import SummaryKind
from patterns.pieces import Piece


@dataclass(frozen=True, kw_only=True)
class CombinerAxialVertical(AxialCombiner):
    """Token i = (s, u) of a grid: s = i // columns, u = i % columns. O(L * (columns + rows)).

    Direct: row s up to u, and column u up to s. Regions: of every other column t, also t > u, the
    rows r < s - near. Bidirectional: the whole row and column are direct, and column t has a
    region above, r < s - near, and one below, r > s + near. With `near` the rows up to that far
    from s are direct in all columns.

    All queries of a row share its prefixes, which grow from row to row: keys and queries by
    running pools, values by causal attention of the pooled queries down the columns.
    """

    causal: bool = True
    columns: AutoInt = AUTO  # width of the grid; automatic: about sqrt(L)
    summary: SummaryKind = "max"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring rows that are direct

    name: ClassVar = "combiner-axial-vertical"
    paper: ClassVar = replace(PAPER, section="4.3")
    tiny: ClassVar = {"columns": 4}
    backends: ClassVar = ("triton", "sdpa", "eager")

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        row, column = query // self.columns, key % self.columns
        above = (row - self.near) * self.columns + column
        below = 2 * length + (row + self.near + 1) * self.columns + column
        region = torch.where(key < query, above, below)
        return (self._labels(rows, length, region),)

    def _fused_plan(self) -> Any:
        return "vertical"

    def region_pieces(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        told: Tensor | None,
        grid: Grid,
        scale: float,
        backend: str,
    ) -> list[Piece]:
        """Above every row its prefixes of all columns and, bidirectional, below it the suffixes."""
        last = grid.rows - grid.reach
        if last < 1 or grid.columns == 1:
            return []
        above = grid.lines(q, k, v, told, range(last)).crossed()
        found, exists = summarise_prefixes(above, self.summary, scale, backend)
        pieces = [grid.read_across(found, exists, skip=grid.reach)]
        if not self.causal:
            below = grid.lines(q, k, v, told, range(grid.reach, grid.rows)).crossed()
            found, exists = summarise_prefixes(below, self.summary, scale, backend, backwards=True)
            pieces.append(grid.read_across(found, exists, drop=grid.reach))
        return pieces

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        grid = self.grid(length)
        token = grid.tokens()
        exists, member = token < length, (token < length) & (token >= self.sink)
        readers = exists.sum(dim=1, keepdim=True) - exists.long()
        sizes = _beyond(member, grid.reach)
        if not self.causal:
            sizes = torch.stack([sizes, _beyond(member.flip(0), grid.reach).flip(0)])
            readers = readers.expand_as(sizes)
        return ((sizes, readers),)


def _beyond(member: Tensor, reach: int) -> Tensor:
    """How many members of its column lie at least `reach` rows above each place."""
    above = member.cumsum(dim=0)[: max(0, len(member) - reach)]
    return pad(above, (0, 0, len(member) - len(above), 0))
