"""The fused sliding window with sinks: launching its Triton kernels.

Compiled code meets them as operators of `torch.library`. Nothing waits for the device, so that a
CUDA graph captures them. Grouped heads read their shared keys and values in place.
"""

import math

import torch
import triton
from torch import Tensor

from patterns.computed import band_pairs, count
from patterns.kernels import by_hand
from patterns.kernels import window_kernels as kernels
from patterns.kernels.launching import on_device_of, precision, unit_rows
from patterns.kernels.operators import register
from patterns.kernels.prepared import launch
from patterns.kernels.window_tiles import Tiles, sink_parts, tiles

_SINKS = 16  # keys of a tile of sinks


def attend_window(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, sink: int, causal: bool, scale: float
) -> Tensor:
    """Softmax over the keys less than `window` away and the first `sink` ones.

    Args:
        q: queries [B, Hq, L, D], D from 16 to 256; any strides.
        k: keys [B, Hkv, L, D]; Hq is a multiple of Hkv.
        v: values [B, Hkv, L, D].
        window: the own token included; both ways unless `causal`.
        sink: leading tokens that every later query sees, and every earlier one unless `causal`.
        causal: no query sees a key behind it.
        scale: factor on the scores.

    Returns:
        [B, Hq, L, D] in the dtype of q, differentiable in q, k and v.
    """
    settings = scale, window, sink, causal
    if torch.compiler.is_compiling():
        out: Tensor = torch.ops.attnbench.window(q, k, v, *settings)[0]
        return out
    return by_hand.attend(_forward, _backward, q, k, v, *settings)


def _clamped(length: int, window: int, sink: int) -> tuple[int, int]:
    """Window and sinks as the kernels want them: no longer than the sequence, no idle sinks."""
    window = min(window, length)
    return window, min(sink, length) if window < length else 0


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int, sink: int, causal: bool
) -> tuple[Tensor, Tensor]:
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    batch, heads, length, dim = q.shape
    out, lse = _room(q, k, v, scale, window, sink, causal)
    window, sink = _clamped(length, window, sink)
    width = max(16, triton.next_power_of_2(dim))
    cut = tiles("forward", width, q.dtype, q.device)
    count(lambda: batch * heads * _computed_pairs(length, window, sink, causal, cut))
    with on_device_of(q):
        launch(
            kernels.window_forward, triton.cdiv(length, cut.rows) * batch * heads,
            q, k, v, out, lse, scale / math.log(2), length, window, sink, heads,
            heads // k.shape[1], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            *out.stride()[:3], D=dim, WIDTH=width, ROWS=cut.rows, KEYS=cut.keys, SINKS=_SINKS,
            CAUSAL=causal, SINK=sink > 0, SPLIT=cut.split, IP=precision(q),
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return out, lse


def _computed_pairs(length: int, window: int, sink: int, causal: bool, cut: Tiles) -> int:
    """Pairs of one head in the tiles of the forward kernel: its window, then its sinks."""
    reach = window - 1
    near = band_pairs(
        length, length, left=reach, right=0 if causal else reach, rows=cut.rows, columns=cut.keys
    )
    first = torch.arange(0, length, cut.rows)
    rows = (length - first).clamp(max=cut.rows)
    begin = (first - reach).clamp(min=0) // cut.keys * cut.keys
    sinks = -(-begin.clamp(max=sink) // _SINKS) * _SINKS
    if not causal:
        end = (first + cut.rows + reach).clamp(max=length)
        end = begin - (begin - end) // cut.keys * cut.keys  # where the last tile of the window ends
        behind = -(-(sink - end).clamp(min=0) // _SINKS) * _SINKS
        sinks = sinks + torch.minimum(behind, (length - end).clamp(min=0))
    return near + int((rows * sinks).sum())


def _room(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int, sink: int, causal: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(unit_rows(q)), q.new_empty(q.shape[:3], dtype=torch.float32)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: tuple[Tensor, Tensor],
    scale: float,
    window: int,
    sink: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out, lse = kept
    grad, q, k, v = (unit_rows(x) for x in (grad, q, k, v))
    batch, heads, length, dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    delta = torch.empty_like(lse)
    window, sink = _clamped(length, window, sink)
    width = max(16, triton.next_power_of_2(dim))
    base2, ieee = scale / math.log(2), precision(q)
    q_strides, k_strides, v_strides = q.stride()[:3], k.stride()[:3], v.stride()[:3]
    grad_strides = grad.stride()[:3]
    with on_device_of(q):
        cut = tiles("queries", width, q.dtype, q.device)
        launch(
            kernels.window_backward_queries, triton.cdiv(length, cut.rows) * batch * heads,
            q, k, v, out, grad, lse, dq, delta, base2, scale, length, window, sink, heads, group,
            *q_strides, *k_strides, *v_strides, *out.stride()[:3], *grad_strides,
            *dq.stride()[:3], D=dim, WIDTH=width, ROWS=cut.rows, KEYS=cut.keys, SINKS=_SINKS,
            CAUSAL=causal, SINK=sink > 0, SPLIT=cut.split, IP=ieee,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        parts, sink_dk, sink_dv = 0, delta, delta  # unused where there is no sink
        if sink:
            cut = tiles("sinks", width, q.dtype, q.device)
            programs = triton.cdiv(sink, cut.keys) * batch * kv_heads
            parts = sink_parts(length, cut.rows, programs, q.device)
            shares = delta.new_empty(2, parts, batch, kv_heads, sink, width)
            sink_dk, sink_dv = shares.unbind()
            launch(
                kernels.window_backward_sinks, parts * programs,
                q, k, v, grad, lse, delta, sink_dk, sink_dv,
                base2, length, window, sink, parts, heads, group,
                *q_strides, *k_strides, *v_strides, *grad_strides,
                D=dim, WIDTH=width, ROWS=cut.rows, SINKS=cut.keys, CAUSAL=causal, IP=ieee,
                num_warps=cut.warps, num_stages=cut.stages,
            )  # fmt: skip
        cut = tiles("keys", width, q.dtype, q.device)
        launch(
            kernels.window_backward_keys, triton.cdiv(length, cut.keys) * batch * kv_heads,
            q, k, v, grad, lse, delta, dk, dv, sink_dk, sink_dv,
            base2, scale, length, window, sink, parts, heads, group,
            *q_strides, *k_strides, *v_strides, *grad_strides,
            *dk.stride()[:3], *dv.stride()[:3], D=dim, WIDTH=width, ROWS=cut.rows, KEYS=cut.keys,
            CAUSAL=causal, SINK=sink > 0, SPLIT=cut.split, IP=ieee,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return dq, dk, dv


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(unit_rows(x))


register(
    "window",
    "float scale, int window, int sink, bool causal",
    forward=_forward,
    room=_room,
    backward=_backward,
    gradient=_like,
)
