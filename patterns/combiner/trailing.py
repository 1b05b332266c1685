"""Regions that end at every token: block-wide, each one token further on than the one before.

Letters: N = batch * heads, L tokens, G tokens of a region, M blocks of G tokens, D head width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.combiner.summary import Summary
from patterns.computed import count
from patterns.pieces import Blocks

_TOGETHER = 1 << 12  # rows of `Singly` that lie side by side: kernels bound that number


@dataclass(frozen=True, kw_only=True)
class Trailing:
    """The `block` tokens up to each of `length` ones, of which only some `belong` [L] to regions.

    A region that would begin before the first token that belongs is short.
    """

    length: int
    block: int
    belong: Tensor

    def members(self) -> Tensor:
        """Which tokens of the own block and the one before are in the region of each: [M, G, 2G].

        The region that ends at a token is the one in its place.
        """
        blocks = Blocks(self.length, self.block)
        end = torch.arange(blocks.count * self.block, device=self.belong.device)
        end = end.view(blocks.count, self.block, 1)
        token = torch.cat([end - self.block, end], dim=1).transpose(1, 2)
        away = end - token
        inside = (away >= 0) & (away < self.block) & (token >= 0) & (token < self.length)
        return inside & self.belong[token.clamp(0, self.length - 1)]

    def exist(self) -> Tensor:
        """Which regions hold a token, [L]."""
        return self.members().any(dim=-1).flatten()[: self.length]

    def pool(self, x: Tensor) -> Tensor:
        """The mean of x [N, L, D] over each region; zero where there is none."""
        member = self.members()
        size = member.sum(dim=-1, keepdim=True).clamp(min=1)
        return self._flat((member.to(x.dtype) @ self._pairs(x)) / size)

    def summarise(self, asked: Tensor, k: Tensor, v: Tensor, scale: float) -> Summary:
        """The variational summary of each region: key and value [N, L, D], bias [N, L].

        A region without tokens gets something finite: its reader has to mask it.

        Args:
            asked: the region queries [N, L, D].
            k: the keys [N, L, D].
            v: the values [N, L, D].
            scale: factor on the scores.
        """
        member = self.members()
        keys, values = self._pairs(k), self._pairs(v)
        count(lambda: keys.shape[0] * member.numel())
        queries = Blocks(self.length, self.block).arrange(asked[None])
        scores = scale * (queries @ keys.mT)
        scores = scores.masked_fill(~member & member.any(-1, keepdim=True), -math.inf)
        weights = scores.softmax(dim=-1)
        key, value = weights @ keys, weights @ values
        bias = scores.logsumexp(dim=-1) - scale * (queries * key).sum(dim=-1)
        return Summary(self._flat(key), self._flat(value), self._flat(bias[..., None])[..., 0])

    def _pairs(self, x: Tensor) -> Tensor:
        """[N, L, D] to [N, M, 2G, D]: each block behind the one before it."""
        x = Blocks(self.length, self.block).arrange(x[None])
        return torch.cat([x.roll(1, dims=1), x], dim=2)

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)[:, : self.length]


@dataclass(frozen=True)
class Singly:
    """Every row by itself: [B, H, L, E] as [N * parts, rows of a part, 1, E]."""

    length: int

    @property
    def part(self) -> int:
        """Rows that lie side by side."""
        return min(self.length, _TOGETHER)

    def arrange(self, x: Tensor) -> Tensor:
        return self.rows(x.flatten(0, 1))[:, :, None]

    def rows(self, x: Tensor) -> Tensor:
        """[N, L, ...] to [N * parts, rows of a part, ...]; zeros fill the last part."""
        missing = -self.length % self.part
        x = pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
        return x.reshape(-1, self.part, *x.shape[2:])

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        whole = -(-self.length // self.part) * self.part
        return x.reshape(batch, -1, whole, x.shape[-1])[:, :, : self.length]
