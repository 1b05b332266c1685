"""The Triton kernels in Triton's interpreter, on the CPU: against the dense map in float64.

Here in float32 and float16 at small sizes (its bfloat16 products are wrong); on a GPU the contract
suite runs the compiled kernels.
"""

from typing import Any

import pytest
import torch
from contract import Inputs, dense_output, draw_inputs, gradients, worst

from attnbench import pattern
from patterns.base import Pattern

pytest.importorskip("triton")

SUMMARIES = ("max", "mean", "mean+size", "variational")
FORMS = [
    *(f"combiner-fixed[block=16,summary={kind}]" for kind in SUMMARIES),
    *(f"combiner-fixed[block=16,summary={kind},causal=false]" for kind in SUMMARIES),
    *(f"combiner-fixed[block=16,summary={kind},sink=4,near=1]" for kind in SUMMARIES),
    "combiner-fixed[block=16,summary=variational,sink=20,near=1,causal=false]",
    "combiner-fixed[block=16,sink=16]",  # the sinks empty a block
    "combiner-fixed[block=16,sink=64]",  # and every block
    "combiner-fixed[block=16,near=9]",  # nothing is far
    "combiner-fixed[block=40]",  # tiles that do not divide a block
    "combiner-fixed[block=7,sink=3]",  # blocks smaller than any tile
    "combiner-fixed[block=600]",  # a block longer than the sequence
]


