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

from patterns.base import AUTO, AutoInt, require_not_negative, require_positive
from patterns.combiner.base import DIRECT, INVISIBLE, PAPER, CombinerPattern
from patterns.combiner.summary import SummaryKind, summarise
from patterns.dense import Visibility
from patterns.pieces import Blocks, Columns, Piece, Whole, attend_pieces


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

    def __post_init__(self) -> None:
        require_positive(self, "block")
        require_not_negative(self, "sink", "near")

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        away = query // self.block - key // self.block
        labels = (key // self.block).expand(len(rows), length)
        labels = labels.masked_fill((away.abs() <= self.near) | (key < self.sink), DIRECT)
        return (labels.masked_fill(key > query, INVISIBLE) if self.causal else labels,)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        blocks = Blocks(q.shape[2], min(self.block, q.shape[2]))
        pieces = [self._neighbourhood(k, v, blocks)]
        if self._far(blocks):
            pieces.append(self._regions(q, k, v, blocks, scale))
        # Earlier queries have all sinks in their neighbourhood, unless later blocks hold some too.
        start = (self.near + 1) * blocks.block if self.causal or self.sink <= blocks.block else 0
        if self.sink and start < blocks.length:
            pieces.append(self._sinks(k, v, blocks, start))
        return attend_pieces(q, pieces, scale, backend)

    def _neighbourhood(self, k: Tensor, v: Tensor, blocks: Blocks) -> Piece:
        k, v = blocks.arrange(k), blocks.arrange(v)
        if self.near == 0 and self.causal:
            return Piece(layout=blocks, k=k, v=v, visible=Visibility(causal=True))
        reach = range(-self.near, 1 if self.causal else self.near + 1)
        mask = None
        if self.near or blocks.length % blocks.block:
            query = torch.arange(blocks.count * blocks.block, device=k.device)
            query = query.view(blocks.count, blocks.block, 1)
            key = torch.cat([query + step * blocks.block for step in reach], dim=1).mT
            mask = (key >= 0) & (key < blocks.length)
            mask = mask & (key <= query) if self.causal else mask
        k, v = (torch.cat([x.roll(-step, dims=1) for step in reach], dim=2) for x in (k, v))
        return Piece(layout=blocks, k=k, v=v, visible=Visibility(mask=mask))

    def _far(self, blocks: Blocks) -> int:
        """How many blocks are a region for some query."""
        last = blocks.count - 1 - self.near if self.causal else blocks.count
        return max(0, last - self._emptied(blocks)) if blocks.count > 1 + self.near else 0

    def _emptied(self, blocks: Blocks) -> int:
        """How many leading blocks the sinks have emptied."""
        return blocks.count if self.sink >= blocks.length else self.sink // blocks.block

    def _regions(self, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float) -> Piece:
        first, block = self._emptied(blocks), blocks.block
        used = slice(first, first + self._far(blocks))
        token = torch.arange(blocks.count * block, device=q.device).view(-1, block)[used]
        member = (token >= self.sink) & (token < blocks.length)
        q, k, v = (blocks.arrange(x)[:, used] for x in (q, k, v))
        key, value, bias = summarise(q, k, v, member, self.summary, scale)
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

    def _sinks(self, k: Tensor, v: Tensor, blocks: Blocks, start: int) -> Piece:
        sink = min(self.sink, blocks.length)
        k, v = (x[:, :, :sink].flatten(0, 1)[:, None] for x in (k, v))
        mask = None
        if sink > blocks.block:
            query = torch.arange(start, blocks.length, device=k.device)[:, None]
            key = torch.arange(sink, device=k.device)
            away = query // blocks.block - key // blocks.block
            mask = (away if self.causal else away.abs()) > self.near
        return Piece(layout=Whole(blocks.length, start), k=k, v=v, visible=Visibility(mask=mask))

    def _pairs(self, length: int) -> tuple[int, int]:
        attended, building = self._count(length)
        return attended, sum(building)

    def _summaries(self, length: int) -> int:
        return len(self._count(length)[1])

    def _count(self, length: int) -> tuple[int, list[int]]:
        """Attended pairs of a head, and the tokens of each region that some query uses."""
        blocks = Blocks(length, min(self.block, length))
        ends = [min((b + 1) * blocks.block, length) for b in range(blocks.count)]
        starts = [0, *ends[:-1]]
        first, last = self._emptied(blocks), blocks.count - 1
        attended = 0
        for own, (start, end) in enumerate(zip(starts, ends, strict=True)):
            low, high = max(0, own - self.near), min(last, own + self.near)
            sinks = min(self.sink, starts[low])
            regions = max(0, low - first)
            if self.causal:
                direct = start - starts[low] + (end - start + 1) / 2
            else:
                sinks += max(0, min(self.sink, length) - ends[high])
                regions += max(0, last - max(high, first - 1))
                direct = ends[high] - starts[low]
            attended += round((end - start) * (direct + sinks + regions))
        used = range(first, last - self.near if self.causal else last + 1)
        far = [b for b in used if self.causal or max(b, last - b) > self.near]
        return attended, [ends[b] - max(starts[b], self.sink) for b in far]
