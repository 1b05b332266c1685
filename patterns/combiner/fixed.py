"""Combiner-Fixed: the own block directly, every other visible block through its summary.

>>> from patterns.draw import draw
>>> print(draw(CombinerFixed(block=3), 9))
#........
##.......
###......
aaa#.....
aaa##....
aaa###...
aaabbb#..
aaabbb##.
aaabbb###
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt
from patterns.checks import require_not_negative, require_positive
from patterns.combiner.base import DIRECT, INVISIBLE, PAPER, CombinerPattern
from patterns.combiner.nearby import neighbourhood, sink_pieces
from patterns.combiner.summary import AS_THEY_ARE, SummaryKind, Told, summarise
from patterns.dense import Visibility
from patterns.fused import triton_refusal
from patterns.pieces import Blocks, Columns, Piece, attend_pieces


@dataclass(frozen=True, kw_only=True)
class CombinerFixed(CombinerPattern):
    """Blocks of `block` tokens: O(L * (block + L / block)), least near block = sqrt(L).

    With `near` the blocks before (bidirectional: on either side of) the own one are direct too.
    """

    causal: bool = True
    block: AutoInt = AUTO  # tokens a region, s in the paper; automatic: about sqrt(L)
    summary: SummaryKind = "max"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring blocks that are direct

    name: ClassVar = "combiner-fixed"
    paper: ClassVar = replace(PAPER, section="4.1")
    tiny: ClassVar = {"block": 4}
    backends: ClassVar = ("triton", "sdpa", "eager")

    def __post_init__(self) -> None:
        require_positive(self, "block")
        require_not_negative(self, "sink", "near")

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        away = query // self.block - key // self.block
        labels = (key // self.block).expand(len(rows), length)
        labels = labels.masked_fill((away.abs() <= self.near) | (key < self.sink), DIRECT)
        return (labels.masked_fill(key > query, INVISIBLE) if self.causal else labels,)

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        return triton_refusal(q) if backend == "triton" else super()._refusal(backend, q)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if backend != "triton":
            return super()._run(q, k, v, scale, backend)
        from patterns.kernels import combiner_operators, fixed
        from patterns.kernels.combiner_form import Form

        form = Form(
            block=min(self.block, q.shape[2]),
            near=self.near,
            sink=self.sink,
            kind=self.summary,
            causal=self.causal,
            scale=scale,
        )
        compiling = torch.compiler.is_compiling()
        attend = combiner_operators.attend_fixed if compiling else fixed.attend
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
        blocks = Blocks(q.shape[2], min(self.block, q.shape[2]))
        near, causal = self.near, self.causal
        pieces = neighbourhood(k, v, blocks, near=near, causal=causal)
        if self._far(blocks):
            asking = told.asking(q)
            pieces.append(self._regions(asking, k, v, told.keys, blocks, scale))
        pieces += sink_pieces(k, v, blocks, sink=self.sink, near=near, causal=causal, apart=False)
        return attend_pieces(q, pieces, scale, backend)

    def _far(self, blocks: Blocks) -> int:
        """How many blocks are a region for some query."""
        last = blocks.count - 1 - self.near if self.causal else blocks.count
        return max(0, last - self._emptied(blocks)) if blocks.count > 1 + self.near else 0

    def _emptied(self, blocks: Blocks) -> int:
        """How many leading blocks the sinks have emptied."""
        return blocks.count if self.sink >= blocks.length else self.sink // blocks.block

    def _regions(
        self, q: Tensor, k: Tensor, v: Tensor, told: Tensor | None, blocks: Blocks, scale: float
    ) -> Piece:
        first, block = self._emptied(blocks), blocks.block
        used = slice(first, first + self._far(blocks))
        member = None
        if self.sink % block or not (self.causal or blocks.length % block == 0):
            token = torch.arange(blocks.count * block, device=q.device).view(-1, block)[used]
            member = (token >= self.sink) & (token < blocks.length)
        q, k, v = (blocks.arrange(x)[:, used] for x in (q, k, v))
        told = None if told is None else blocks.arrange(told)[:, used]
        key, value, bias = summarise(q, k, v, member, self.summary, scale, told)
        # Every column of the grid asks the same summaries: row r those of blocks before r - near.
        if self.causal:
            layout = Columns(blocks.length, block, skip=first + self.near + 1)
            visible = Visibility(causal=True)
        else:
            layout = Columns(blocks.length, block)
            row = torch.arange(blocks.count, device=q.device)
            visible = Visibility(mask=(row[:, None] - row[used]).abs() > self.near)
        return Piece(
            layout=layout,
            k=key[:, None],
            v=value[:, None],
            bias=None if bias is None else bias[:, None],
            visible=visible,
        )

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        start = torch.arange(0, length, self.block)
        end = (start + self.block).clamp(max=length)
        reach = self.near * self.block
        readers = (length - end - reach).clamp(min=0)
        if not self.causal:
            readers += (start - reach).clamp(min=0)
        return (((end - start.clamp(min=self.sink)).clamp(min=0), readers),)
