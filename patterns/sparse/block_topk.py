"""Block top-k: the own block, and the blocks whose mean key answers the query best."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.base import AUTO, AutoInt, Paper, Pattern, Shape
from patterns.checks import require_positive
from patterns.computed import count
from patterns.dense import Visibility
from patterns.pieces import Blocks, Piece, attend_pieces
from patterns.recompute import recomputed, row_slices
from patterns.sparse.groups import group_rows, take
from patterns.sparse.own_block import own_block_pairs, own_block_piece

_TILE = 128  # queries that meet a block together


@dataclass(frozen=True, kw_only=True)
class BlockTopk(Pattern):
    """Softmax over the own block and the `top` other blocks with the highest q . mean(k).

    Causal: out of the blocks before the own one. Of equals the earliest. Bidirectional: a short
    last block is not compared with whole ones; every query sees it beside its `top` blocks.
    Blocks are compared in at least float32. No gradient flows through the choice.

    The paper counts the own block among its top; Quest (2406.10774) and NSA (2502.11089) choose
    blocks in the same way by other summaries of their keys.
    """

    causal: bool = True
    block: AutoInt = AUTO  # tokens a block; automatic: about sqrt(L)
    top: int = 4  # blocks chosen beside the own one

    name: ClassVar = "block-topk"
    paper: ClassVar = Paper(
        title="MoBA: Mixture of Block Attention for Long-Context LLMs",
        authors="Lu et al.",
        year=2025,
        link="https://arxiv.org/abs/2502.13189",
        section="2.2",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"block": 2, "top": 2}
    backends: ClassVar = ("sdpa", "eager")

    def __post_init__(self) -> None:
        require_positive(self, "block", "top")

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        length, dtype = q.shape[2], torch.promote_types(q.dtype, torch.float32)
        queries, keys = q[:, :, rows].to(dtype), k.to(dtype)
        whole = length // self.block
        means = torch.unflatten(keys[:, :, : whole * self.block], 2, (whole, self.block)).mean(3)
        own, number = rows[:, None] // self.block, torch.arange(whole, device=q.device)
        others = number < own if self.causal else number != own
        answers = (queries @ means.transpose(-1, -2)).masked_fill(~others, -math.inf)
        best = answers.argsort(dim=-1, descending=True, stable=True)[..., : self.top]
        chosen = torch.zeros_like(answers, dtype=torch.bool).scatter_(-1, best, True) & others
        chosen = pad(chosen, (0, 1), value=not self.causal)  # the short last block
        block = torch.arange(length, device=q.device) // self.block
        allowed = ((block == own) | chosen[..., block]) & self._support(rows, length)
        scores = scale * (queries @ keys.transpose(-1, -2))
        return scores.masked_fill(~allowed, -math.inf).softmax(dim=-1).to(q.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        batch, heads, length, dim = q.shape
        q, k, v = (x.reshape(1, batch * heads, length, -1) for x in (q, k, v))
        found = []
        for part in row_slices(batch * heads, 4 * length * dim):
            inputs = (x[:, part] for x in (q, k, v))
            found.append(recomputed(self._attend_heads, *inputs, scale, backend))
        return torch.cat(found, dim=1).view(batch, heads, length, -1)

    def _attend_heads(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        blocks = Blocks(q.shape[2], min(self.block, q.shape[2]))
        pieces = [own_block_piece(k, v, blocks, causal=self.causal)]
        keys, values = pieces[0].k, pieces[0].v
        if not self.causal and blocks.length % blocks.block:
            pieces.append(_short_block_piece(keys, values, blocks))
        with torch.no_grad():
            choices = self._choose(q, keys, blocks)
        # Many tiles read the same block: in float32 the gradients that they send it add up well.
        keys, values = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (keys, values))
        # One piece has the first choices of all queries, the next one the second choices.
        for choice in choices:
            groups = group_rows(choice, blocks.count, min(blocks.block, _TILE))
            k, v = (take(x, groups.label).to(q.dtype) for x in (keys, values))
            pieces.append(Piece(layout=groups, k=k, v=v))
        return attend_pieces(q, pieces, scale, backend)

    def _choose(self, q: Tensor, keys: Tensor, blocks: Blocks) -> list[Tensor]:
        """The block [N, L] that each query likes best, then the second best, up to `top`.

        Where there are fewer to choose from, the number of blocks stands for none.
        """
        dtype = torch.promote_types(q.dtype, torch.float32)
        means = keys[:, : blocks.length // blocks.block].to(dtype).mean(dim=2)
        number = torch.arange(means.shape[1], device=q.device)
        count(lambda: q.shape[1] * blocks.length * len(number))
        found = []
        for part in row_slices(blocks.length, q.shape[1] * len(number)):
            own = torch.arange(part.start, part.stop, device=q.device)[:, None] // blocks.block
            others = number < own if self.causal else number != own
            answers = q[0, :, part].to(dtype) @ means.transpose(-1, -2)
            answers = answers.masked_fill(~others, -math.inf)
            chosen = []
            for _ in range(min(self.top, blocks.count - 1)):
                highest, first = answers.max(dim=-1)
                chosen.append(first.masked_fill(highest == -math.inf, blocks.count))
                answers.scatter_(-1, first[..., None], -math.inf)
            found.append(chosen)
        return [torch.cat(parts, dim=1) for parts in zip(*found, strict=True)]

    def _pairs(self, length: int) -> tuple[int, int]:
        full, rest = divmod(length, self.block)
        attended = own_block_pairs(length, self.block, causal=self.causal)
        if self.causal:
            top = min(self.top, full)
            chosen = self.block * top * (top - 1) // 2  # by the first blocks, which have too few
            chosen += self.block * (full - top) * top + rest * top
            compared = self.block * full * (full - 1) // 2 + rest * full
        else:
            others = max(0, full - 1)
            chosen = full * self.block * min(self.top, others) + rest * min(self.top, full)
            compared = full * self.block * others + rest * full
            attended += full * self.block * rest
        return attended + chosen * self.block, compared

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return shape.dim * (4 * attended + 2 * building)


def _short_block_piece(keys: Tensor, values: Tensor, blocks: Blocks) -> Piece:
    """Every query of a whole block against the short last block."""
    rest = blocks.length % blocks.block
    before = torch.arange(blocks.count, device=keys.device) < blocks.count - 1
    return Piece(
        layout=blocks,
        k=keys[:, -1:, :rest],
        v=values[:, -1:, :rest],
        visible=Visibility(mask=before[:, None, None]),
    )
