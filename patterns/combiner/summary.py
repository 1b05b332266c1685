"""What stands for a region: one key, one value and, in the variants, a bias.

Letters: N outer batch, R regions, G tokens of a region, D head width; M, Q, K as in
`patterns.dense`, where the regions of one line of tokens are the queries of a piece.

    max          key = max_j k_j,  l = softmax_j(c <max_j q_j, k_j>)       the paper
    mean         key = mean_j k_j, l = softmax_j(c <mean_j q_j, k_j>)
    mean+size    the same, bias = log |region|
    variational  l = softmax_j(c <mean_j q_j, k_j>), key = sum_j l_j k_j, bias = H(l)

and the value is sum_j l_j v_j. With a variational summary c <q, key> + H(l) is the tangent plane
of the region's log-sum-exp at its mean query: at most log sum_j exp(c <q, k_j>) for every q, and
the gap is the Kullback-Leibler divergence of l from the reading query's own weights.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from patterns.computed import count
from patterns.dense import Visibility
from patterns.pieces import Given, Piece, attend_pieces_lse

SummaryKind = Literal["max", "mean", "mean+size", "variational"]


class Told(NamedTuple):
    """What regions are pooled from in place of the queries and keys themselves; None: those.

    queries: [B, Hq, L, D], pooled to what a region asks of its tokens.
    keys: [B, Hkv, L, D], pooled to what a region is asked by. A query still meets direct keys, and
        a region its tokens, by the keys themselves.
    """

    queries: Tensor | None = None
    keys: Tensor | None = None

    def asking(self, q: Tensor) -> Tensor:
        """What the region queries are pooled from, where these are the queries."""
        return q if self.queries is None else self.queries

    def asked(self, k: Tensor) -> Tensor:
        """What the region keys are pooled from, where these are the keys."""
        return k if self.keys is None else self.keys


AS_THEY_ARE = Told()


class Summary(NamedTuple):
    """Keys [N, ..., D] and values [N, ..., Dv] of regions, and a bias [N, ...] or None."""

    key: Tensor
    value: Tensor
    bias: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Summary":
        """The same change to all of it."""
        bias = None if self.bias is None else change(self.bias)
        return Summary(change(self.key), change(self.value), bias)


def summarise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    member: Tensor | None,
    kind: SummaryKind,
    scale: float,
    told: Tensor | None = None,
) -> Summary:
    """Summarise regions that lie side by side as q, k, v [N, R, G, D].

    Args:
        q: what the region queries are pooled from.
        member: bool [R, G], which of the tokens belong; all of them if None. A region without
            members gets something finite: its reader
            has to mask it.
        told: what the region keys are pooled from; the keys themselves if None.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    inside = None if member is None else member[..., None]
    pool = _max if kind == "max" else _mean
    query, key = (pool(x, inside).to(dtype) for x in (q, k if told is None else told))
    keys, values = k.to(dtype), v.to(dtype)
    count(lambda: k.shape[0] * k.shape[1] * k.shape[2])
    scores = scale * (keys @ query.unsqueeze(-1))
    if inside is not None:
        # Where there is no member, any token will do: nobody may read the summary.
        scores = scores.masked_fill(~inside & inside.any(-2, True), -math.inf)
    weights = scores.softmax(dim=-2)
    value = (weights * values).sum(dim=-2) if k.is_cuda else (weights.mT @ values).squeeze(-2)
    bias = None
    if kind == "variational":
        key = (weights.mT @ keys).squeeze(-2)
        bias = scores.logsumexp(dim=(-2, -1)) - scale * (query * key).sum(dim=-1)
    elif kind == "mean+size":
        bias = _size(k, inside).log().squeeze(-1).expand(key.shape[:-1])
    return Summary(key.to(k.dtype), value.to(v.dtype), bias)


def summarise_lines(
    query: Tensor,
    key: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Visibility,
    *,
    weighed: bool,
    scale: float,
    backend: str,
) -> Summary:
    """Summarise regions that share their tokens: every query asks the tokens of its line.

    Args:
        query: the region queries [N, M, Q, D].
        key: the region keys [N, M, Q, D], unless they are `weighed`.
        k: the tokens of each line, [N, M, K, D], as are v.
        visible: which of them belong to a region; there must be one.
        weighed: the key is sum_j l_j k_j, and there is a bias H(l).
    """

    def local(values: Tensor) -> tuple[Tensor, Tensor]:
        piece = Piece(layout=Given(), k=k, v=values, visible=visible)
        return attend_pieces_lse(query, [piece], scale, backend)

    value, _ = local(v)
    if not weighed:
        return Summary(key, value, None)
    key, lse = local(k)
    score = scale * (query.to(lse.dtype) * key.to(lse.dtype)).sum(dim=-1)
    return Summary(key, value, lse.squeeze(-1) - score)


def _max(x: Tensor, inside: Tensor | None) -> Tensor:
    """The largest per channel; the gradient goes to the first of equals."""
    if inside is None:
        return x.max(dim=-2).values
    largest = x.masked_fill(~inside, -math.inf).max(dim=-2).values
    return torch.where(inside.any(-2), largest, 0)


def _mean(x: Tensor, inside: Tensor | None) -> Tensor:
    size = _size(x, inside)
    x = x if inside is None else torch.where(inside, x, 0)
    return x.sum(dim=-2, dtype=size.dtype) / size


def _size(x: Tensor, inside: Tensor | None) -> Tensor:
    """How many members a region has, or 1 where it has none: [R, 1]."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if inside is None:
        return torch.full((x.shape[1], 1), x.shape[2], dtype=dtype, device=x.device)
    return inside.sum(dim=-2).clamp(min=1).to(dtype)
