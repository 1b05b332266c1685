"""Attention to keys at power-of-two distances: launching its Triton kernels.

Operators of `torch.library` for compiled code; grouped heads read their shared keys in place.
"""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from patterns.computed import count
from patterns.kernels import by_hand
from patterns.kernels import diagonals_kernels as kernels
from patterns.kernels.launching import on_device_of, unit_rows
from patterns.kernels.operators import register
from patterns.kernels.prepared import launch
from patterns.kernels.tile_choice import choose


def attend_diagonals(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> Tensor:
    """Softmax over the own key and those 1, 2, 4, 8, ... before it, and after it unless `causal`.

    Args:
        q: queries [B, Hq, L, D], D from 16 to 256; any strides.
        k: keys [B, Hkv, L, D]; Hq is a multiple of Hkv.
        v: values [B, Hkv, L, D].
        causal: no query sees a key behind it.
        scale: factor on the scores.

    Returns:
        [B, Hq, L, D] in the dtype of q, differentiable in q, k and v.
    """
    if torch.compiler.is_compiling():
        out: Tensor = torch.ops.attnbench.diagonals(q, k, v, scale, causal)[0]
        return out
    return by_hand.attend(_forward, _backward, q, k, v, scale, causal)


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Rows of a tile, and warps of a program."""

    rows: int
    warps: int


def _cut(kernel: str, q: Tensor, numbers: int = 4096) -> dict[str, int]:
    """Tiles of so many numbers: enough to hide latency, few enough to stay in registers."""
    dim = q.shape[-1]
    width = max(16, triton.next_power_of_2(dim))
    cut = _Cut(rows=32 if not q.is_cuda else max(16, numbers // width), warps=4)
    bits = 8 * q.element_size()
    cut = choose(f"diagonals.{kernel}", width, bits, device=q.device, shipped=cut, safe=cut)
    return {"D": dim, "WIDTH": width, "ROWS": cut.rows, "STAGES": 2, "num_warps": cut.warps}


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    batch, heads, length, _ = q.shape
    out, lse = _room(q, k, v, scale, causal)
    cut = _cut("forward", q)
    count(lambda: batch * heads * _computed_pairs(length, causal))
    with on_device_of(q):
        launch(
            kernels.diagonals_forward, triton.cdiv(length, cut["ROWS"]) * batch * heads,
            q, k, v, out, lse, scale / math.log(2), length, heads, heads // k.shape[1],
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
            CAUSAL=causal, **cut,
        )  # fmt: skip
    return out, lse


def _computed_pairs(length: int, causal: bool) -> int:
    """Pairs of one head: the diagonals themselves, since no tile is multiplied whole."""
    others = sum(length - (1 << bit) for bit in range((length - 1).bit_length()))
    return length + (others if causal else 2 * others)


def _room(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(unit_rows(q)), q.new_empty(q.shape[:3], dtype=torch.float32)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: tuple[Tensor, Tensor],
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out, lse = kept
    grad, q, k, v = (unit_rows(x) for x in (grad, q, k, v))
    batch, heads, length, _ = q.shape
    kv_heads = k.shape[1]
    group, base2 = heads // kv_heads, scale / math.log(2)
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    delta = torch.empty_like(lse)
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3]
    with on_device_of(q):
        cut = _cut("queries", q)
        launch(
            kernels.diagonals_backward_queries, triton.cdiv(length, cut["ROWS"]) * batch * heads,
            q, k, v, out, grad, lse, dq, delta, base2, scale, length, heads, group,
            *strides, *out.stride()[:3], *grad.stride()[:3], *dq.stride()[:3],
            CAUSAL=causal, **cut,
        )  # fmt: skip
        cut = _cut("keys", q, numbers=2048)  # four tiles of float32 at once
        launch(
            kernels.diagonals_backward_keys, triton.cdiv(length, cut["ROWS"]) * batch * kv_heads,
            q, k, v, grad, lse, delta, dk, dv, base2, scale, length, heads, group,
            *strides, *grad.stride()[:3], *dk.stride()[:3], *dv.stride()[:3],
            CAUSAL=causal, **cut,
        )  # fmt: skip
    return dq, dk, dv


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(unit_rows(x))


register(
    "diagonals",
    "float scale, bool causal",
    forward=_forward,
    room=_room,
    backward=_backward,
    gradient=_like,
)
