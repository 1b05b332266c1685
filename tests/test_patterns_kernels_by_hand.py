"""The way into autograd of kernels with gradients of their own, here with plain products."""

import pytest
import torch
from torch import Tensor

from patterns.kernels import by_hand


def forward(q: Tensor, k: Tensor, v: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    return factor * q * k * v, q * k


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, Tensor], factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    product = kept[1]
    return factor * grad * k * v, factor * grad * q * v, factor * grad * product


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_hand.attend(forward, backward, q, k, v, 3.0)


def test_gradients_are_those_made_by_hand() -> None:
    inputs = [x.requires_grad_() for x in torch.randn(3, 5, dtype=torch.float64).unbind()]
    assert torch.autograd.gradcheck(attend, inputs)


def test_a_second_derivative_is_refused() -> None:
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 5).unbind())
    (dq,) = torch.autograd.grad(attend(q, k, v).square().sum(), (q,), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()
