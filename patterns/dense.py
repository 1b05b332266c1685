"""Dense attention of one piece, with its log-sum-exp and an explicit backward, on two backends.

Letters: N outer batch, M inner batch (blocks, columns, ...), Q queries, K keys, E head width.
A piece is q [N, M, Q, E] against k, v [N, M or 1, K, E]; the log-sum-exp is [N, M, Q, 1].

`eager` is matmul and logsumexp, in slices of bounded size, for every device and dtype. `sdpa` is
the fused kernel that PyTorch has for the device. Both backwards take the *merged* output and
log-sum-exp of all pieces of a pattern: exp(score - lse) is then the weight in the whole softmax
and rowsum(grad * output) belongs to the whole row, so the gradients of the pieces simply add up
(Liu, Zaharia, Abbeel 2023, Ring Attention, make the same use of the identity).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patterns.computed import band_pairs, count

_SLICE_ELEMENTS = 1 << 26  # scores held at once by eager: 256 MiB in float32
_FLASH_DTYPES = (torch.float16, torch.bfloat16)
_aten = torch.ops.aten


@dataclass(frozen=True)
class Visibility:
    """Which keys each query of a piece sees: all unless one of these is given.

    causal: key <= query; as many keys as queries.
    mask: bool, broadcastable to [N, M, Q, K].
    window: (left, right) tokens that are seen on either side; fused CUDA kernel only.
    """

    causal: bool = False
    mask: Tensor | None = None
    window: tuple[int, int] | None = None


EVERYTHING = Visibility()


def refusal(backend: str, q: Tensor) -> str | None:
    """Why a backend cannot run these inputs, or None."""
    if backend != "sdpa":
        return None
    if q.device.type not in ("cpu", "cuda"):
        return f"the fused kernels exist for cpu and cuda, not {q.device.type}; use backend eager"
    if q.device.type == "cuda" and q.dtype == torch.float64:
        return "no fused CUDA kernel takes float64; use backend eager"
    if q.device.type == "cuda" and q.shape[-1] > 248:
        return f"the fused CUDA kernels take heads up to 248 wide, not {q.shape[-1]}; use eager"
    return None


def has_window_kernel(backend: str, q: Tensor) -> bool:
    """Whether a piece may use `Visibility.window`: FlashAttention on CUDA, half precision."""
    return backend == "sdpa" and q.is_cuda and q.dtype in _FLASH_DTYPES


def forward(
    backend: str, q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of one piece: (output [N, M, Q, Ev], log-sum-exp [N, M, Q, 1]).

    A query that sees no key has output 0 and log-sum-exp -inf, whatever the kernel says of it.
    """
    run = _eager_forward if backend == "eager" else _fused_forward
    count(lambda: _computed_pairs(backend, q, k, visible))
    out, lse = run(q, k, v, visible, scale)
    if visible.mask is not None:
        blind = ~visible.mask.any(dim=-1, keepdim=True)
        out = out.masked_fill(blind, 0.0)
        lse = lse.masked_fill(blind, -math.inf)
    return out, lse


