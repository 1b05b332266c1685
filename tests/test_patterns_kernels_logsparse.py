"""The Triton kernels of Combiner-Logsparse in Triton's interpreter, against the map in float64.

Here tiles are 16 tokens and chunks 32, so that short sequences have regions of every kind: inside
a tile, inside a chunk, and put together from several chunks.
"""

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract import Inputs, dense_output, draw_inputs, gradients, worst
from torch._subclasses.fake_tensor import FakeTensorMode

from attnbench import pattern
from patterns.base import Pattern, Shape
from patterns.computed import counting
from patterns.errors import Unsupported
from patterns.kernels import assembler, launching, logsparse_call, logsparse_tiles, tile_choice

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

FORWARD = [
    "summary=mean",
    *(f"summary={kind},causal=false" for kind in ("mean+size", "variational")),
    "near=3,sink=20,causal=false",  # the sinks empty regions of every kind
    "block=4,near=5,sink=20",  # tiles before the first run
    "block=32,sink=3,summary=mean+size",
]
BOTH = [
    "summary=max",
    "summary=mean+size",
    "summary=max,causal=false",
    "near=3,sink=20,summary=mean,causal=false",
    "block=4,near=3,sink=2,summary=variational",  # queries and their runs in different tiles
    "block=32,near=1",  # leaves longer than a tile
    "block=600",  # one leaf
]


