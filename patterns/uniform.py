"""Equal weight on every visible key: the map that knows nothing of q and k.

>>> from patterns.draw import draw
>>> print(draw(Uniform(), 6))
#.....
##....
###...
####..
#####.
######
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import Paper, Pattern, Shape
from patterns.pieces import Blocks, with_unused

_BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class Uniform(Pattern):
    """The mean of the visible values, which any pattern that reads q and k should beat.

    It scores no pair, so its cost is no pairs and the additions of a running sum.
    """

    causal: bool = True

    name: ClassVar = "uniform"
    paper: ClassVar = Paper(
        title="Accelerating Neural Transformer via an Average Attention Network",
        authors="Zhang, Xiong, Su",
        year=2018,
        link="https://arxiv.org/abs/1805.00631",
        section="3",
    )
    aim: ClassVar = "approximates"
    tiny: ClassVar = {}

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        seen = self._support(rows, q.shape[2])
        seen = seen.to(torch.promote_types(q.dtype, torch.float32))
        weights = seen / seen.sum(dim=-1, keepdim=True)
        return weights.to(q.dtype).expand(*q.shape[:2], -1, -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        values = v.to(torch.promote_types(v.dtype, torch.float32))
        if self.causal:
            seen = torch.arange(1, v.shape[2] + 1, device=v.device, dtype=values.dtype)
            mean = _running_sum(values) / seen[:, None]
        else:
            mean = values.mean(dim=2, keepdim=True)
        return with_unused(mean.to(v.dtype).expand_as(v).contiguous(), q, k)

    def _pairs(self, length: int) -> tuple[int, int]:
        return 0, 0

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return 2 * shape.dim * shape.length


def _running_sum(x: Tensor) -> Tensor:
    """The cumulative sum over rows, as a product within blocks and a sum over blocks.

    GPUs are slow to accumulate along a dimension that is not the last one.
    """
    blocks = Blocks(x.shape[2], _BLOCK)
    rows = blocks.arrange(x)  # [N, M, block, D]
    totals = rows.sum(dim=2, keepdim=True)
    inside = x.new_ones(_BLOCK, _BLOCK).tril() @ rows
    return blocks.restore(inside + totals.cumsum(dim=1) - totals, x.shape[0], 0.0)
