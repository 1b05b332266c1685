"""What stands for a region: one key, one value and, in the variants, a bias.

Letters: N outer batch, R regions, G tokens of a region, D head width.

    max          key = max_j k_j,  l = softmax_j(c <max_j q_j, k_j>)       the paper
    mean         key = mean_j k_j, l = softmax_j(c <mean_j q_j, k_j>)
    mean+size    the same, bias = log |region|
    variational  l = softmax_j(c <mean_j q_j, k_j>), key = sum_j l_j k_j, bias = H(l)

and the value is sum_j l_j v_j. With a variational summary c <q, key> + H(l) is the tangent plane
of the region's log-sum-exp at its mean query: at most log sum_j exp(c <q, k_j>) for every q, and
the gap is the Kullback-Leibler divergence of l from the reading query's own weights.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SummaryKind = Literal["max", "mean", "mean+size", "variational"]


class Summary(NamedTuple):
    """Keys [N, R, D] and values [N, R, Dv] of R regions, and a bias [N, R] or None."""

    key: Tensor
    value: Tensor
    bias: Tensor | None


def summarise(
    q: Tensor, k: Tensor, v: Tensor, member: Tensor, kind: SummaryKind, scale: float
) -> Summary:
    """Summarise regions that lie side by side as q, k, v [N, R, G, D].

    Args:
        member: bool [R, G], which of the tokens belong. A region without members gets zeros: its
            reader has to mask it.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    inside = member[..., None]
    count = member.sum(dim=-1, keepdim=True).clamp(min=1).to(dtype)
    q, keys, values = (x.to(dtype) for x in (q, k, v))
    if kind == "max":
        query, key = (_max(x, inside) for x in (q, keys))
    else:
        query, key = (torch.where(inside, x, 0).sum(dim=-2) / count for x in (q, keys))
    scores = scale * (keys @ query.unsqueeze(-1))
    scores = scores.masked_fill(~inside, -math.inf).masked_fill(~inside.any(-2, True), 0.0)
    weights = torch.where(inside, scores.softmax(dim=-2), 0)
    value = (weights * values).sum(dim=-2) if k.is_cuda else (weights.mT @ values).squeeze(-2)
    bias = None
    if kind == "variational":
        key = (weights.mT @ keys).squeeze(-2)
        bias = scores.logsumexp(dim=(-2, -1)) - scale * (query * key).sum(dim=-1)
    elif kind == "mean+size":
        bias = count.log().squeeze(-1).expand(key.shape[:-1])
    return Summary(key.to(k.dtype), value.to(v.dtype), bias)


def _max(x: Tensor, inside: Tensor) -> Tensor:
    """The largest per channel; the gradient goes to the first of equals."""
    largest = x.masked_fill(~inside, -math.inf).max(dim=-2).values
    return torch.where(inside.any(-2), largest, 0)
