"""Summaries of overlapping regions of a line of tokens: its prefixes, or all of it but one token.

Letters: N outer batch, M lines, S tokens of a line, D head width. Each token of a line gets the
summary of one region, and `exists` [M, S] is false where that has no member (None: nowhere).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.combiner.summary import Summary, SummaryKind, summarise_lines
from patterns.dense import Visibility


class Lines(NamedTuple):
    """Queries, keys and values [N, M, S, D] of lines, and who of them may belong to a region.

    q: what the region queries are pooled from.
    member: bool [M, S], None if all may.
    told: what the region keys are pooled from; the keys themselves if None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    member: Tensor | None
    told: Tensor | None = None

    def part(self, first: int, end: int | None) -> Self:
        """Some tokens of each line."""
        member = None if self.member is None else self.member[:, first:end]
        return self._each(lambda x: x[:, :, first:end], member)

    def crossed(self) -> Self:
        """The lines that cross these: first tokens, second tokens, ..."""
        member = None if self.member is None else self.member.mT
        return self._each(lambda x: x.transpose(1, 2), member)

    def backwards(self) -> Self:
        """The same lines, last token first."""
        member = None if self.member is None else self.member.flip(1)
        return self._each(lambda x: x.flip(2), member)

    def _each(self, change: Callable[[Tensor], Tensor], member: Tensor | None) -> Self:
        told = None if self.told is None else change(self.told)
        return type(self)(change(self.q), change(self.k), change(self.v), member, told)

    @property
    def pooled(self) -> tuple[Tensor, Tensor]:
        """What the region queries and the region keys are pooled from."""
        return self.q, self.k if self.told is None else self.told


def summarise_prefixes(
    lines: Lines, kind: SummaryKind, scale: float, backend: str, *, backwards: bool = False
) -> tuple[Summary, Tensor | None]:
    """For each token the summary of all up to it, itself included; `backwards`: from it on."""
    lines = lines.backwards() if backwards else lines
    q, k, v, member, _ = lines
    pools = _Pools(q, member)
    query, key = (pools.prefix(x, kind, last=backwards) for x in lines.pooled)
    exists, visible = None, Visibility(causal=True)
    if member is not None:
        exists = pools.count > 0
        earlier = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
        # Where there is no member, any token will do: nobody may read the summary.
        visible = Visibility(mask=earlier & (member[:, None] | ~exists[:, :, None]))
    found = _finish(query, key, k, v, visible, pools.count, kind, scale, backend)
    if backwards:
        found = found.each(lambda x: x.flip(2))
        exists = None if exists is None else exists.flip(1)
    return found, exists


def summarise_others(
    lines: Lines, kind: SummaryKind, scale: float, backend: str
) -> tuple[Summary, Tensor | None]:
    """For each token the summary of all other tokens of its line."""
    q, k, v, member, _ = lines
    pools = _Pools(q, member)
    query, key = (pools.others(x, kind) for x in lines.pooled)
    exists, mask = None, ~torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    count = pools.total - pools.own
    if member is not None:
        exists = count > 0
        mask = mask & member[:, None] | ~exists[:, :, None]
    found = _finish(query, key, k, v, Visibility(mask=mask), count, kind, scale, backend)
    return found, exists


def _finish(
    query: Tensor,
    key: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visibility,
    count: Tensor,
    kind: SummaryKind,
    scale: float,
    backend: str,
) -> Summary:
    weighed = kind == "variational"
    found = summarise_lines(
        query, key, k, v, visible, weighed=weighed, scale=scale, backend=backend
    )
    if kind != "mean+size":
        return found
    size = count.clamp(min=1).to(torch.promote_types(k.dtype, torch.float32)).log()
    return found._replace(bias=size.expand(key.shape[:-1]))


class _Pools:
    """Pooling over the members of prefixes, and of all but one; 0 where there is no member."""

    def __init__(self, like: Tensor, member: Tensor | None) -> None:
        self.member = member
        ones = torch.ones(1, like.shape[2], dtype=torch.int64, device=like.device)
        self.own = ones if member is None else member.to(torch.int64)
        self.count = self.own.cumsum(dim=1)
        self.total = self.count[:, -1:]

    def prefix(self, x: Tensor, kind: SummaryKind, *, last: bool) -> Tensor:
        if kind == "max":
            return self._filled(_running_max(self._inside(x, -math.inf), last=last), self.count)
        return self._mean(_sums(self._inside(x, 0.0)), self.count, x.dtype)

    def others(self, x: Tensor, kind: SummaryKind) -> Tensor:
        count = self.total - self.own
        if kind == "max":
            x = self._inside(x, -math.inf)
            left = _running_max(x, last=False)
            right = _running_max(x.flip(2), last=True).flip(2)
            left = pad(left[:, :, :-1], (0, 0, 1, 0), value=-math.inf)
            right = pad(right[:, :, 1:], (0, 0, 0, 1), value=-math.inf)
            return self._filled(torch.where(left >= right, left, right), count)
        x = self._inside(x, 0.0)
        left, right = _sums(x), _sums(x.flip(2)).flip(2)
        both = pad(left[:, :, :-1], (0, 0, 1, 0)) + pad(right[:, :, 1:], (0, 0, 0, 1))
        return self._mean(both, count, x.dtype)

    def _inside(self, x: Tensor, fill: float) -> Tensor:
        return x if self.member is None else x.masked_fill(~self.member[..., None], fill)

    def _filled(self, x: Tensor, count: Tensor) -> Tensor:
        return x if self.member is None else x.masked_fill((count == 0)[..., None], 0.0)

    def _mean(self, sums: Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
        return (sums / count.clamp(min=1)[..., None]).to(dtype)


def _sums(x: Tensor) -> Tensor:
    return x.cumsum(dim=2, dtype=torch.promote_types(x.dtype, torch.float32))


class _RunningMax(torch.autograd.Function):
    """cummax along dim 2, whose gradient goes to one of equals: the first, or the last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, last: bool) -> Tensor:
        largest = x.cummax(dim=2).values
        ctx.save_for_backward(x, largest)
        ctx.last = last
        return largest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, largest = ctx.saved_tensors
        before = pad(largest[:, :, :-1], (0, 0, 1, 0), value=-math.inf)
        chosen = x == largest if ctx.last else x > before
        place = torch.arange(x.shape[2], device=x.device)[:, None]
        index = torch.where(chosen, place, 0).cummax(dim=2).values
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        total.scatter_add_(2, index, grads[0].to(total.dtype))
        return total.to(x.dtype), None


def _running_max(x: Tensor, *, last: bool) -> Tensor:
    largest: Tensor = _RunningMax.apply(x, last)  # type: ignore[no-untyped-call]
    return largest
