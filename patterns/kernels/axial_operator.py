"""The axial Combiners as one operator of PyTorch, which `torch.compile` takes as it is."""

import torch
from torch import Tensor

from patterns.kernels import axial
from patterns.kernels.axial_form import Axial, Plan
from patterns.kernels.operators import register


def attend(q: Tensor, k: Tensor, v: Tensor, form: Axial) -> Tensor:
    """As `patterns.kernels.axial.attend`."""
    told = form.plan, form.columns, form.kind, form.causal, form.scale
    out: Tensor = torch.ops.attnbench.combiner_axial(q, k, v, *told)[0]
    return out


def _form(plan: Plan, columns: int, kind: str, causal: bool, scale: float) -> Axial:
    return Axial(plan=plan, columns=columns, kind=kind, causal=causal, scale=scale)


register(
    "combiner_axial",
    "str plan, int columns, str kind, bool causal, float scale",
    forward=lambda q, k, v, *told: axial.forward(q, k, v, _form(*told)),
    room=lambda q, k, v, *told: axial.empty_results(q, k, v, _form(*told)),
    backward=lambda grad, q, k, v, kept, *told: axial.backward(grad, q, k, v, kept, _form(*told)),
    gradient=lambda x: x.new_empty(x.shape),
)
