"""Combiner-Axial, horizontal: own row and own column directly, the rows above as one region each.

>>> from patterns.draw import draw
>>> print(draw(CombinerAxialHorizontal(columns=3), 9))
#........
##.......
###......
#aa#.....
a#a##....
aa####...
#aa#bb#..
a#ab#b##.
aa#bb####
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt
from patterns.combiner.axial import AxialCombiner
from patterns.combiner.base import PAPER
from patterns.combiner.grid import Grid
from patterns.combiner.scan import summarise_others, summarise_prefixes
from patterns.combiner.summary import SummaryKind
from patterns.pieces import Piece


@dataclass(frozen=True, kw_only=True)
class CombinerAxialHorizontal(AxialCombiner):
    """Token i = (s, u) of a grid: s = i // columns, u = i % columns. O(L * (columns + rows)).

    Direct: row s up to u, and column u up to s. Regions: every row r < s - near without column u,
    as one region (the paper) or split in the part left of u and the part right of it (the released
    code). Bidirectional: the whole row and column are direct, and so is every r more than `near`
    rows away a region. With `near` the rows up to that far from s are direct in all columns.

    All later queries of column u share (r, u), so every column reads down its own summaries.
    """

    causal: bool = True
    regions: Literal["one", "split"] = "one"  # of every row without the own column
    columns: AutoInt = AUTO  # width of the grid; automatic: about sqrt(L)
    summary: SummaryKind = "max"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring rows that are direct

    name: ClassVar = "combiner-axial-horizontal"
    paper: ClassVar = replace(PAPER, section="4.3")
    tiny: ClassVar = {"columns": 4}
    backends: ClassVar = ("triton", "sdpa", "eager")

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        column = query % self.columns
        region = key - key % self.columns + column
        if self.regions == "split":
            region = 2 * region + (key % self.columns > column)
        return (self._labels(rows, length, region),)

    def _fused_plan(self) -> Any:
        return "horizontal" if self.regions == "one" else "split"

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        length, columns = q.shape[2], min(self.resolve(q.shape[2]).columns, q.shape[2])
        alone = not self.causal and columns > 1 and length % columns == 1
        if backend == "triton" and self.regions == "one" and alone:
            return "the fused kernels take no last row of a single token; use backend sdpa"
        return super()._refusal(backend, q)

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
        """Down every column its summaries of the other columns."""
        rows = grid.region_rows
        if not rows or grid.columns == 1:
            return []
        lines, kind = grid.lines(q, k, v, told, rows), self.summary
        if self.regions == "one":
            found, exists = summarise_others(lines, kind, scale, backend)
            if min(grid.members_of(rows[0]), grid.members_of(rows[-1])) > 1:
                exists = None
            return [grid.read_down(found, exists, rows)]
        found, exists = summarise_prefixes(lines.part(0, -1), kind, scale, backend)
        left = grid.read_down(found, exists, rows, before=1)
        found, exists = summarise_prefixes(
            lines.part(1, None), kind, scale, backend, backwards=True
        )
        # The last token of a past row belongs to all its right parts.
        right = grid.read_down(found, None if self.causal else exists, rows, after=1)
        return [left, right]

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        grid = self.grid(length)
        token = grid.tokens()
        member = ((token < length) & (token >= self.sink)).long()
        total, upto = member.sum(dim=1, keepdim=True), member.cumsum(dim=1)
        sizes, readers = total - member, grid.readers_down()
        if self.regions == "split":
            sizes = torch.stack([upto - member, total - upto])
            readers = readers.expand_as(sizes)
        return ((sizes, readers),)
