"""Combiner-Mixture: the vertical and the horizontal partition of the same keys, side by side.

The drawing is of the vertical one; `combiner-axial-horizontal[regions=split]` is the other.

>>> from patterns.draw import draw
>>> print(draw(CombinerMixture(columns=3), 9))
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

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt
from patterns.combiner.axial import AxialCombiner
from patterns.combiner.axial_horizontal import CombinerAxialHorizontal
from patterns.combiner.axial_vertical import CombinerAxialVertical
from patterns.combiner.base import PAPER
from patterns.combiner.grid import Grid
from patterns.combiner.summary import AS_THEY_ARE, SummaryKind, Told
from patterns.pieces import Piece, attend_pieces


@dataclass(frozen=True, kw_only=True)
class CombinerMixture(AxialCombiner):
    """Two plans on one grid: combiner-axial-vertical, and -horizontal with split regions.

    average  the mean of the two attentions, each with a softmax of its own (the paper)
    joint    one softmax over the direct keys, once, and the regions of both plans (the released
             code): a key that is not direct is there twice, so that the bias of `variational`
             summaries is lower by log 2
    """

    causal: bool = True
    form: Literal["average", "joint"] = "average"
    columns: AutoInt = AUTO  # width of the grid; automatic: about sqrt(L)
    summary: SummaryKind = "max"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring rows that are direct

    name: ClassVar = "combiner-mixture"
    paper: ClassVar = replace(PAPER, section="4.4")
    tiny: ClassVar = {"columns": 4}
    backends: ClassVar = ("triton", "sdpa", "eager")

    @property
    def joint(self) -> bool:
        """Whether the plans share one softmax."""
        return self.form == "joint"

    def _plans(self) -> tuple[AxialCombiner, AxialCombiner]:
        vertical = CombinerAxialVertical(
            causal=self.causal,
            columns=self.columns,
            summary=self.summary,
            sink=self.sink,
            near=self.near,
        )
        horizontal = CombinerAxialHorizontal(
            causal=self.causal,
            regions="split",
            columns=self.columns,
            summary=self.summary,
            sink=self.sink,
            near=self.near,
        )
        return vertical, horizontal

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        return tuple(plan.partitions(rows, length)[0] for plan in self._plans())

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(plan.region_counts(length)[0] for plan in self._plans())

    def _multiplicity(self) -> int:
        return 2 if self.joint else 1

    def _fused_plan(self) -> Any:
        return self.form

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
        """The regions of both plans, for one softmax."""
        vertical, horizontal = (
            plan.region_pieces(q, k, v, told, grid, scale, backend) for plan in self._plans()
        )
        return [self._weaker(piece) for piece in vertical + horizontal]

    def _weaker(self, piece: Piece) -> Piece:
        """The mass of a variational summary, shared out between the regions that hold a token."""
        if self.summary != "variational" or piece.bias is None:
            return piece
        return replace(piece, bias=piece.bias - math.log(self._multiplicity()))

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        backend: str,
        told: Told = AS_THEY_ARE,
    ) -> Tensor:
        grid = self.grid(q.shape[2])
        direct = grid.direct_pieces(k, v, column=True)
        asking = told.asking(q)
        inputs = (asking, k, v, told.keys, grid, scale, backend)
        if self.joint:
            regions = self.region_pieces(*inputs)
            return attend_pieces(q, direct + regions, scale, backend)
        outputs = [
            attend_pieces(q, direct + plan.region_pieces(*inputs), scale, backend)
            for plan in self._plans()
        ]
        return torch.stack(outputs).mean(dim=0)
