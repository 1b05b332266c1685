"""The rows and columns of a grid by the fused kernels along lines: what strided and axial share."""

from typing import Literal

import torch
from torch import Tensor


def attend_lines(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Literal["cross", "strided"],
    *,
    columns: int,
    causal: bool,
    scale: float,
) -> Tensor:
    """Softmax of q [B, Hq, L, D] over what the plan shows of a grid this wide."""
    from patterns.kernels import axial, axial_operator
    from patterns.kernels.axial_form import Axial

    form = Axial(
        plan=plan, columns=min(columns, q.shape[2]), kind="none", causal=causal, scale=scale
    )
    attend = axial_operator.attend if torch.compiler.is_compiling() else axial.attend
    return attend(q, k, v, form)
