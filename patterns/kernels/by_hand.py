"""Attention whose gradients are launched by hand, as autograd takes it.

An operator of PyTorch, which compiled code needs, costs the host more than this; and at short
lengths the host decides.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Forward = Callable[..., tuple[Tensor, ...]]
Backward = Callable[..., tuple[Tensor, Tensor, Tensor]]


def attend(
    forward: Forward,
    backward: Backward,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *settings: Any,
    alone: Forward | None = None,
) -> Tensor:
    """The first of what `forward(q, k, v, *settings)` returns, differentiable in q, k and v.

    Args:
        forward: returns the output and what else the backward needs.
        backward: gives dq, dk, dv for (gradient, q, k, v, what was returned, *settings).
        alone: in place of `forward` where no backward can follow.
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        found: Tensor = _Function.apply(forward, backward, q, k, v, settings)
        return found
    return (alone or forward)(q, k, v, *settings)[0]


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        forward: Forward,
        backward: Backward,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        settings: tuple[Any, ...],
    ) -> Tensor:
        kept = forward(q, k, v, *settings)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.back = backward, settings
        return kept[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        backward, settings = ctx.back
        q, k, v, *kept = ctx.saved_tensors
        return None, None, *backward(grad, q, k, v, tuple(kept), *settings), None