@pytest.fixture(autouse=True)
def poisoned(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels are to write with NaN, so that nothing unwritten passes for zero."""
    from patterns.kernels import fixed

    real = torch.empty

    def empty(*size: object, **options: object) -> torch.Tensor:
        out = real(*size, **options)
        return out.fill_(torch.nan) if out.is_floating_point() else out.fill_(-(1 << 20))

    def results(*args: object) -> tuple[torch.Tensor, ...]:
        return tuple(
            x.fill_(torch.nan) if x.is_floating_point() else x.fill_(-(1 << 20))
            for x in original(*args)
        )

    original = fixed.empty_results
    monkeypatch.setattr(fixed, "empty_results", results)
    monkeypatch.setattr(fixed.torch, "empty", empty)


def compared(form: Pattern, inputs: Inputs) -> list[float]:
    """The largest errors of the output and of the three gradients."""
    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs))
    wanted = dense_output(form, exact)
    found = form.attend(*inputs, backend="triton")
    pairs = zip(gradients(found, inputs), gradients(wanted, exact), strict=True)
    return [worst(found, wanted), *(worst(x, y) for x, y in pairs)]


@pytest.mark.parametrize("spec", FORMS)
def test_a_kernel_agrees_with_the_dense_map(spec: str):
    inputs = draw_inputs(41, dim=16, dtype=torch.float32, contiguous=False)
    assert max(compared(pattern(spec), inputs)) < 4e-6


@pytest.mark.parametrize("kind", SUMMARIES)
def test_blocks_that_pass_by_tile_by_tile(kind: str):
    from patterns.kernels.tile_choice import listening, trying

    inputs = draw_inputs(130, dim=16, dtype=torch.float32)
    form = pattern(f"combiner-fixed[block=40,summary={kind},sink=3]")
    ways = [f"fixed.summaries/16/32/64/{way}" for way in ("plain", "biased", "indexed")]
    small = {"keys": 16, "warps": 4, "stages": 2}
    with trying(dict.fromkeys(ways, small)), listening() as heard:
        assert max(compared(form, inputs)) < 4e-6
        with torch.no_grad():
            found = form.attend(*inputs, backend="triton")
    assert worst(found, dense_output(form, Inputs(*(x.double() for x in inputs)))) < 4e-6
    assert any(one.got == small for name, one in heard.items() if name in ways)


@pytest.mark.parametrize("dim", [8, 24, 33])
def test_heads_of_any_width(dim: int):
    inputs = draw_inputs(37, dim=dim, dtype=torch.float32)
    assert max(compared(pattern("combiner-fixed[block=16,sink=2]"), inputs)) < 4e-6


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (2, 2)])
def test_grouped_heads(heads: tuple[int, int]):
    inputs = draw_inputs(37, dim=16, heads=heads[0], kv_heads=heads[1], dtype=torch.float32)
    form = pattern("combiner-fixed[block=16,summary=variational,sink=2]")
    assert max(compared(form, inputs)) < 4e-6


def test_half_precision():
    inputs = draw_inputs(41, dim=16, dtype=torch.float16)
    form = pattern("combiner-fixed[block=16,sink=2]")
    exact = dense_output(form, Inputs(*(x.double() for x in inputs)))
    plain = worst(dense_output(form, inputs), exact)
    found = compared(form, inputs)
    assert found[0] <= 2 * plain + 8 * torch.finfo(torch.float16).eps * float(
        exact.detach().abs().max()
    )
    assert max(found[1:]) < 4e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_maxima_go_to_the_first(dtype: torch.dtype):
    inputs = draw_inputs(48, dim=16, dtype=dtype)
    coarse = Inputs(*((x.detach() * 2).round().div(2).requires_grad_() for x in inputs))
    form = pattern("combiner-fixed[block=16]")
    bound = 4e-6 if dtype == torch.float32 else 4e-3
    assert max(compared(form, coarse)) < bound


def test_the_operator_compiles_and_passes_the_checks_of_pytorch():
    inputs = draw_inputs(29, dim=16, dtype=torch.float32)
    form = pattern("combiner-fixed[block=8,summary=variational,sink=2]")

    def twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 2 * form.attend(q, k, v, backend="triton")

    found = torch.compile(twice, backend="aot_eager", fullgraph=True)(*inputs)
    wanted = twice(*inputs)
    assert worst(found, wanted) == 0
    pairs = zip(gradients(found, inputs), gradients(wanted, inputs), strict=True)
    assert max(worst(x, y) for x, y in pairs) == 0
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.attnbench.combiner_fixed.default,
        (*inputs, 8, 0, 2, "variational", True, 0.25),
        test_utils=checks,
    )


def launches_of(device: str, **how: bool) -> Any:
    from patterns.kernels.combiner_form import Form
    from patterns.kernels.fixed_launches import forward_launches

    form = Form(block=64, near=0, sink=0, kind="max", causal=True, scale=0.125)
    strides = ((2 * 512 * 64, 512 * 64, 64, 1),) * 3
    return forward_launches(
        (1, 2, 512, 64), 2, torch.bfloat16, "ieee", form, strides, torch.device(device),
        how.get("indexed", False), how.get("overlapping", False),
    )  # fmt: skip


def test_launches_are_kept_with_the_sizes_that_hold():
    from patterns.kernels.tile_choice import forget, trying

    def warps() -> int:
        return int(launches_of("cpu").attention.constants["num_warps"])

    before = launches_of("cpu")
    assert launches_of("cpu") is before
    assert launches_of("meta") is not before
    with trying({"fixed.forward/64/16/64": {"warps": 8}}):
        assert warps() == 8
    assert warps() == 4
    forget()
    assert launches_of("cpu") is not before


def test_the_attention_begins_early_where_launches_may_overlap():
    for overlapping in (True, False):
        launches = launches_of("cpu", overlapping=overlapping)
        early, summed = launches.attention.constants, launches.summaries.constants
        assert early["EARLY"] is summed["EARLY"] is overlapping
        assert early.get("launch_pdl", False) is overlapping
        assert "launch_pdl" not in summed


def test_maxima_have_no_places_where_no_backward_follows():
    from patterns.kernels.tile_choice import listening

    inputs = draw_inputs(41, dim=16, dtype=torch.float32)
    form = pattern("combiner-fixed[block=16]")
    for follows, way in ((True, "indexed"), (False, "plain")):
        with torch.set_grad_enabled(follows), listening() as heard:
            form.attend(*inputs, backend="triton")
        assert f"fixed.summaries/16/32/16/{way}" in heard, heard.keys()
