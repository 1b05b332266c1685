"""The keys with the highest scores: what no choice of equally many keys can beat in mass."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import Paper, Pattern, Shape
from patterns.checks import require_positive
from patterns.computed import count
from patterns.recompute import recomputed, row_slices


@dataclass(frozen=True, kw_only=True)
class OracleTopk(Pattern):
    """Softmax over the `top` visible keys with the highest scores; of equals the earliest.

    It scores every visible pair to choose, so it is as slow as full attention: it is the bound for
    patterns that choose keys without that. Scores are compared in at least float32. No gradient
    flows through the choice.
    """

    causal: bool = True
    top: int = 64  # keys of each query

    name: ClassVar = "oracle-topk"
    paper: ClassVar = Paper(
        title="Memory-efficient Transformers via Top-k Attention",
        authors="Gupta, Dar, Goodman, Ciprut, Berant",
        year=2021,
        link="https://arxiv.org/abs/2106.06899",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"top": 3}
    quadratic: ClassVar = True

    def __post_init__(self) -> None:
        require_positive(self, "top")

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        scores = scale * (q[:, :, rows].to(dtype) @ k.to(dtype).transpose(-1, -2))
        scores = scores.masked_fill(~self._support(rows, q.shape[2]), -math.inf)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        chosen.scatter_(-1, order[..., : self.top], True)
        return scores.masked_fill(~chosen, -math.inf).softmax(dim=-1).to(q.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        batch, heads, length, _ = q.shape

        def attend_slice(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
            dtype = torch.promote_types(q.dtype, torch.float32)
            count(lambda: batch * heads * q.shape[2] * k.shape[2])
            scores = (q.to(dtype) * scale) @ k.to(dtype).transpose(-1, -2)
            if self.causal:
                rows = torch.arange(start, start + q.shape[2], device=q.device)
                scores = scores.masked_fill(~self._support(rows, k.shape[2]), -math.inf)
            chosen = _highest(scores.detach(), self.top)
            weights = scores.masked_fill(~chosen, -math.inf).softmax(dim=-1)
            return (weights @ v.to(dtype)).to(v.dtype)

        found = []
        for part in row_slices(length, batch * heads * length):
            seen = slice(part.stop if self.causal else length)
            inputs = q[:, :, part], k[:, :, seen], v[:, :, seen], part.start
            found.append(recomputed(attend_slice, *inputs))
        return torch.cat(found, dim=2)

    def _pairs(self, length: int) -> tuple[int, int]:
        top = min(self.top, length)
        attended, scored = top * length, length * length
        if self.causal:
            attended -= top * (top - 1) // 2
            scored = length * (length + 1) // 2
        return attended, scored - attended

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return shape.dim * (4 * attended + 2 * building)


def _highest(scores: Tensor, top: int) -> Tensor:
    """Which are the `top` highest of each row, of equals the first; -inf never is."""
    if top >= scores.shape[-1]:
        return scores > -math.inf
    least = scores.topk(top, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above, equal = scores > least, scores == least
    room = top - above.sum(dim=-1, keepdim=True)
    first = equal.cumsum(dim=-1, dtype=torch.int32) <= room
    return (above | (equal & first)) & (scores > -math.inf)
