"""Taken rows are those of indexing, and so are their gradients."""

import pytest
import torch

from patterns.taken import taken


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "shape"), [(2, (30,)), (2, (6, 5)), (0, (4, 2)), (3, (1,))])
def test_what_is_taken_and_its_gradient_are_those_of_indexing(
    dtype: torch.dtype, dim: int, shape: tuple[int, ...]
):
    x = torch.randn(3, 2, 7, 5, dtype=dtype, requires_grad=True)
    index = torch.randint(x.shape[dim], shape)  # some several times
    found, wanted = taken(x, dim, index), x[(slice(None),) * dim + (index,)]
    assert torch.equal(found, wanted)
    grad = torch.randn_like(found)
    (of_found,) = torch.autograd.grad(found, x, grad)
    exact = torch.zeros(x.shape, dtype=torch.float64).index_add(
        dim, index.flatten(), grad.double().reshape(found.flatten(dim, dim + index.ndim - 1).shape)
    )
    torch.testing.assert_close(of_found, exact.to(dtype))


def test_many_small_gradients_of_16_bits_are_not_rounded_one_by_one():
    x = torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    many = taken(x, 2, torch.zeros(4096, dtype=torch.int64))
    (grad,) = torch.autograd.grad(many, x, torch.ones_like(many))
    assert grad.item() == 4096  # bfloat16 has no 257


def test_a_gradient_has_a_gradient():
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 2, 2, 3])
    assert torch.autograd.gradgradcheck(lambda y: taken(y, 2, index) ** 3, x)
