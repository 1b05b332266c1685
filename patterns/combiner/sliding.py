"""Combiner-Sliding: the last tokens directly, and what lies before them in blocks counted back.

A query in each line; # is seen directly, a letter is a region (window=2, block=3, no sinks):

    #........
    ##.......
    a##......
    aa##.....
    aaa##....
    baaa##...
    bbaaa##..
    bbbaaa##.
    cbbbaaa##
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper, Pattern, Shape
from patterns.checks import require_not_negative, require_positive
from patterns.combiner.base import PAPER
from patterns.combiner.rotary import moved
from patterns.combiner.side import Side, seen_by
from patterns.combiner.trailing import Singly, Trailing
from patterns.dense import Visibility
from patterns.errors import BadInput
from patterns.pieces import Columns, Piece, attend_pieces
from patterns.recompute import recomputed, row_slices
from patterns.sparse.groups import take
from patterns.sparse.window import sinks_beyond, sinks_pairs, window_piece


@dataclass(frozen=True, kw_only=True)
class CombinerSliding(Pattern):
    """Combiner-Open whose neighbourhood slides: `window` direct keys, and regions behind them.

    Direct: the last `window` tokens and `sink` leading ones. What lies between is cut into regions
    of `block` tokens from the window on backwards, so that they are as far from every query; the
    last one may be short. Summaries are variational, and of its regions a query opens the `top`
    ones with the highest score, as in combiner-open. Every visible key counts once. Bidirectional:
    the tokens less than `window` away on either side, and regions beyond them on both sides.

    A region ends at every token, and is read by every `block`-th query after it: the attended
    pairs are those of aligned blocks, what is built is `block` times as much.

    With `rotary`, the base of a model's rotary embedding (pairs (d, d + D / 2)), the queries of a
    region are moved to one place before they are averaged: `ahead` tokens past its middle, on the
    side of its readers.

    Ours: the blocks of Combiner's section 4.1 are aligned.
    """

    causal: bool = True
    window: AutoInt = AUTO  # direct keys, the own token included; automatic: about sqrt(L)
    block: AutoInt = AUTO  # tokens a region; automatic: about sqrt(L)
    top: int = 2  # regions opened by a query
    sink: int = 4  # leading tokens that are always direct and belong to no region
    rotary: float = 0.0  # base of the rotary embedding; 0 where there is none
    ahead: int = 256  # tokens past a region's middle, where its query asks from; with rotary

    name: ClassVar = "combiner-sliding"
    paper: ClassVar[Paper] = PAPER
    aim: ClassVar = "approximates"
    tiny: ClassVar = {"window": 3, "block": 2, "top": 1, "sink": 1}
    backends: ClassVar = ("sdpa", "eager")

    def __post_init__(self) -> None:
        require_positive(self, "window", "block")
        require_not_negative(self, "top", "sink", "rotary", "ahead")

    @property
    def _signs(self) -> tuple[int, ...]:
        """1 for the regions before a query, -1 for those after it."""
        return (1,) if self.causal else (1, -1)

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        dtype, length = torch.promote_types(q.dtype, torch.float32), q.shape[2]
        queries, keys = q[:, :, rows].to(dtype), k.to(dtype)
        token = torch.arange(length, device=q.device)
        members, locals_, scores = [], [], []
        for sign in self._signs:
            away = sign * (token[:, None] - token)  # from a region's end to its other tokens
            member = (away >= 0) & (away < self.block) & (token >= self.sink)
            lives = member.any(dim=1)
            asking = self._unturned(q.to(dtype), token)
            asked = member.to(dtype) @ asking / member.sum(1).clamp(min=1)[:, None]
            asked = self._turned(asked, token, sign)
            local = scale * (asked @ keys.mT)
            local = local.masked_fill(~member & lives[:, None], -math.inf)
            bias, local = local.logsumexp(dim=-1), local.softmax(dim=-1)
            region_key = local @ keys
            bias = bias - scale * (asked * region_key).sum(dim=-1)
            beyond = sign * (rows[:, None] - token) - self.window
            far = (beyond >= 0) & (beyond % self.block == 0) & lives
            score = scale * (queries @ region_key.mT) + bias[..., None, :]
            members.append(member)
            locals_.append(local)
            scores.append(score.masked_fill(~far, -math.inf))
        member, local, regions = torch.cat(members), torch.cat(locals_, 2), torch.cat(scores, -1)
        best = regions.argsort(dim=-1, descending=True, stable=True)[..., : self.top]
        opened = torch.zeros_like(regions, dtype=torch.bool).scatter_(-1, best, True)
        opened &= regions > -math.inf

        inside = (opened.to(dtype) @ member.to(dtype)) > 0
        near = ((rows[:, None] - token).abs() < self.window) | (token < self.sink)
        direct = scale * (queries @ keys.mT)
        seen = (near | inside) & self._support(rows, length)
        direct = direct.masked_fill(~seen, -math.inf)
        regions = regions.masked_fill(opened, -math.inf)
        weights = torch.cat([direct, regions], dim=-1).softmax(dim=-1)
        return (weights[..., :length] + weights[..., length:] @ local).to(q.dtype)

    def _unturned(self, q: Tensor, place: Tensor) -> Tensor:
        """Queries as they would be at position 0, if positions are rotations."""
        if not self.rotary:
            return q
        if q.shape[-1] % 2:
            raise BadInput(f"rotary embeddings turn pairs: the head width {q.shape[-1]} is odd")
        return moved(q, -place, self.rotary)

    def _turned(self, asked: Tensor, end: Tensor, sign: int) -> Tensor:
        """Region queries as they ask from `ahead` past the middle; `end` is nearest to readers."""
        if not self.rotary:
            return asked
        return moved(asked, end - sign * ((self.block - 1) / 2 - self.ahead), self.rotary)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        batch, heads, length, dim = q.shape
        q, k, v = (x.reshape(1, batch * heads, length, -1) for x in (q, k, v))
        found = []
        for part in row_slices(batch * heads, 4 * length * min(self.block, length) * dim):
            inputs = (x[:, part] for x in (q, k, v))
            found.append(recomputed(self._attend_heads, *inputs, scale, backend))
        return torch.cat(found, dim=1).view(batch, heads, length, -1)

    def _attend_heads(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        length, dtype = q.shape[2], q.dtype
        window, sink, causal = self.window, self.sink, self.causal
        pieces = [window_piece(q, k, v, window=window, causal=causal, backend=backend)]
        pieces += sinks_beyond(k, v, window=window, sink=sink, causal=causal)
        if length > window + (sink if causal else 0):
            # In float32 as the map has it, so that both choose the same regions.
            wide = torch.promote_types(dtype, torch.float32)
            queries, keys, values = (x[0].to(wide) for x in (q, k, v))
            sides = [self._side(queries, keys, values, sign, scale) for sign in self._signs]
            with torch.no_grad():
                choices, opened = self._choose(queries, sides, scale)
            for side, known in zip(sides, opened, strict=True):
                pieces.append(side.piece(~known, dtype))
            for end, sign, real in choices:
                pieces.append(self._opened(keys, values, end, sign, real, dtype))
        return attend_pieces(q, pieces, scale, backend)

    def _side(self, q: Tensor, k: Tensor, v: Tensor, sign: int, scale: float) -> Side:
        """The summaries [N, L, D] of all regions before their readers, or after them."""
        length = q.shape[1]
        block = min(self.block, length)
        token = torch.arange(length, device=q.device)
        belong, asking = token >= self.sink, self._unturned(q, token)
        if sign < 0:
            belong, token = belong.flip(0), token.flip(0)
            asking, k, v = (x.flip(1) for x in (asking, k, v))
        regions = Trailing(length=length, block=block, belong=belong)
        asked = self._turned(regions.pool(asking), token, sign)
        found = regions.summarise(asked, k, v, scale)
        columns = Columns(length, block)
        return Side(
            found=found,
            columns=columns,
            seen=seen_by(regions.exist(), columns, self.window),
            window=self.window,
            sign=sign,
        )

    def _choose(
        self, q: Tensor, sides: Sequence[Side], scale: float
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], list[Tensor]]:
        """Which regions each query opens, up to `top` times [N, L]; of equals the first.

        Of each the token that is nearest to its reader, its sign, and whether there is one. And,
        for each side, which of its regions are opened, as its piece has them.
        """
        scores = torch.cat([side.scores(q, scale) for side in sides], dim=-1)
        ends = torch.cat([side.ends() for side in sides], dim=-1)
        split = scores.shape[-1] // len(sides)
        opened, choices = torch.zeros_like(scores, dtype=torch.bool), []
        for _ in range(min(self.top, scores.shape[-1])):
            highest, first = scores.max(dim=-1)
            real, place = highest > -math.inf, first[..., None]
            end = ends.expand(*scores.shape).gather(-1, place)[..., 0]
            choices.append((end, torch.where(first < split, 1, -1), real))
            # Where nothing is left to choose, `first` is a region that may be open already.
            opened.scatter_(-1, place, real[..., None] | opened.gather(-1, place))
            scores.scatter_(-1, place, -math.inf)
        parts = torch.split(opened, split, dim=-1)
        return choices, [side.laid(one) for side, one in zip(sides, parts, strict=True)]

    def _opened(
        self, k: Tensor, v: Tensor, end: Tensor, sign: Tensor, real: Tensor, dtype: torch.dtype
    ) -> Piece:
        """Every query against the tokens of one region that it has chosen."""
        length = k.shape[1]
        step = torch.arange(min(self.block, length), device=k.device)
        token = end[..., None] - sign[..., None] * step
        inside = real[..., None] & (token >= self.sink) & (token >= 0) & (token < length)
        token, rows = token.clamp(0, length - 1), Singly(length)
        return Piece(
            layout=rows,
            k=rows.rows(take(k, token).to(dtype)),
            v=rows.rows(take(v, token).to(dtype)),
            visible=Visibility(mask=rows.rows(inside)[:, :, None]),
        )

    def _pairs(self, length: int) -> tuple[int, int]:
        row = torch.arange(length)
        direct = sinks_pairs(length, window=self.window, sink=self.sink, causal=self.causal)
        regions, sizes = torch.zeros_like(row), 0
        for sign in self._signs:
            # Tokens beyond a query's window that belong to regions, and those of each region.
            beyond = row - self.window + 1 - self.sink
            least = torch.zeros_like(row)
            if sign < 0:
                first = row + self.window
                beyond, least = length - first, (self.sink - first).clamp(min=0)
            # Those that sinks have emptied, nearest to the query first, are no regions.
            found = -(-beyond.clamp(min=0) // self.block) - least // self.block
            regions += found.clamp(min=0) * (length > self.sink)
            sizes += self._built(length, sign)
        opened = int(regions.clamp(max=self.top).sum())
        attended = direct + int(regions.sum()) + opened * (self.block - 1)
        # An opened region counts as a whole block, also one that is short.
        return attended, sizes + opened

    def _built(self, length: int, sign: int) -> int:
        """Tokens of all regions that some query reads."""
        end = torch.arange(max(0, length - self.window)) + (0 if sign > 0 else self.window)
        if sign > 0:
            sizes = end - (end - self.block + 1).clamp(min=self.sink) + 1
        else:
            sizes = (end + self.block).clamp(max=length) - end.clamp(min=self.sink)
        return int(sizes.clamp(min=0).sum())

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return shape.dim * (4 * attended + 6 * building)

    def _summaries(self, length: int) -> int:
        read = max(0, length - self.window - self.sink)
        if self.causal:
            return read
        ends = torch.arange(max(0, length - self.window)) + self.window
        return read + int((ends + self.block > self.sink).sum()) * (length > self.sink)
