"""Combiner-Open: a query opens the regions that weigh most for it, and sees their tokens."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper, Pattern, Shape
from patterns.checks import require_not_negative, require_positive
from patterns.combiner.base import PAPER
from patterns.combiner.nearby import neighbourhood, sink_pieces
from patterns.combiner.rotary import asking_from
from patterns.combiner.summary import Summary, summarise
from patterns.dense import Visibility
from patterns.errors import BadInput
from patterns.pieces import Blocks, Columns, Piece, attend_pieces
from patterns.recompute import recomputed, row_slices
from patterns.sparse.groups import group_rows, take

_TILE = 128  # queries that meet an opened block together


@dataclass(frozen=True, kw_only=True)
class CombinerOpen(Pattern):
    """Combiner-Fixed with variational summaries, where each query opens `top` of its regions.

    Direct: the own block, `near` blocks before it, and `sink` leading tokens. Every other block
    before them is a region, with a key, a value and a bias as in
    combiner-fixed[summary=variational]. Of its regions a query opens the `top` ones with the
    highest score c <q, key> + bias, of equals the earliest: it sees their tokens directly and not
    their summary, so that direct keys and regions still cover every visible key once. No gradient
    flows through the choice. Bidirectional: blocks on both sides.

    With `rotary`, the base of a model's rotary embedding (pairs (d, d + D / 2)), the queries of a
    region are moved to one place before they are averaged: `ahead` tokens past its middle.

    Ours: Combiner has no such choice, and the patterns that choose blocks (block-topk) see nothing
    of the others.
    """

    causal: bool = True
    block: AutoInt = AUTO  # tokens a region; automatic: about sqrt(L)
    top: int = 2  # regions opened by a query
    sink: int = 4  # leading tokens that are always direct and belong to no region
    near: int = 2  # neighbouring blocks that are direct
    rotary: float = 0.0  # base of the rotary embedding; 0 where there is none
    ahead: int = 256  # tokens past a region's middle, where its query asks from; with rotary

    name: ClassVar = "combiner-open"
    paper: ClassVar[Paper] = PAPER
    aim: ClassVar = "approximates"
    tiny: ClassVar = {"block": 2, "top": 2, "sink": 1, "near": 1}
    backends: ClassVar = ("sdpa", "eager")

    def __post_init__(self) -> None:
        require_positive(self, "block")
        require_not_negative(self, "top", "sink", "near", "rotary", "ahead")

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _asking(self, q: Tensor) -> Tensor:
        """What the region queries are averaged from."""
        if not self.rotary:
            return q
        if q.shape[-1] % 2:
            raise BadInput(f"rotary embeddings turn pairs: the head width {q.shape[-1]} is odd")
        return asking_from(q, self.block, self.rotary, self.ahead)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        dtype, length = torch.promote_types(q.dtype, torch.float32), q.shape[2]
        queries, keys = q[:, :, rows].to(dtype), k.to(dtype)
        key = torch.arange(length, device=q.device)
        own, block = rows[:, None] // self.block, key // self.block
        number = torch.arange(-(-length // self.block), device=q.device)
        member = (block == number[:, None]) & (key >= self.sink)  # [R, L]
        lives = member.any(dim=1)

        asked = member.to(dtype) @ self._asking(q.to(dtype)) / member.sum(1).clamp(min=1)[:, None]
        local = scale * (asked @ keys.transpose(-1, -2))
        local = local.masked_fill(~member & lives[:, None], -math.inf)
        bias, local = local.logsumexp(dim=-1), local.softmax(dim=-1)
        region_key = local @ keys
        bias = bias - scale * (asked * region_key).sum(dim=-1)

        away = own - number
        far = ((away if self.causal else away.abs()) > self.near) & lives
        regions = scale * (queries @ region_key.transpose(-1, -2)) + bias[..., None, :]
        regions = regions.masked_fill(~far, -math.inf)
        best = regions.argsort(dim=-1, descending=True, stable=True)[..., : self.top]
        opened = torch.zeros_like(regions, dtype=torch.bool).scatter_(-1, best, True) & far

        seen = ((own - block).abs() <= self.near) | (key < self.sink) | opened[..., block]
        direct = scale * (queries @ keys.transpose(-1, -2))
        direct = direct.masked_fill(~(seen & self._support(rows, length)), -math.inf)
        regions = regions.masked_fill(opened, -math.inf)
        weights = torch.cat([direct, regions], dim=-1).softmax(dim=-1)
        return (weights[..., :length] + weights[..., length:] @ local).to(q.dtype)

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
        near, causal, dtype = self.near, self.causal, q.dtype
        pieces = neighbourhood(k, v, blocks, near=near, causal=causal)
        token = torch.arange(blocks.count * blocks.block, device=q.device).view(blocks.count, -1)
        member = (token >= self.sink) & (token < blocks.length)
        far = self._far(blocks, member.any(dim=1))
        if far.any():
            # In float32 as the map has it, so that both choose the same regions; and many tiles
            # read the same block: there the gradients that they send it add up well.
            wide = torch.promote_types(dtype, torch.float32)
            keys, values = (blocks.arrange(x).to(wide) for x in (k, v))
            asking = blocks.arrange(self._asking(q.to(wide)))
            found = summarise(asking, keys, values, member, "variational", scale)
            with torch.no_grad():
                choices, opened = self._choose(q, found, far, blocks, scale)
            pieces.append(_regions(found, far[:, None] & ~opened, blocks, dtype))
            for choice in choices:
                groups = group_rows(choice, blocks.count, min(blocks.block, _TILE))
                k_, v_ = (take(x, groups.label).to(dtype) for x in (keys, values))
                visible = Visibility(mask=member[groups.label][:, :, None])
                pieces.append(Piece(layout=groups, k=k_, v=v_, visible=visible))
        pieces += sink_pieces(k, v, blocks, sink=self.sink, near=near, causal=causal, apart=False)
        return attend_pieces(q, pieces, scale, backend)

    def _far(self, blocks: Blocks, lives: Tensor) -> Tensor:
        """Which blocks are regions for the queries of which block, [R, R]."""
        number = torch.arange(blocks.count, device=lives.device)
        away = number[:, None] - number
        return ((away if self.causal else away.abs()) > self.near) & lives

    def _choose(
        self, q: Tensor, found: Summary, far: Tensor, blocks: Blocks, scale: float
    ) -> tuple[list[Tensor], Tensor]:
        """The region [N, L] that each query opens first, then the second, up to `top`.

        Where there are fewer, the number of blocks stands for none. And, for rows in `blocks`,
        which regions are opened, bool [N, R, G, R].
        """
        assert found.bias is not None
        length, heads = blocks.length, q.shape[1]
        opened = torch.zeros(heads, length, blocks.count, dtype=torch.bool, device=q.device)
        parts = []
        for part in row_slices(length, heads * blocks.count):
            own = torch.arange(part.start, part.stop, device=q.device) // blocks.block
            scores = q[0, :, part].to(found.key.dtype) * scale @ found.key.mT
            scores = (scores + found.bias[:, None]).masked_fill(~far[own], -math.inf)
            chosen = []
            for _ in range(min(self.top, blocks.count - 1)):
                highest, first = scores.max(dim=-1)
                none = highest == -math.inf
                chosen.append(first.masked_fill(none, blocks.count))
                # Where nothing is left to choose, `first` is a region that may be open already.
                seen, place = opened[:, part], first[..., None]
                seen.scatter_(2, place, ~none[..., None] | seen.gather(2, place))
                scores.scatter_(-1, first[..., None], -math.inf)
            parts.append(chosen)
        choices = [torch.cat(same, dim=1) for same in zip(*parts, strict=True)]
        return choices, blocks.arrange(opened[None])

    def _pairs(self, length: int) -> tuple[int, int]:
        blocks = Blocks(length, min(self.block, length))
        start = torch.arange(blocks.count) * blocks.block
        end = (start + blocks.block).clamp(max=length)
        sizes = (end - start.clamp(min=self.sink)).clamp(min=0)
        far = self._far(blocks, sizes > 0)
        queries, regions = end - start, far.sum(dim=1)
        told = int((queries * (far * sizes).sum(dim=1)).sum())  # pairs that are in some region
        opened = int((queries * regions.clamp(max=self.top)).sum())
        visible = length * (length + 1) // 2 if self.causal else length**2
        attended = visible - told + int((queries * regions).sum()) - opened
        building = int(sizes[far.any(dim=0)].sum()) + opened
        # An opened region counts as a whole block, also one that sinks or the end cut short.
        return attended + opened * blocks.block, building

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return shape.dim * (4 * attended + 6 * building)

    def _summaries(self, length: int) -> int:
        return max(0, -(-length // self.block) - 1 - self.near)


def _regions(found: Summary, seen: Tensor, blocks: Blocks, dtype: torch.dtype) -> Piece:
    """Every query against the summaries of its regions; seen bool [N, rows, G, R]."""
    assert found.bias is not None
    return Piece(
        layout=Columns(blocks.length, blocks.block),
        k=found.key[:, None].to(dtype),
        v=found.value[:, None].to(dtype),
        bias=found.bias[:, None],
        visible=Visibility(mask=seen.transpose(1, 2)),
    )
