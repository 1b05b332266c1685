"""The Triton kernels of Combiner-Logsparse in Triton's interpreter, against the map in float64.

Here tiles are 16 tokens and chunks 32, so that short sequences have regions of every kind: inside
a tile, inside a chunk, and put together from several chunks.
"""

import pytest
import torch
from contract import Inputs, dense_output, draw_inputs, gradients, worst

from attnbench import pattern
from patterns.base import Pattern
from patterns.errors import Unsupported

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

SUMMARIES = ("max", "mean", "mean+size", "variational")
FORMS = [
    *(f"summary={kind}" for kind in SUMMARIES),
    *(f"summary={kind},causal=false" for kind in SUMMARIES),
    "near=3",  # queries and their runs lie in different tiles
    "near=3,sink=20,causal=false,summary=mean",  # the sinks empty regions of every kind
    "block=4,near=5,sink=20,summary=variational",  # and tiles before the first run
    "block=32,sink=3,summary=mean+size",  # leaves longer than a tile
    "block=32,near=1,causal=false",
    "block=600",  # one leaf
]


@pytest.fixture(autouse=True)
def poisoned(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels are to write with NaN, so that nothing unwritten passes for zero."""
    from patterns.kernels import logsparse

    def poison(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(-(1 << 20))

    real, original = torch.empty, logsparse.empty_results
    monkeypatch.setattr(
        logsparse, "empty_results", lambda *args: tuple(poison(x) for x in original(*args))
    )
    monkeypatch.setattr(
        logsparse.torch, "empty", lambda *size, **options: poison(real(*size, **options))
    )


def spelled(parameters: str) -> Pattern:
    return pattern(f"combiner-logsparse[{parameters}]" if parameters else "combiner-logsparse")


def compared(form: Pattern, inputs: Inputs) -> list[float]:
    """The largest errors of the output and of the three gradients."""
    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs))
    wanted = dense_output(form, exact)
    found = form.attend(*inputs, backend="triton")
    pairs = zip(gradients(found, inputs), gradients(wanted, exact), strict=True)
    return [worst(found, wanted), *(worst(x, y) for x, y in pairs)]


@pytest.mark.parametrize("parameters", FORMS)
def test_the_kernels_agree_with_the_dense_map(parameters: str):
    inputs = draw_inputs(75, dim=16, heads=1, dtype=torch.float32, contiguous=False)
    assert max(compared(spelled(parameters), inputs)) < 4e-6


def test_longer_regions_are_put_together_from_chunks():
    inputs = Inputs(*(x.detach() for x in draw_inputs(300, dim=16, heads=1, dtype=torch.float32)))
    for kind in SUMMARIES:
        form = spelled(f"summary={kind}")
        exact = dense_output(form, Inputs(*(x.double() for x in inputs)))
        assert worst(form.attend(*inputs, backend="triton"), exact) < 4e-6


@pytest.mark.parametrize("length", [1, 2, 17])
def test_any_length(length: int):
    inputs = draw_inputs(length, dim=16, heads=1, dtype=torch.float32)
    assert max(compared(spelled("causal=false"), inputs)) < 4e-6


@pytest.mark.parametrize("dim", [8, 33])
def test_heads_of_any_width_and_shared_keys(dim: int):
    inputs = draw_inputs(37, dim=dim, heads=4, kv_heads=2, dtype=torch.float32)
    assert max(compared(spelled("sink=2"), inputs)) < 4e-6


def test_half_precision():
    inputs = draw_inputs(100, dim=16, heads=1, dtype=torch.float16)
    form = spelled("summary=variational,sink=2")
    exact = dense_output(form, Inputs(*(x.double() for x in inputs)))
    plain = worst(dense_output(form, inputs), exact)
    rounding = torch.finfo(torch.float16).eps * float(exact.detach().abs().max())
    found = compared(form, inputs)
    assert found[0] <= 2 * plain + 8 * rounding
    assert max(found[1:]) < 4e-3


def test_leaves_that_no_tile_can_hold_are_refused():
    q, k, v = draw_inputs(20, dtype=torch.float32)
    with pytest.raises(Unsupported, match="a power of two tokens, not block=3"):
        spelled("block=3").attend(q, k, v, backend="triton")
    assert spelled("block=3").implementation(q, k, v).backend == "sdpa"
