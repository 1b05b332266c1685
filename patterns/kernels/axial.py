"""The axial Combiners on the GPU: one way in for all of them.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from types import ModuleType

import torch
from torch import Tensor

from patterns.kernels import axial_rowmajor, axial_scripts, by_hand
from patterns.kernels.axial_form import Axial
from patterns.kernels.launching import on_device_of, unit_rows


def _module(form: Axial) -> ModuleType:
    return axial_rowmajor if form.plan == "rowmajor" else axial_scripts


def attend(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    return by_hand.attend(forward, backward, q, k, v, form)


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
