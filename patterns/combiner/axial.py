"""What the Combiners on a grid share: `columns`, and direct keys beside regions in one softmax."""

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor

from patterns.checks import require_not_negative, require_positive
from patterns.combiner.base import DIRECT, INVISIBLE, CombinerPattern
from patterns.combiner.grid import Grid
from patterns.combiner.summary import AS_THEY_ARE, Told
from patterns.fused import triton_refusal
from patterns.pieces import Piece, attend_pieces


class AxialCombiner(CombinerPattern):
    """A Combiner on a grid; subclasses have a field `columns` and say what their regions are."""

    own_column: ClassVar[bool] = True  # a query sees its column directly

    columns: int

    def __post_init__(self) -> None:
        require_positive(self, "columns")
        require_not_negative(self, "sink", "near")

    @abc.abstractmethod
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
        """What queries read of regions, which are pooled from q and from `told` (None: from k)."""

    def grid(self, length: int) -> Grid:
        """The grid of the resolved pattern."""
        return Grid(
            length=length,
            columns=min(self.columns, length),
            sink=self.sink,
            near=self.near,
            causal=self.causal,
        )

    def _labels(self, rows: Tensor, length: int, region: Tensor) -> Tensor:
        """The partition with these regions [rows, L] where nothing else is said."""
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        away = query // self.columns - key // self.columns
        direct = (away.abs() <= self.near) | (key < self.sink)
        if self.own_column:
            direct = direct | (query % self.columns == key % self.columns)
        labels = region.masked_fill(direct, DIRECT)
        return labels.masked_fill(key > query, INVISIBLE) if self.causal else labels

    def _fused_plan(self) -> Any:
        """Which plan of the fused kernels this is: a `patterns.kernels.axial_form.Plan`."""
        raise NotImplementedError

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        if backend != "triton":
            return super()._refusal(backend, q)
        if self.sink or self.near:
            return "the fused axial kernels have no sinks and no near rows; use backend sdpa"
        return triton_refusal(q)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if backend != "triton":
            return super()._run(q, k, v, scale, backend)
        from patterns.kernels import axial, axial_form, axial_operator

        form = axial_form.Axial(
            plan=self._fused_plan(),
            columns=min(self.columns, q.shape[2]),
            kind=self.summary,
            causal=self.causal,
            scale=scale,
        )
        attend = axial_operator.attend if torch.compiler.is_compiling() else axial.attend
        return attend(q, k, v, form)

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
        direct = grid.direct_pieces(k, v, column=self.own_column)
        asking = told.asking(q)
        regions = self.region_pieces(asking, k, v, told.keys, grid, scale, backend)
        return attend_pieces(q, direct + regions, scale, backend)
