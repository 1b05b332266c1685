"""Attention to the ends of binary blocks: `torch.library` operators over the Triton kernels.

Opaque to torch.compile, captured by CUDA graphs; grouped heads read their shared keys in place.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import suffix_kernels as kernels
from patterns.kernels.launching import on_device_of, precision, unit_rows
from patterns.kernels.prepared import launch
from patterns.kernels.tile_choice import choose

_LIBRARY = torch.library.Library("attnbench", "FRAGMENT")
_LIBRARY.define(
    "suffix(Tensor q, Tensor k, Tensor v, float scale, bool causal) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "suffix_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "float scale, bool causal) -> (Tensor, Tensor, Tensor)"
)
_SUMMED = 32  # shares that a program of `sum_suffixes` reads at once


def attend_suffixes(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float) -> Tensor:
    """Softmax over the own key and the last one of every block that the binary digits of i cut.

    Args:
        q: queries [B, H, L, D], D up to 256; any strides.
        k: keys [B, Hkv, L, D]; H is a multiple of Hkv.
        v: values [B, Hkv, L, D].
        causal: no query sees a key behind it; otherwise it sees the mirrored keys too.
        scale: factor on the scores.

    Returns:
        [B, H, L, D] in the dtype of q, differentiable in q, k and v.
    """
    out: Tensor = torch.ops.attnbench.suffix(q, k, v, scale, causal)[0]
    return out


@dataclass(frozen=True, kw_only=True)
class _Warps:
    """Of a program; its tile follows from the width of a row."""

    warps: int


def _cut(kernel: str, q: Tensor) -> dict[str, Any]:
    """Tiles and what goes with them; guesses for an H100."""
    length, dim = q.shape[2:]
    width = max(16, 1 << (dim - 1).bit_length())
    bytes_wide = width * q.element_size()
    tile = 64 if bytes_wide <= 128 else 32 if bytes_wide <= 512 else 16
    guess = _Warps(warps=8 if width > 64 else 4)
    bits = 8 * q.element_size()
    chosen = choose(f"suffix.{kernel}", width, bits, device=q.device, shipped=guess, safe=guess)
    return {
        "T": tile,
        "FAR": 16 if length <= tile << 16 else 32,
        "DIM": dim,
        "WIDTH": width,
        "num_warps": chosen.warps,
    }


def _orders(causal: bool) -> tuple[bool, ...]:
    """MIRRORED or not, of one launch after the other."""
    return (False,) if causal else (False, True)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    batch, heads, length, _ = q.shape
    out, lse = _forward_fake(q, k, v, scale, causal)
    cut = _cut("forward", q)
    tiles = -(-length // cut["T"])
    count(lambda: batch * heads * len(_orders(causal)) * _computed_pairs(length, cut))
    with on_device_of(q):
        for mirrored in _orders(causal):
            launch(
                kernels.attend_suffixes, tiles * batch * heads,
                q, k, v, out, lse,
                *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
                length, heads, scale / math.log(2),
                MIRRORED=mirrored, GROUP=heads // k.shape[1], PRECISION=precision(q), **cut,
            )  # fmt: skip
    return out, lse


def _computed_pairs(length: int, cut: dict[str, Any]) -> int:
    """Pairs of one head in one launch: every tile with itself, and with its far keys."""
    tile: int = cut["T"]
    far: int = cut["FAR"]
    full, rest = divmod(length, tile)
    return full * tile**2 + rest**2 + min(far, length) * length


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, q, k, v = (unit_rows(x) for x in (grad, q, k, v))
    batch, heads, length, dim = q.shape
    lines = batch * k.shape[1]
    cut = _cut("gradients", q)
    tiles = -(-length // cut["T"])
    dq, dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v))
    bits = (tiles - 1).bit_length()
    part_key, part_value = lse.new_empty(2, lines, bits, tiles, dim).unbind()
    with on_device_of(q):
        for mirrored in _orders(causal):
            launch(
                kernels.suffix_gradients, tiles * lines,
                q, k, v, grad, out, lse, dq, dk, dv, part_key, part_value,
                *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *grad.stride()[:3],
                length, bits, heads, scale / math.log(2),
                MIRRORED=mirrored, GROUP=heads // k.shape[1], PRECISION=precision(q), **cut,
            )  # fmt: skip
            if tiles > 1:
                launch(
                    kernels.sum_suffixes, (tiles - 1) * lines,
                    part_key, part_value, dk, dv, length, bits,
                    MIRRORED=mirrored, T=cut["T"], ROWS=_SUMMED, DIM=dim, WIDTH=cut["WIDTH"],
                )  # fmt: skip
    return dq, dk, dv


def _backward_fake(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.arguments = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse)


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    grads = torch.ops.attnbench.suffix_backward(grad, *ctx.saved_tensors, *ctx.arguments)
    return *grads, None, None


for _device in ("CPU", "CUDA"):  # on a CPU in Triton's interpreter
    _LIBRARY.impl("suffix", _forward, _device)
    _LIBRARY.impl("suffix_backward", _backward, _device)
torch.library.register_fake("attnbench::suffix", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("attnbench::suffix_backward", _backward_fake, lib=_LIBRARY)
torch.library.register_autograd(
    "attnbench::suffix", _differentiate, setup_context=_keep, lib=_LIBRARY
)
