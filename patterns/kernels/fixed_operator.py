"""Combiner-Fixed as an operator of PyTorch, which `torch.compile` takes as it is."""

import torch
from torch import Tensor

from patterns.kernels import fixed
from patterns.kernels.fixed_form import Fixed
from patterns.kernels.operators import register


def attend(q: Tensor, k: Tensor, v: Tensor, form: Fixed) -> Tensor:
    """As `patterns.kernels.fixed.attend`."""
    told = form.block, form.near, form.sink, form.kind, form.causal, form.scale
    out: Tensor = torch.ops.attnbench.combiner_fixed(q, k, v, *told)[0]
    return out


def _form(block: int, near: int, sink: int, kind: str, causal: bool, scale: float) -> Fixed:
    return Fixed(block=block, near=near, sink=sink, kind=kind, causal=causal, scale=scale)


register(
    "combiner_fixed",
    "int block, int near, int sink, str kind, bool causal, float scale",
    forward=lambda q, k, v, *told: fixed.forward(q, k, v, _form(*told)),
    room=lambda q, k, v, *told: fixed.empty_results(q, k, v, _form(*told)),
    backward=lambda grad, q, k, v, kept, *told: fixed.backward(grad, q, k, v, kept, _form(*told)),
    gradient=lambda x: x.new_empty(x.shape),
)
