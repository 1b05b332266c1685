"""Combiner-Fixed and -Logsparse as operators of PyTorch, for `torch.compile`."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from patterns.kernels import fixed, logsparse
from patterns.kernels.combiner_form import Form
from patterns.kernels.operators import register


def attend_fixed(q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
    """As `patterns.kernels.fixed.attend`."""
    out: Tensor = torch.ops.attnbench.combiner_fixed(q, k, v, *_told(form))[0]
    return out


def attend_logsparse(q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
    """As `patterns.kernels.logsparse.attend`."""
    out: Tensor = torch.ops.attnbench.combiner_logsparse(q, k, v, *_told(form))[0]
    return out


def _told(form: Form) -> tuple[Any, ...]:
    return form.block, form.near, form.sink, form.kind, form.causal, form.scale


def _form(block: int, near: int, sink: int, kind: str, causal: bool, scale: float) -> Form:
    return Form(block=block, near=near, sink=sink, kind=kind, causal=causal, scale=scale)


def _register(name: str, of: ModuleType) -> None:
    register(
        name,
        "int block, int near, int sink, str kind, bool causal, float scale",
        forward=lambda q, k, v, *told: of.forward(q, k, v, _form(*told)),
        room=lambda q, k, v, *told: of.empty_results(q, k, v, _form(*told)),
        backward=lambda grad, q, k, v, kept, *told: of.backward(grad, q, k, v, kept, _form(*told)),
        gradient=lambda x: x.new_empty(x.shape),
    )


_register("combiner_fixed", fixed)
_register("combiner_logsparse", logsparse)
