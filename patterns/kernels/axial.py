"""The axial Combiners on the GPU: one way in for all of them.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from patterns.kernels import axial_rowmajor, axial_scripts
from patterns.kernels.axial_form import Axial
from patterns.kernels.launching import on_device_of, unit_rows


def _module(form: Axial) -> ModuleType:
    return axial_rowmajor if form.plan == "rowmajor" else axial_scripts


def attend(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        found: Tensor = _Function.apply(q, k, v, form)
        return found
    return forward(q, k, v, form)[0]


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> tuple[Tensor, ...]:
    """Room for what `forward` returns, in its order."""
    found: tuple[Tensor, ...] = _module(form).empty_results(q, k, v, form)
    return found


def forward(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> tuple[Tensor, ...]:
    """The output, and what the backward needs."""
    q, k, v = (unit_rows(x) for x in (q, k, v))
    results = empty_results(q, k, v, form)
    with on_device_of(q):
        _module(form).forward(q, k, v, results, form)
    return results


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, ...], form: Axial
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output and what `forward` returned."""
    q, k, v, grad = (unit_rows(x) for x in (q, k, v, grad))
    found = tuple(torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v))
    with on_device_of(q):
        _module(form).backward(grad, q, k, v, kept, found, form)
    dq, dk, dv = found
    return dq, dk, dv


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, form: Axial) -> Tensor:
        kept = forward(q, k, v, form)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.form = form
        return kept[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        return *backward(grad, q, k, v, tuple(kept), ctx.form), None
