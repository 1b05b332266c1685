"""The fused axial Combiners in Triton's interpreter, on the CPU: against the dense map in float64.

What the kernels are to write starts as NaN, so that nothing unwritten passes for zero; tiles are
small, so that lines have several of them. On a GPU the contract suite runs the compiled kernels.
"""

import pytest
import torch
from contract import Inputs, dense_output, draw_inputs, gradients, worst

from attnbench import pattern
from patterns.base import Pattern
from patterns.errors import Unsupported

pytest.importorskip("triton")

WIDE, TALL, SMALL = (36, 17), (50, 3), (20, 6)  # tokens and columns; the last row is short
CASES = [
    ("combiner-axial-rowmajor[summary=none]", WIDE),
    ("combiner-axial-rowmajor[summary=variational,causal=false]", TALL),
    ("combiner-axial-vertical[summary=max,causal=false]", TALL),
    ("combiner-axial-vertical[summary=variational]", WIDE),
    ("combiner-axial-horizontal[summary=max]", WIDE),
    ("combiner-axial-horizontal[summary=mean+size,regions=split,causal=false]", SMALL),
    ("combiner-mixture[summary=max]", SMALL),
    ("combiner-mixture[summary=variational,form=joint,causal=false]", SMALL),
]


def spelled(name: str, columns: int) -> Pattern:
    """The pattern with so many columns."""
    head, _, rest = name.rstrip("]").partition("[")
    return pattern(f"{head}[columns={columns}{',' + rest if rest else ''}]")


@pytest.fixture(autouse=True)
def poisoned(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory starts as NaN, and tiles are small."""
    from patterns.kernels import axial, lines_tiles
    from patterns.kernels.tuned import Tiles

    real, like, results = torch.empty, torch.empty_like, axial.empty_results

    def spoil(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *a, **o: spoil(real(*a, **o)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **o: spoil(like(*a, **o)))
    monkeypatch.setattr(axial, "empty_results", lambda *a: tuple(map(spoil, results(*a))))
    small = Tiles(queries=32, keys=16, warps=4, stages=1)
    monkeypatch.setattr(lines_tiles, "_SINGLE", small)
    for work in lines_tiles._HALF:
        monkeypatch.setitem(lines_tiles._HALF, work, small)


def compared(form: Pattern, inputs: Inputs) -> list[float]:
    """The largest errors of the output and of the three gradients."""
    exact = Inputs(*(x.detach().double().requires_grad_() for x in inputs))
    wanted = dense_output(form, exact)
    found = form.attend(*inputs, backend="triton")
    pairs = zip(gradients(found, inputs), gradients(wanted, exact), strict=True)
    return [worst(found, wanted), *(worst(x, y) for x, y in pairs)]


def few(inputs: Inputs) -> Inputs:
    """The first head of the first sequence alone: the interpreter is slow."""
    return Inputs(*(x.detach()[:1, :1].requires_grad_() for x in inputs))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_a_fused_axial_combiner_agrees_with_the_dense_map(name: str, shape: tuple[int, int]):
    inputs = few(draw_inputs(shape[0], dim=16, dtype=torch.float32, contiguous=False))
    assert max(compared(spelled(name, shape[1]), inputs)) < 4e-6


@pytest.mark.parametrize(("name", "columns"), [("rowmajor", 50), ("horizontal", 1)])
def test_a_single_line_is_plain_attention(name: str, columns: int):
    inputs = few(draw_inputs(9, dim=16, dtype=torch.float32))
    form = pattern(f"combiner-axial-{name}[columns={columns}]")
    assert max(compared(form, inputs)) < 4e-6
    found = form.attend(*inputs, backend="triton")
    assert worst(found, pattern("full").attend(*inputs, backend="eager")) < 4e-6


def test_grouped_heads_of_any_width():
    inputs = draw_inputs(11, dim=24, heads=4, kv_heads=2, dtype=torch.float32)
    assert max(compared(pattern("combiner-axial-vertical[columns=4]"), inputs)) < 4e-6
    form = pattern("combiner-axial-rowmajor[columns=4,summary=wsum]")
    assert max(compared(form, inputs)) < 4e-6


def test_half_precision():
    inputs = few(draw_inputs(36, dim=16, dtype=torch.float16))
    form = pattern("combiner-axial-rowmajor[columns=17]")
    exact = dense_output(form, Inputs(*(x.double() for x in inputs)))
    plain = worst(dense_output(form, inputs), exact)
    found = compared(form, inputs)
    largest = float(exact.detach().abs().max())
    assert found[0] <= 2 * plain + 8 * torch.finfo(torch.float16).eps * largest
    assert max(found[1:]) < 4e-3


@pytest.mark.parametrize("name", ["vertical[causal=false]", "horizontal"])
def test_equal_maxima_go_to_the_first(name: str):
    inputs = few(draw_inputs(20, dim=16, dtype=torch.float32))
    coarse = Inputs(*((x.detach() * 2).round().div(2).requires_grad_() for x in inputs))
    assert max(compared(spelled(f"combiner-axial-{name}", 5), coarse)) < 4e-6


def test_what_the_kernels_do_not_do_is_refused_with_a_reason():
    q, k, v = draw_inputs(41, dim=16, dtype=torch.float32)
    for name in ("rowmajor[sink=2]", "vertical[near=1]"):
        with pytest.raises(Unsupported, match="no sinks and no near rows"):
            pattern(f"combiner-axial-{name}").attend(q, k, v, backend="triton")
    alone = pattern("combiner-axial-horizontal[columns=8,causal=false]")
    with pytest.raises(Unsupported, match="a single token"):
        alone.attend(q, k, v, backend="triton")
    assert alone.implementation(q, k, v).backend == "sdpa"


def test_the_operator_compiles_and_passes_the_checks_of_pytorch():
    inputs = few(draw_inputs(10, dim=16, dtype=torch.float32))
    form = pattern("combiner-axial-rowmajor[columns=4,summary=variational]")

    def twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 2 * form.attend(q, k, v, backend="triton")

    found = torch.compile(twice, backend="aot_eager", fullgraph=True)(*inputs)
    wanted = twice(*inputs)
    assert worst(found, wanted) == 0
    pairs = zip(gradients(found, inputs), gradients(wanted, inputs), strict=True)
    assert max(worst(x, y) for x, y in pairs) == 0
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.attnbench.combiner_axial.default,
        (*inputs, "rowmajor", 4, "none", True, 0.25),
        test_utils=checks,
    )
