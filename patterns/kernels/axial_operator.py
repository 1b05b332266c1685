"""The axial Combiners as one operator of PyTorch, which `torch.compile` takes as it is.

For compiled code alone: called directly an operator costs the host more than an autograd function.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patterns.kernels import axial
from patterns.kernels.axial_form import Axial


def attend(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> Tensor:
    """As `patterns.kernels.axial.attend`."""
    out: Tensor = _forward(q, k, v, *_spelled(form))[0]
    return out


@torch.library.custom_op("attnbench::combiner_axial", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: str,
    columns: int,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    return list(axial.forward(q, k, v, _form(plan, columns, kind, causal, scale)))


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *spelled: Any) -> list[Tensor]:
    return list(axial.empty_results(q, k, v, _form(*spelled)))


@torch.library.custom_op("attnbench::combiner_axial_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Sequence[Tensor],
    plan: str,
    columns: int,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    form = _form(plan, columns, kind, causal, scale)
    return list(axial.backward(grad, q, k, v, tuple(kept), form))


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Sequence[Tensor], *spelled: Any
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (q, k, v)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, *spelled = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.spelled = spelled


def _differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    q, k, v, *kept = ctx.saved_tensors
    found = _backward(grads[0], q, k, v, kept, *ctx.spelled)
    return *found, *(None for _ in ctx.spelled)


_forward.register_autograd(_differentiate, setup_context=_keep)


def _spelled(form: Axial) -> tuple[str, int, str, bool, float]:
    return form.plan, form.columns, form.kind, form.causal, form.scale


def _form(plan: Any, columns: int, kind: str, causal: bool, scale: float) -> Axial:
    return Axial(plan=plan, columns=columns, kind=kind, causal=causal, scale=scale)
