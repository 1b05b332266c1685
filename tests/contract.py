"""What the contract suite runs over: every pattern in all its forms, and random inputs."""

import itertools
from typing import Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

from patterns import PATTERNS, Pattern
from patterns.grammar import field_types

_EXTRA = {"sink": (0, 3), "near": (0, 1)}
"""Values to try beside the default, for the parameters that several patterns share."""


class Inputs(NamedTuple):
    """q [B, Hq, L, D] and k, v [B, Hkv, L, D]."""

    q: Tensor
    k: Tensor
    v: Tensor


def forms(cls: type[Pattern]) -> list[Pattern]:
    """A pattern at its tiny parameters with every choice that it has, both ways of causality."""
    types = field_types(cls)
    choices = {
        name: get_args(kind) if get_origin(kind) is Literal else _EXTRA[name]
        for name, kind in types.items()
        if get_origin(kind) is Literal or name in _EXTRA
    }
    return [
        cls(**{**cls.tiny, **dict(zip(choices, values, strict=True)), "causal": causal})
        for values in itertools.product(*choices.values())
        for causal in (True, False)
    ]


ALL_FORMS = [pytest_form for cls in PATTERNS.values() for pytest_form in forms(cls)]


def draw_inputs(
    length: int,
    *,
    seed: int = 0,
    heads: int = 2,
    kv_heads: int = 1,
    dim: int = 8,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    contiguous: bool = True,
) -> Inputs:
    """Random inputs of batch 2; not contiguous: heads lie inside length, as in a model."""
    generator = torch.Generator().manual_seed(seed)

    def one(count: int) -> Tensor:
        x = torch.randn(2, length, count, dim, generator=generator, dtype=torch.float64)
        x = x.to(device=device, dtype=dtype).transpose(1, 2)
        return (x.contiguous() if contiguous else x).requires_grad_()

    return Inputs(one(heads), one(kv_heads), one(kv_heads))


def dense_output(form: Pattern, inputs: Inputs) -> Tensor:
    """The specification applied: weights(q, k) @ v."""
    q, k, v = inputs
    return form.weights(q, k) @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def gradients(out: Tensor, inputs: Inputs, seed: int = 1) -> tuple[Tensor, ...]:
    """Gradients of q, k, v for a random gradient of the output; zeros where one is unused."""
    grad = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return torch.autograd.grad(out, inputs, grad.to(out), allow_unused=True, materialize_grads=True)


def worst(found: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference, NaN counting as infinite."""
    difference = (found.detach().double() - wanted.detach().double()).abs()
    return float(difference.nan_to_num(nan=torch.inf).max())


def bound(plain: float, wanted: Tensor, dtype: torch.dtype) -> float:
    """The tolerance of the contract: twice the plain error in this dtype, and eight roundings."""
    rounding = torch.finfo(dtype).eps * float(wanted.detach().double().abs().max())
    return 64 * rounding if dtype == torch.float64 else 2 * plain + 8 * rounding


def assert_as_good(form: Pattern, backend: str, low: Inputs) -> None:
    """Output and gradients in low precision, against float64 and the plain map in low precision."""
    exact = Inputs(*(x.detach().double().requires_grad_() for x in low))
    wanted, plain = dense_output(form, exact), dense_output(form, low)
    found = form.attend(*low, backend=backend)
    assert found.dtype == low.q.dtype
    assert worst(found, wanted) <= bound(worst(plain, wanted), wanted, low.q.dtype)
    results = [gradients(out, at) for out, at in ((found, low), (plain, low), (wanted, exact))]
    # One scale for all three: a gradient that is zero by cancellation is as far off as its terms.
    scale = torch.stack([want.abs().max() for want in results[2]]).max()
    for got, coarse, want in zip(*results, strict=True):
        assert worst(got, want) <= bound(worst(coarse, want), scale, low.q.dtype)
