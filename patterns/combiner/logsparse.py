"""Combiner-Logsparse: the past in dyadic regions, the longer the further away.

>>> from patterns.draw import draw
>>> print(draw(CombinerLogsparse(), 9))
#........
##.......
aa#......
aa##.....
aaaa#....
aaaa##...
aaaabb#..
aaaabb##.
aaaaaaaa#
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from patterns.checks import require_not_negative, require_positive
from patterns.combiner.base import DIRECT, INVISIBLE, PAPER, CombinerPattern
from patterns.combiner.dyadic import Dyadic, levels
from patterns.combiner.summary import AS_THEY_ARE, SummaryKind, Told
from patterns.fused import triton_refusal
from patterns.kernels import assembler
from patterns.pieces import attend_pieces


@dataclass(frozen=True, kw_only=True)
class CombinerLogsparse(CombinerPattern):
    """Leaves of `block` tokens, split as the bits of a leaf's number say: O(L * log L).

    A query in leaf a sees its own leaf (causal: up to itself) and `near` leaves before it
    directly. The leaves [0, b), b = max(a - near, 0), are split like the binary number b: for
    every set bit l of b one region, the leaves [((b >> l) - 1) * 2**l, (b >> l) * 2**l). A region
    of a single token is direct: with block = 1, the paper, token i sees itself and, where i is
    odd, i - 1. Bidirectional: the same to the right, mirrored, leaves counted from the end.
    """

    causal: bool = True
    block: int = 1  # tokens a leaf
    summary: SummaryKind = "max"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring leaves that are direct

    name: ClassVar = "combiner-logsparse"
    paper: ClassVar = replace(PAPER, section="4.2")
    tiny: ClassVar = {"block": 1}
    backends: ClassVar = ("triton", "sdpa", "eager")

    def __post_init__(self) -> None:
        require_positive(self, "block")
        require_not_negative(self, "sink", "near")

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        labels = self._look_back(query, key)
        if self.causal:
            labels = labels.masked_fill(key > query, INVISIBLE)
        else:
            ahead = self._look_back(length - 1 - query, length - 1 - key)
            ahead = torch.where(ahead > DIRECT, ahead + 4 * length, DIRECT)
            labels = torch.where(key > query, ahead, labels)
        return (labels.masked_fill((key < self.sink) & (labels > DIRECT), DIRECT),)

    def _look_back(self, query: Tensor, key: Tensor) -> Tensor:
        """The region of every key before the query."""
        bound = (query // self.block - self.near).clamp(min=0)
        leaf = key // self.block
        # The highest bit where a leaf differs from the bound is the bit whose region holds it.
        level = (torch.frexp((bound ^ leaf).double()).exponent - 1).clamp(min=0)
        label = 2 * (leaf >> level) + 1 << level
        direct = (leaf >= bound) | (self.block << level == 1)
        return label.masked_fill(direct, DIRECT)

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        if backend != "triton":
            return super()._refusal(backend, q)
        if self.block & (self.block - 1) and self.block < q.shape[2]:
            return (
                f"the Triton kernels take leaves of a power of two tokens, not block={self.block}; "
                "use backend sdpa or eager"
            )
        why = triton_refusal(q)
        if why is None and q.is_cuda and not assembler.sound(q.device.index):
            return (
                f"the ptxas of CUDA {assembler.version(q.device.index)} gets these kernels wrong "
                "on Hopper: set TRITON_PTXAS_PATH to that of CUDA 12.9 or newer, or use sdpa"
            )
        return why

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if backend != "triton":
            return super()._run(q, k, v, scale, backend)
        from patterns.kernels import combiner_operators, logsparse
        from patterns.kernels.combiner_form import Form

        form = Form(
            block=self.block,
            near=self.near,
            sink=self.sink,
            kind=self.summary,
            causal=self.causal,
            scale=scale,
        )
        compiling = torch.compiler.is_compiling()
        attend = combiner_operators.attend_logsparse if compiling else logsparse.attend
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
        back, ahead = (
            Dyadic(
                length=q.shape[2],
                block=min(self.block, q.shape[2]),
                near=self.near,
                sink=self.sink,
                summary=self.summary,
                mirrored=mirrored,
            )
            for mirrored in (False, True)
        )
        sides = [back] if self.causal else [back, ahead]
        asking = told.asking(q)
        pieces = [side.piece(asking, k, v, told.keys, scale) for side in sides]
        return attend_pieces(q, pieces, scale, backend)

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        empty = torch.zeros(0, dtype=torch.int64)
        sizes, readers = [empty], [empty]
        lag = self.near * self.block
        for size, count in levels(length, self.block, lag):
            start = 2 * size * torch.arange(count)
            read = (length - lag - size - start).clamp(max=size)
            sizes.append((start + size - self.sink).clamp(min=0, max=size))
            readers.append(read)
            if not self.causal:
                sizes.append((length - self.sink - start).clamp(min=0, max=size))
                readers.append(read)
        return ((torch.cat(sizes), torch.cat(readers)),)