@pytest.fixture(autouse=True)
def poisoned(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels are to write with NaN, so that nothing unwritten passes for zero."""
    from patterns.kernels import logsparse

    def poison(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x.fill_(-(1 << 20))

    real, original = torch.empty, logsparse._room

    def room(*args: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        return tuple(poison(x) for x in original(*args, **options))

    monkeypatch.setattr(logsparse, "_room", room)
    monkeypatch.setattr(
        logsparse.torch, "empty", lambda *size, **options: poison(real(*size, **options))
    )


def spelled(parameters: str) -> Pattern:
    return pattern(f"combiner-logsparse[{parameters}]" if parameters else "combiner-logsparse")


def drawn(length: int, **sizes: object) -> Inputs:
    """One sequence of one head, unless told otherwise."""
    options = {"dim": 16, "heads": 1, "dtype": torch.float32, **sizes}
    return Inputs(*(x.detach()[:1].requires_grad_() for x in draw_inputs(length, **options)))


def exactly(inputs: Inputs) -> Inputs:
    return Inputs(*(x.detach().double().requires_grad_() for x in inputs))


def forward_error(parameters: str, inputs: Inputs) -> float:
    form = spelled(parameters)
    with torch.no_grad():
        found = form.attend(*inputs, backend="triton")
        return worst(found, dense_output(form, exactly(inputs)))


def errors(parameters: str, inputs: Inputs) -> list[float]:
    """The largest errors of the output and of the three gradients."""
    form, exact = spelled(parameters), exactly(inputs)
    found, wanted = form.attend(*inputs, backend="triton"), dense_output(form, exact)
    pairs = zip(gradients(found, inputs), gradients(wanted, exact), strict=True)
    return [worst(found, wanted), *(worst(x, y) for x, y in pairs)]


@pytest.mark.parametrize("parameters", FORWARD)
def test_the_forward_kernels_agree_with_the_dense_map(parameters: str):
    assert forward_error(parameters, drawn(75, contiguous=False)) < 4e-6


@pytest.mark.parametrize("parameters", BOTH)
def test_the_kernels_and_their_gradients_agree_with_the_dense_map(parameters: str):
    assert max(errors(parameters, drawn(75, contiguous=False))) < 4e-6


@pytest.mark.parametrize("kind", ["max", "variational"])
def test_longer_regions_are_put_together_from_chunks(kind: str):
    assert forward_error(f"summary={kind}", drawn(150)) < 4e-6


@pytest.mark.parametrize("length", [1, 2, 17])
def test_any_length(length: int):
    assert max(errors("causal=false", drawn(length))) < 4e-6


@pytest.mark.parametrize("dim", [8, 33])
def test_heads_of_any_width_and_shared_keys(dim: int):
    inputs = drawn(35, dim=dim, heads=2, kv_heads=1)
    assert max(errors("sink=2,summary=mean", inputs)) < 4e-6


def test_equal_maxima_go_to_the_first():
    coarse = Inputs(*((x.detach() * 2).round().div(2).requires_grad_() for x in drawn(50)))
    assert max(errors("causal=false", coarse)) < 4e-6


def test_half_precision():
    inputs = drawn(50, dtype=torch.float16)
    form = spelled("summary=variational,sink=2")
    exact = dense_output(form, exactly(inputs))
    plain = worst(dense_output(form, inputs), exact)
    rounding = torch.finfo(torch.float16).eps * float(exact.detach().abs().max())
    found = errors("summary=variational,sink=2", inputs)
    assert found[0] <= 2 * plain + 8 * rounding
    assert max(found[1:]) < 4e-3


@pytest.fixture
def forgetting() -> Iterator[None]:
    """Launches are made anew, for other tiles, and are not kept."""
    tile_choice.forget()
    yield
    tile_choice.forget()


@pytest.mark.usefixtures("forgetting")
@pytest.mark.parametrize("rows", [32, 64])
@pytest.mark.parametrize(
    "parameters", ["summary=max", "block=4,summary=mean+size", "block=16,summary=variational"]
)
def test_tiles_as_large_as_on_a_gpu(parameters: str, rows: int, monkeypatch: pytest.MonkeyPatch):
    cut = dataclasses.replace(logsparse_tiles._INTERPRETED, rows=rows, chunk=64)
    monkeypatch.setattr(logsparse_call, "tiles", lambda *_: cut)
    inputs = drawn(150, dtype=torch.float16)
    assert forward_error(parameters, inputs) < 4e-3


def test_the_operator_compiles_and_passes_the_checks_of_pytorch():
    inputs, form = drawn(20), spelled("summary=mean")

    def twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return 2 * form.attend(q, k, v, backend="triton")

    found = torch.compile(twice, backend="aot_eager", fullgraph=True)(*inputs)
    wanted = twice(*inputs)
    assert worst(found, wanted) == 0
    pairs = zip(gradients(found, inputs), gradients(wanted, inputs), strict=True)
    assert max(worst(x, y) for x, y in pairs) == 0
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.attnbench.combiner_logsparse.default,
        (*inputs, 1, 0, 0, "mean", True, 0.25),
        test_utils=checks,
    )


def test_shapes_of_a_gpu_are_known_without_one(monkeypatch: pytest.MonkeyPatch):
    from patterns.kernels import combiner_operators
    from patterns.kernels.combiner_form import Form

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launching._capability.cache_clear()
    form = Form(block=1, near=0, sink=0, kind="max", causal=True, scale=0.125)
    with FakeTensorMode():
        q = torch.empty(2, 4, 1000, 64, dtype=torch.bfloat16, device="cuda")
        found = combiner_operators.attend_logsparse(q, q, q, form)
    launching._capability.cache_clear()
    assert (found.shape, found.device.type) == (q.shape, "cuda")


def test_leaves_that_no_tile_can_hold_are_refused():
    q, k, v = drawn(20)
    with pytest.raises(Unsupported, match="a power of two tokens, not block=3"):
        spelled("block=3").attend(q, k, v, backend="triton")
    assert spelled("block=3").implementation(q, k, v).backend == "sdpa"


@pytest.mark.parametrize("right", [True, False])
def test_an_assembler_that_gets_the_kernels_wrong_is_refused(
    right: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(assembler, "sound", lambda _: right)
    monkeypatch.setattr(assembler, "version", lambda _: "12.8")
    form: Pattern = pattern("combiner-logsparse")
    q = SimpleNamespace(
        is_cuda=True, device=torch.device("cuda", 0), dtype=torch.bfloat16, shape=(1, 1, 64, 16)
    )
    why = form._refusal("triton", q)
    assert (why is None) == right
    assert right or "ptxas of CUDA 12.8" in why


def counted(parameters: str, length: int) -> int:
    """Products of the forward pass of one head."""
    with torch.no_grad(), counting() as tally:
        spelled(parameters).attend(*drawn(length), backend="triton")
    assert tally.pairs is not None
    return tally.pairs


def test_the_products_of_a_small_call_are_those_of_its_tiles():
    own, inside, longer = 4 * 16 * 16, 4 * (16 * 8 + 8 * 16), 64 * 2 + 64 * 2
    assert counted("summary=mean", 64) == own + inside + longer  # read by queries, and built
    # 40 tokens are tiles of 16, 16 and 8; one leaf of all has no regions.
    assert counted("block=600", 40) == 16 * 16 + 16 * 32 + 8 * 40
    # Runs begin 12 tokens before their tiles, which have 12, 16 and 12 tokens: two are whole.
    tiles = 12 * (12 + 16) + 16 * (16 + 12 + 16) + 12 * (12 + 16 + 16)  # own, the one before, sinks
    inside, longer = (16 + 12) * 8 + 2 * 16 * 8, (16 + 12) * 1 + 32 * 1
    assert counted("block=4,near=3,sink=2", 40) == tiles + inside + longer


@pytest.mark.parametrize("parameters", sorted({*FORWARD, *BOTH}))
def test_no_fewer_products_are_counted_than_the_definition_needs(parameters: str):
    shape = Shape(batch=1, heads=1, kv_heads=1, length=75, dim=16, element_bytes=4)
    assert counted(parameters, 75) >= spelled(parameters).cost(shape).scored_pairs
