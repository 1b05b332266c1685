"""Full softmax attention in tiles with a running log-sum-exp: exact, and never L x L at once.

Letters: B batch, H heads (Hq/Hkv), L length, D head width, R query rows, K keys.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from patterns.base import expand_groups

_TILE_BYTES = {"cpu": 1 << 24}  # what stays in a core's cache; elsewhere:
_TILE_BYTES_ELSEWHERE = 1 << 29
_COPIES = 3  # tensors of the size of a tile that are alive at once


@dataclass(frozen=True, kw_only=True)
class Operands:
    """One attention problem: q [B, Hq, L, D]; k, v [B, Hkv, L, D]; the dtype is that of q.

    tile_bytes: how much the scores of one tile and what is made of them may take.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    scale: float
    tile_bytes: int | None = None

    @property
    def length(self) -> int:
        """Tokens."""
        return self.q.shape[2]

    def all_rows(self) -> Tensor:
        """Every row, or every key: int64 [L]."""
        return torch.arange(self.length, device=self.q.device)


class Attended(NamedTuple):
    """The output [B, Hq, R, D] of some rows and their log-sum-exps [B, Hq, R]."""

    output: Tensor
    lse: Tensor


@torch.no_grad()
def attention(x: Operands, rows: Tensor | None = None) -> Attended:
    """Full softmax attention of these rows (int64 [R]; all of them if None)."""
    rows = x.all_rows() if rows is None else rows
    shape = (*x.q.shape[:2], len(rows))
    output, lse = x.v.new_zeros(*shape, x.v.shape[-1]), x.q.new_empty(shape)
    for part, key_parts in _tiles(x, rows, x.all_rows()):
        highest = x.q.new_full((*shape[:2], len(rows[part]), 1), -math.inf)
        total = torch.zeros_like(highest)
        out = output[:, :, part]
        for keys in key_parts:  # every row sees the first key, so `highest` is a number from then
            scores = _scores(x, rows[part], keys)
            higher = torch.maximum(highest, scores.amax(dim=-1, keepdim=True))
            weights = scores.sub_(higher).exp_()
            shrink = (highest - higher).exp()
            total = total * shrink + weights.sum(dim=-1, keepdim=True)
            out.mul_(shrink).add_(weights @ _of_keys(x.v, keys, x))
            highest = higher
        out.div_(total)
        lse[:, :, part] = (highest + total.log()).squeeze(-1)
    return Attended(output, lse)


def log_weights(x: Operands, rows: Tensor, keys: Tensor, lse: Tensor) -> Tensor:
    """The logarithms of full attention's weights [B, Hq, R, K]; -inf where a key is not seen.

    `rows` and `keys` are int64, `lse` [B, Hq, R] belongs to these rows.
    """
    return _scores(x, rows, keys).sub_(lse[..., None])


@torch.no_grad()
def top_log_weights(x: Operands, rows: Tensor, lse: Tensor, count: int) -> Tensor:
    """The largest log-weights of each row, in descending order: [B, Hq, R, count].

    Rows that see fewer keys have -inf in the last places.
    """
    count = min(count, x.length)
    best = x.q.new_full((*x.q.shape[:2], len(rows), count), -math.inf)
    for part, key_parts in _tiles(x, rows, x.all_rows()):
        for keys in key_parts:
            found = log_weights(x, rows[part], keys, lse[:, :, part])
            found = found.topk(min(count, len(keys)), dim=-1).values
            both = torch.cat([best[:, :, part], found], dim=-1)
            best[:, :, part] = both.topk(count, dim=-1).values
    return best


