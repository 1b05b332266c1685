"""Combiner-Logsparse as an operator of PyTorch, which `torch.compile` takes as it is.

As `patterns.kernels.fixed_operator`: for compiled code alone, because calling an operator costs
the host more than calling an autograd function.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from patterns.kernels import logsparse
from patterns.kernels.logsparse_back import backward
from patterns.kernels.logsparse_call import Logsparse, call_of


def attend(q: Tensor, k: Tensor, v: Tensor, form: Logsparse) -> Tensor:
    """As `patterns.kernels.logsparse.attend`."""
    out: Tensor = _forward(q, k, v, *_spelled(form))[0]
    return out


@torch.library.custom_op("attnbench::combiner_logsparse", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int,
    near: int,
    sink: int,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    return list(logsparse.forward(q, k, v, _form(block, near, sink, kind, causal, scale)))


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *spelled: Any) -> list[Tensor]:
    return list(logsparse.empty_results(q, k, v, call_of(q, k, _form(*spelled))))


@torch.library.custom_op("attnbench::combiner_logsparse_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Sequence[Tensor],
    block: int,
    near: int,
    sink: int,
    kind: str,
    causal: bool,
    scale: float,
) -> list[Tensor]:
    form = _form(block, near, sink, kind, causal, scale)
    return list(backward(grad, q, k, v, tuple(kept), form))


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


def _spelled(form: Logsparse) -> tuple[int, int, int, str, bool, float]:
    return form.block, form.near, form.sink, form.kind, form.causal, form.scale


def _form(block: int, near: int, sink: int, kind: str, causal: bool, scale: float) -> Logsparse:
    return Logsparse(block=block, near=near, sink=sink, kind=kind, causal=causal, scale=scale)
