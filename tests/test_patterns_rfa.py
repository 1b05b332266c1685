"""Random Feature Attention: what it estimates, how well, and where its denominator gives way."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from patterns import BadInput, Shape, pattern, recompute
from patterns.features import rfa
from patterns.features.rfa import RFA


def qkv(length: int, dim: int = 8) -> list[Tensor]:
    return [torch.randn(2, 2, length, dim, dtype=torch.float64).requires_grad_() for _ in range(3)]


def both(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad(out, inputs, upstream)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_it_converges_to_its_own_reference(causal: bool, sigma: float):
    q, k, _ = (x.detach() for x in qkv(24))
    errors = []
    for features in (16, 256, 4096):
        seeds = [RFA(causal=causal, sigma=sigma, features=features, seed=seed) for seed in range(4)]
        own_q, own_k, scale = seeds[0].own_reference(q, k)
        wanted = pattern(f"full[causal={causal}]").weights(own_q, own_k, scale=scale)
        gaps = [(form.weights(q, k) - wanted).square().mean().sqrt() for form in seeds]
        errors.append(float(sum(gaps) / len(gaps)))
    # Sixteen times the features: a quarter of the error.
    assert all(few / many > 2.5 for few, many in pairwise(errors))
    assert errors[-1] < 0.02


def test_its_own_reference_is_not_plain_softmax():
    q, k, _ = qkv(24)
    own_q, own_k, scale = RFA(sigma=0.5).own_reference(3 * q, k)
    torch.testing.assert_close(own_q.norm(dim=-1), torch.ones(2, 2, 24, dtype=torch.float64))
    torch.testing.assert_close(own_k * k.norm(dim=-1, keepdim=True), k)
    assert scale == 4.0


def test_lengths_of_queries_and_keys_and_the_scale_change_nothing():
    q, k, v = qkv(40)
    wanted = RFA().attend(q, k, v)
    torch.testing.assert_close(RFA().attend(7 * q, 0.1 * k, v, scale=3.0), wanted)


def test_the_draw_follows_the_seed_and_nothing_else():
    q, k, v = qkv(20)
    torch.manual_seed(1)
    first = RFA(seed=5).attend(q, k, v)
    rfa._directions.cache_clear()
    torch.manual_seed(2)
    assert torch.equal(RFA(seed=5).attend(q, k, v), first)
    assert not torch.allclose(RFA(seed=6).attend(q, k, v), first)
    single, double = (
        rfa._directions(8, 4, 0.7, 0, dtype, torch.device("cpu"))
        for dtype in (torch.float32, torch.float64)
    )
    assert torch.equal(single.double(), double)


def test_the_kept_draw_serves_inference_and_training():
    inputs = qkv(5)
    rfa._directions.cache_clear()
    with torch.inference_mode():
        RFA().attend(*inputs)
    assert all(grad.isfinite().all() for grad in both(RFA().attend(*inputs), inputs))


@pytest.mark.parametrize("causal", [True, False])
def test_slices_and_chunks_change_nothing(causal: bool, monkeypatch: pytest.MonkeyPatch):
    inputs, form = qkv(300), RFA(causal=causal)
    whole = both(form.attend(*inputs), inputs)
    monkeypatch.setattr(recompute, "SLICE_ELEMENTS", 1)
    monkeypatch.setattr(rfa, "_CHUNK", 32)
    for got, want in zip(both(form.attend(*inputs), inputs), whole, strict=True):
        torch.testing.assert_close(got, want)


def cancelling() -> tuple[RFA, Tensor, Tensor]:
    """One query and one key that differ by a quarter of the only wave: cos(w (q - k)) = 0."""
    wave = abs(float(torch.randn(1, 1, generator=torch.Generator().manual_seed(0))))
    q = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    return RFA(features=1, sigma=4 * wave / math.pi), q, -q


def test_a_vanishing_denominator_is_clamped():
    form, q, k = cancelling()
    weight = form.weights(q, k)
    assert weight.abs() < 1e-3
    torch.testing.assert_close(form.attend(q, k, torch.full_like(q, 2.0)), 2 * weight)
    inputs = [q.requires_grad_(), k.requires_grad_(), torch.ones_like(q).requires_grad_()]
    assert all(x.isfinite().all() for x in both(form.attend(*inputs), inputs))


def test_a_clamped_denominator_keeps_its_sign():
    found = rfa._clamp(torch.tensor([-0.5, -1e-4, -0.0, 0.0, 1e-4, 0.5]))
    assert torch.equal(found, torch.tensor([-0.5, -1e-3, -1e-3, 1e-3, 1e-3, 0.5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tokens_without_direction_are_no_accident(dtype: torch.dtype):
    zeros = torch.zeros(1, 1, 10, 4, dtype=dtype).requires_grad_()
    v = torch.randn(1, 1, 10, 4).to(dtype).requires_grad_()
    q, k = zeros, zeros.detach().clone().requires_grad_()
    found = both(RFA().attend(q, k, v), [q, k, v])
    assert all(x.isfinite().all() for x in found)
    wanted = pattern("uniform").attend(q, k, v)
    torch.testing.assert_close(found[0], wanted)


def test_the_cost_is_linear_in_the_length():
    def cost(length: int) -> int:
        shape = Shape(batch=1, heads=1, kv_heads=1, length=length, dim=64, element_bytes=2)
        return RFA().cost(shape).flops

    # Each token: its query and key times F directions, and 2F rows of the sums written and read.
    assert cost(1000) == 1000 * (2 * 2 * 128 * 64 + 2 * 2 * 2 * 128 * 64)


def test_nothing_has_all_of_length_width_and_features():
    from test_patterns_sparse import Largest

    length, dim, features = 2048, 16, 64
    inputs = [torch.randn(1, 1, length, dim).requires_grad_() for _ in range(3)]
    with Largest() as largest:
        both(RFA(features=features).attend(*inputs), inputs)
    assert largest.elements <= length * 2 * max(features, rfa._CHUNK)


@pytest.mark.parametrize("spec", ["rfa[features=0]", "rfa[sigma=0]", "rfa[sigma=nan]"])
def test_parameters_without_meaning_are_refused(spec: str):
    with pytest.raises(BadInput):
        pattern(spec)