def backward(
    backend: str,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    visible: Visibility,
    scale: float,
    lse_grad: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v of one piece, given the merged output and log-sum-exp of its rows.

    The gradient of the log-sum-exp [N, M, Q, 1], if there is one, is taken off rowsum(grad * out):
    it travels in two coordinates in which all values are 0, two for the sake of 16-bit dtypes.
    """
    run = _eager_backward if backend == "eager" else _fused_backward
    if lse_grad is None:
        return run(grad, q, k, v, out, lse, visible, scale)
    high = lse_grad.to(out.dtype)
    low = (lse_grad - high).to(out.dtype)
    grad = torch.cat([grad, grad.new_ones(*grad.shape[:-1], 2)], dim=-1)
    out = torch.cat([out, -high, -low], dim=-1)
    wide = torch.cat([v, v.new_zeros(*v.shape[:-1], 2)], dim=-1)
    dq, dk, dv = run(grad, q, k, wide, out, lse, visible, scale)
    return dq, dk, dv[..., : v.shape[-1]]


def _computed_pairs(backend: str, q: Tensor, k: Tensor, visible: Visibility) -> int:
    """Products of a piece: fused kernels skip what is causal or windowed, and nothing masked."""
    outer, inner, queries, _ = q.shape
    left: int | None = None
    right: int | None = None
    if backend != "eager" and visible.window is not None:
        left, right = visible.window
    elif backend != "eager" and visible.causal:
        right = 0
    return outer * inner * band_pairs(queries, k.shape[2], left=left, right=right)


# Eager.


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _slices(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    outer, inner, queries, _ = q.shape
    one = max(queries * k.shape[2], 1)
    inner_step = max(1, min(inner, _SLICE_ELEMENTS // one))
    outer_step = max(1, min(outer, _SLICE_ELEMENTS // (one * inner_step)))
    for n in range(0, outer, outer_step):
        for m in range(0, inner, inner_step):
            yield slice(n, n + outer_step), slice(m, m + inner_step)


def _cut(x: Tensor, part: tuple[slice, slice]) -> Tensor:
    outer = part[0] if x.shape[0] > 1 else slice(None)
    inner = part[1] if x.shape[1] > 1 else slice(None)
    return x[outer, inner]


def _scores(
    q: Tensor, k: Tensor, visible: Visibility, part: tuple[slice, slice], scale: float
) -> Tensor:
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if visible.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill_(hidden, -math.inf)
    if visible.mask is not None:
        mask = visible.mask[(None,) * (4 - visible.mask.ndim)]
        scores = scores.masked_fill_(~_cut(mask, part), -math.inf)
    return scores


def _eager_forward(
    q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    dtype = _compute_dtype(q)
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    lse = q.new_empty(*q.shape[:-1], 1, dtype=dtype)
    for part in _slices(q, k):
        scores = _scores(_cut(q, part).to(dtype), _cut(k, part).to(dtype), visible, part, scale)
        lse[part] = scores.logsumexp(dim=-1, keepdim=True)
        out[part] = (scores.softmax(dim=-1) @ _cut(v, part).to(dtype)).to(out.dtype)
    return out, lse


def _eager_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    visible: Visibility,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _compute_dtype(q)
    dq = torch.empty_like(q)
    dk = torch.zeros_like(k, dtype=dtype)
    dv = torch.zeros_like(v, dtype=dtype)
    for part in _slices(q, k):
        q_, k_, v_ = (_cut(x, part).to(dtype) for x in (q, k, v))
        grad_, out_ = grad[part].to(dtype), out[part].to(dtype)
        weights = (_scores(q_, k_, visible, part, scale) - lse[part]).exp()
        delta = (grad_ * out_).sum(dim=-1, keepdim=True)
        dscores = weights * (grad_ @ v_.transpose(-1, -2) - delta) * scale
        dq[part] = (dscores @ k_).to(q.dtype)
        _add(_cut(dk, part), dscores.transpose(-1, -2) @ q_)
        _add(_cut(dv, part), weights.transpose(-1, -2) @ grad_)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _add(total: Tensor, part: Tensor) -> None:
    total += part.sum_to_size(total.shape)


# Fused. The heads are padded to one width that the kernels take; zeros change no product.


def _pad_heads(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def _width(q: Tensor, v: Tensor) -> int:
    widest = max(q.shape[-1], v.shape[-1])
    return -(-widest // 8) * 8 if q.is_cuda else widest


def _expand(q: Tensor, *others: Tensor) -> list[Tensor]:
    return [x.expand(q.shape[0], q.shape[1], -1, -1) for x in others]


def _bias(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """The mask as numbers to add, in rows whose stride the efficient kernel can load."""
    mask = mask[(None,) * (4 - mask.ndim)]
    keys = k.shape[2]
    bias = q.new_full((*mask.shape[:-1], -(-keys // 8) * 8), -math.inf)[..., :keys]
    bias.masked_fill_(mask, 0.0)
    return bias.expand(q.shape[0], q.shape[1], q.shape[2], keys)


def _fused_forward(
    q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float
) -> tuple[Tensor, Tensor]:
    width, values = _width(q, v), v.shape[-1]
    q, k, v = (_pad_heads(x, width) for x in (q, k, v))
    k, v = _expand(q, k, v)
    bias = None if visible.mask is None else _bias(q, k, visible.mask)
    if not q.is_cuda:
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, visible.causal, attn_mask=bias, scale=scale
        )
    elif visible.window is not None:
        left, right = visible.window
        out, lse, *_ = _aten._flash_attention_forward(
            *(x.transpose(1, 2) for x in (q, k, v)),
            None, None, q.shape[2], k.shape[2], 0.0, False, False,
            scale=scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        out = out.transpose(1, 2)
    elif bias is None and q.dtype in _FLASH_DTYPES:
        out, lse, *_ = _aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, visible.causal, False, scale=scale
        )
    else:
        out, lse, *_ = _aten._scaled_dot_product_efficient_attention(
            q, k, v, bias, True, 0.0, visible.causal, scale=scale
        )
    return out[..., :values], lse[..., : q.shape[2]].unsqueeze(-1)


def _fused_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    visible: Visibility,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    width, shapes = _width(q, v), (q.shape, k.shape, v.shape)
    grad, q, k, v, out = (_pad_heads(x, width) for x in (grad, q, k, v, out))
    lse = lse.squeeze(-1).contiguous()
    k, v = _expand(q, k, v)
    bias = None if visible.mask is None else _bias(q, k, visible.mask)
    if not q.is_cuda:
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, visible.causal, attn_mask=bias, scale=scale
        )
    elif visible.window is not None or (bias is None and q.dtype in _FLASH_DTYPES):
        left, right = visible.window or (None, None)
        unused = torch.zeros((), dtype=torch.int64, device=q.device)  # dropout state
        grads = _aten._flash_attention_backward(
            *(x.transpose(1, 2) for x in (grad, q, k, v, out)), lse,
            None, None, q.shape[2], k.shape[2], 0.0, visible.causal, unused, unused,
            scale=scale, window_size_left=left, window_size_right=right,
        )  # fmt: skip
        grads = [x.transpose(1, 2) for x in grads]
    else:
        # In 16 bits the kernel reads the output as if it lay as [N, Q, M, E], whatever its strides.
        out = out.transpose(1, 2).contiguous().transpose(1, 2)
        rows = -(-q.shape[2] // 32) * 32  # the efficient kernel keeps its statistics in full tiles
        lse = torch.nn.functional.pad(lse, (0, rows - q.shape[2]), value=math.inf)
        unused = torch.zeros((), dtype=torch.int64, device=q.device)
        grads = _aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, bias, out, lse, unused, unused, 0.0,
            [True, True, True, False], visible.causal, scale=scale,
        )[:3]  # fmt: skip
    return tuple(
        grad[..., : shape[-1]].sum_to_size(shape) for grad, shape in zip(grads, shapes, strict=True)
    )
