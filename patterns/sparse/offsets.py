"""Attention to keys at fixed distances, by slices shifted against each other: no gather, no mask.

Letters: B batch, H heads, L length, E head width, J distances; everything kept is [J, B, H, L].
"""

import math
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count


def attend_offsets(q: Tensor, k: Tensor, v: Tensor, offsets: list[int], scale: float) -> Tensor:
    """Softmax over the keys at i - offset that exist: [B, H, L, E] to [B, H, L, Ev].

    Some offset must be 0, so that every query has a key.
    """
    lines, length = q.shape[0] * q.shape[1], q.shape[2]
    count(lambda: lines * sum(length - abs(offset) for offset in offsets))
    out: Tensor = _Offsets.apply(q, k, v, offsets, scale)  # type: ignore[no-untyped-call]
    return out


def _meeting(length: int, offset: int) -> tuple[slice, slice]:
    """The queries that have a key at this offset, and those keys."""
    start, end = max(0, offset), length + min(0, offset)
    return slice(start, end), slice(start - offset, end - offset)


class _Offsets(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, offsets: list[int], scale: float
    ) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        queries, keys, values = q.to(dtype) * scale, k.to(dtype), v.to(dtype)
        weights = queries.new_full((len(offsets), *q.shape[:3]), -math.inf)
        for row, offset in zip(weights, offsets, strict=True):
            i, j = _meeting(q.shape[2], offset)
            row[:, :, i] = (queries[:, :, i] * keys[:, :, j]).sum(dim=-1)
        weights = weights.softmax(dim=0)
        out = torch.zeros_like(values)
        for row, offset in zip(weights, offsets, strict=True):
            i, j = _meeting(q.shape[2], offset)
            out[:, :, i] += row[:, :, i, None] * values[:, :, j]
        ctx.save_for_backward(q, k, v, weights)
        ctx.offsets, ctx.scale = offsets, scale
        return out.to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad, queries, keys, values = (x.to(weights.dtype) for x in (grads[0], q, k, v))
        dq, dk, dv = (torch.zeros_like(x) for x in (queries, keys, values))
        dscores = torch.zeros_like(weights)
        for row, drow, offset in zip(weights, dscores, ctx.offsets, strict=True):
            i, j = _meeting(q.shape[2], offset)
            drow[:, :, i] = (grad[:, :, i] * values[:, :, j]).sum(dim=-1)
            dv[:, :, j] += row[:, :, i, None] * grad[:, :, i]
        dscores = ctx.scale * weights * (dscores - (weights * dscores).sum(dim=0))
        for drow, offset in zip(dscores, ctx.offsets, strict=True):
            i, j = _meeting(q.shape[2], offset)
            dq[:, :, i] += drow[:, :, i, None] * keys[:, :, j]
            dk[:, :, j] += drow[:, :, i, None] * queries[:, :, i]
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None