@torch.no_grad()
def query_gradient(x: Operands, grad: Tensor, rows: Tensor, attended: Attended) -> Tensor:
    """The gradient of q at these rows [B, Hq, R, D], all keys streamed past them.

    `grad` [B, Hq, R, D] is the gradient of the output at these rows, `attended` what `attention`
    found there.
    """
    delta = (grad * attended.output).sum(dim=-1, keepdim=True)
    result = x.q.new_zeros(*x.q.shape[:2], len(rows), x.q.shape[-1])
    for part, key_parts in _tiles(x, rows, x.all_rows()):
        for keys in key_parts:
            weights = log_weights(x, rows[part], keys, attended.lse[:, :, part]).exp_()
            slopes = grad[:, :, part] @ _of_keys(x.v, keys, x).mT
            weights.mul_(slopes.sub_(delta[:, :, part]))
            result[:, :, part] += weights @ _of_keys(x.k, keys, x)
    return result * x.scale


@torch.no_grad()
def key_gradients(
    x: Operands, grad: Tensor, keys: Tensor, attended: Attended
) -> tuple[Tensor, Tensor]:
    """The gradients of k and v at these keys [B, Hkv, K, D], all queries streamed past them.

    They are sums over all queries, so `grad` and `attended` are those of every row.
    """
    delta = (grad * attended.output).sum(dim=-1, keepdim=True)
    shape = (*x.q.shape[:2], len(keys))
    dk, dv = x.q.new_zeros(*shape, x.k.shape[-1]), x.q.new_zeros(*shape, x.v.shape[-1])
    for part, row_parts in _tiles(x, keys, x.all_rows(), by_key=True):
        for rows in row_parts:
            weights = log_weights(x, rows, keys[part], attended.lse[:, :, rows]).exp_()
            dv[:, :, part] += weights.mT @ grad[:, :, rows]
            slopes = grad[:, :, rows] @ _of_keys(x.v, keys[part], x).mT
            weights.mul_(slopes.sub_(delta[:, :, rows]))
            dk[:, :, part] += weights.mT @ x.q[:, :, rows]
    return _sum_groups(dk * x.scale, x), _sum_groups(dv, x)


def _scores(x: Operands, rows: Tensor, keys: Tensor) -> Tensor:
    scores = (x.q[:, :, rows] * x.scale) @ _of_keys(x.k, keys, x).mT
    if x.causal and len(rows) and len(keys) and bool(keys.max() > rows.min()):
        scores.masked_fill_(keys > rows[:, None], -math.inf)
    return scores


def _of_keys(kv: Tensor, keys: Tensor, x: Operands) -> Tensor:
    return expand_groups(kv[:, :, keys], x.q.shape[1])


def _sum_groups(gradient: Tensor, x: Operands) -> Tensor:
    batch, heads, keys, width = gradient.shape
    groups = x.k.shape[1]
    return gradient.view(batch, groups, heads // groups, keys, width).sum(dim=2)


def _tiles(
    x: Operands, held: Tensor, passing: Tensor, *, by_key: bool = False
) -> Iterator[tuple[slice, Iterator[Tensor]]]:
    """Parts of the rows that are held, each with the keys that pass it, part by part.

    With `by_key` keys are held and rows pass. Parts without a visible pair are left out; nothing
    is left out of the middle, so that the first key comes first.
    """
    default = _TILE_BYTES.get(x.q.device.type, _TILE_BYTES_ELSEWHERE)
    room = (x.tile_bytes or default) // (x.q.element_size() * _COPIES)
    pairs = max(1, room // (x.q.shape[0] * x.q.shape[1]))
    across = min(len(passing), max(math.isqrt(pairs), pairs // max(1, len(held))))
    along = max(1, pairs // max(1, across))
    for start in range(0, len(held), along):
        part = slice(start, start + along)
        yield part, _passing(x.causal, held[part], passing, across, by_key)


def _passing(
    causal: bool, held: Tensor, passing: Tensor, across: int, by_key: bool
) -> Iterator[Tensor]:
    bound = int(held.min() if by_key else held.max())
    for some in torch.split(passing, across):
        if not causal or (int(some[-1]) >= bound if by_key else int(some[0]) <= bound):
            yield some
