"""The correctness check: it lets the right pass, and finds what is wrong in each way."""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from attnbench import definition
from attnbench.check import Checker, Verdict
from attnbench.rows import check_rows
from patterns import Pattern, pattern
from patterns.full import Full
from patterns.sparse.local import Local


def draw(length: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, length, 16), (2, 2, length, 16), (2, 2, length, 16))
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return q, k, v


def examine(
    one: Pattern,
    length: int = 200,
    dtype: torch.dtype = torch.float32,
    gradients: bool = True,
    checker: Checker | None = None,
    backend: str = "auto",
) -> Verdict:
    return (checker or Checker()).check(
        one.resolve(length), backend, draw(length, dtype), scale=None, seed=0, gradients=gradients
    )


class Broken(Full):
    """Full attention whose fast form is spoilt by `spoil`."""

    backends: ClassVar = ("eager",)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return self.spoil(super()._run(q, k, v, scale, "eager"), q)

    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OneRowOff(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return torch.cat([out[:, :, :-1], 1.01 * out[:, :, -1:]], dim=2)


@dataclass(frozen=True, kw_only=True)
class OneHeadOff(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return torch.cat([out[:, :-1], out[:, -1:] + 0.01], dim=1)


@dataclass(frozen=True, kw_only=True)
class OneNan(Broken):
    """Somewhere that no row of the check is: every row has to be finite."""

    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        length = out.shape[2]
        unseen = sorted(set(range(length)) - set(check_rows(self, length).tolist()))[0]
        out = out.clone()
        out[0, 0, unseen, 0] = torch.nan
        return out


@dataclass(frozen=True, kw_only=True)
class OtherShape(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return out[:, :, :-1]


@dataclass(frozen=True, kw_only=True)
class OtherDtype(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return out.double()


@dataclass(frozen=True, kw_only=True)
class OtherDevice(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return out.to("meta")


@dataclass(frozen=True, kw_only=True)
class OverwritesItsInput(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        q.data[0, 0, 0, 0] += 1  # as a kernel would, which autograd does not see
        return out


@dataclass(frozen=True, kw_only=True)
class SeesAhead(Broken):
    """So does its definition: they agree."""

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        last = torch.full_like(rows, q.shape[2] - 1)
        ahead = torch.nn.functional.one_hot(last, q.shape[2]).to(q.dtype)
        return super()._weights(q, k, rows, scale) / 2 + ahead / 2

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        last = v[:, :, -1:].repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        return super()._run(q, k, v, scale, backend) / 2 + last / 2

    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return out


class _SumOfGradients(torch.autograd.Function):
    """Right the first time."""

    total: ClassVar[list[Tensor]] = []

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        _SumOfGradients.total.append(grad)
        return sum(_SumOfGradients.total)


@dataclass(frozen=True, kw_only=True)
class SumsGradients(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return _SumOfGradients.apply(out)


class _KeepsGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, leaf):
        ctx.leaf = leaf
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.leaf.grad = torch.ones_like(ctx.leaf)
        return grad, None


@dataclass(frozen=True, kw_only=True)
class LeavesGradients(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return _KeepsGradient.apply(out, q)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


@dataclass(frozen=True, kw_only=True)
class WrongGradient(Broken):
    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return _HalfGradient.apply(out)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", ["full", "local[window=7]", "combiner-fixed[block=16]"])
def test_what_is_right_passes(spec: str, dtype: torch.dtype):
    verdict = examine(pattern(spec), dtype=dtype)
    assert verdict.reason is None
    assert verdict.seen["ok"]
    assert verdict.seen.keys() == {"ok", "rows", "output", "future", "dq", "dk", "dv"}


@pytest.mark.parametrize(
    ("broken", "guard", "said"),
    [
        (OneRowOff(), "definition", "the output is .* from the definition"),
        (OneHeadOff(), "definition", "the output is .* from the definition"),
        (OneNan(), "finite", "the output holds NaN or Inf in 1 of"),
        (OtherShape(), "shape", r"has shape \[2, 4, 199, 16\], expected \[2, 4, 200, 16\]"),
        (OtherDtype(), "dtype", "the output has dtype torch.float64, expected torch.float32"),
        (OtherDevice(), "device", "the output has device meta, expected cpu"),
        (OverwritesItsInput(), "inputs", "changed its input q"),
        (WrongGradient(), "definition", "the dq is .* from the definition"),
        (SeesAhead(), "causality", "another future changes the output up to token 100"),
        (SumsGradients(), "accumulation", "a second backward pass gives a dq that differs"),
        (LeavesGradients(), "accumulation", r"left gradients in \.grad of q"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Pattern) else "",
)
def test_what_is_wrong_is_found(broken: Pattern, guard: str, said: str):
    _SumOfGradients.total.clear()
    verdict = examine(broken)
    assert verdict.wrong is not None
    assert verdict.wrong.guard == guard
    assert re.search(said, verdict.reason)
    assert not verdict.seen["ok"]


def test_gradients_are_looked_at_only_where_they_are_timed():
    assert examine(WrongGradient(), gradients=False).reason is None


def test_the_bound_follows_the_dtype():
    fine, coarse = (examine(pattern("full"), dtype=d) for d in (torch.float32, torch.bfloat16))
    assert coarse.seen["output"]["bound"] > 1000 * fine.seen["output"]["bound"]


@pytest.mark.parametrize("length", [1, 2, 63, 64])
def test_all_rows_are_checked_where_there_are_few(length: int):
    assert check_rows(Full(), length).tolist() == list(range(length))


def test_the_first_the_last_and_the_edges_of_blocks_are_checked():
    rows = check_rows(pattern("combiner-fixed[block=100]"), 5000).tolist()
    assert len(rows) == 64
    assert {0, 99, 100, 101, 4899, 4900, 4999} <= set(rows)
    assert rows == sorted(set(rows))


def test_gradients_summed_in_slices_are_the_same(monkeypatch: pytest.MonkeyPatch):
    whole = examine(pattern("combiner-fixed[block=16]"), dtype=torch.float64)
    monkeypatch.setattr(definition, "_GRAPH_ELEMENTS", 1)
    monkeypatch.setattr(definition, "_WEIGHT_BYTES", 1)
    sliced = examine(pattern("combiner-fixed[block=16]"), dtype=torch.float64)
    assert sliced.reason is None
    for name in ("output", "dq", "dk", "dv"):
        assert sliced.seen[name]["bound"] == pytest.approx(whole.seen[name]["bound"], rel=1e-6)


def test_smaller_pieces_allow_no_more_rounding(monkeypatch: pytest.MonkeyPatch):
    form, inputs = pattern("local[window=20]"), draw(100, torch.bfloat16)
    monkeypatch.setattr(definition, "_GRAPH_ELEMENTS", 3 * inputs[0].numel())
    monkeypatch.setattr(definition, "_PIECE_ELEMENTS", inputs[0].numel() // 2)
    steps, real = [], definition._gradients

    def noted(pattern: Pattern, pieces: definition.Inputs, *more: Any) -> list[Tensor]:
        steps.append((pieces[0].dtype, more[-1]))
        return real(pattern, pieces, *more)

    monkeypatch.setattr(definition, "_gradients", noted)
    rows = check_rows(form, 100)
    d_rows = torch.ones(2, 4, len(rows), 16, dtype=torch.bfloat16)
    definition.expected_gradients(form, inputs, rows, d_rows, None)
    assert steps == 2 * [(torch.float64, 6), (torch.bfloat16, 3)]


def test_backends_and_passes_of_a_pattern_share_its_reference(monkeypatch: pytest.MonkeyPatch):
    asked = []
    defined = Local._weights

    def counted(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        asked.append(len(rows))
        return defined(self, q, k, rows, scale)

    monkeypatch.setattr(Local, "_weights", counted)
    checker, local = Checker(), Local(window=7)
    for gradients in (False, True):
        for backend in ("sdpa", "eager"):
            assert examine(local, gradients=gradients, checker=checker, backend=backend).seen["ok"]
    assert len(asked) == 4  # output and gradients, each in float64 and in the dtype of the run
    examine(replace(local, window=8), checker=checker)
    assert len(asked) == 8


@dataclass(frozen=True, kw_only=True)
class LateRowsZero(Broken):
    """Late rows attend to many keys, so that they are small beside the first ones."""

    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        early = torch.arange(out.shape[2])[:, None] < out.shape[2] * 3 // 4
        return torch.where(early, out, 0)


@dataclass(frozen=True, kw_only=True)
class LateGradientsFlipped(Broken):
    """The right output, whose gradient has the wrong sign for late values."""

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        late = torch.arange(v.shape[2])[:, None] >= v.shape[2] * 3 // 4
        flipped = torch.where(late, 2 * v.detach() - v, v)
        return super()._run(q, k, flipped, scale, "eager")

    def spoil(self, out: Tensor, q: Tensor) -> Tensor:
        return out


@pytest.mark.parametrize("form", [LateRowsZero(), LateGradientsFlipped()], ids=["rows", "gradient"])
def test_small_late_rows_are_held_to_their_own_size(form: Broken):
    verdict = examine(form, 2048, torch.bfloat16)
    assert "of its own size" in str(verdict.reason)
    assert examine(Full(), 2048, torch.bfloat16, backend="eager").reason is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_definition_takes_a_few_heads_at_a_time_without_a_difference(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    form, inputs = pattern("combiner-fixed[block=16]"), draw(100, dtype)
    rows = check_rows(form, 100)
    d_rows = torch.randn(2, 4, len(rows), 16, generator=torch.Generator().manual_seed(1)).to(dtype)

    def expected() -> list[definition.Expected]:
        output = definition.expected_output(form, inputs, rows, None)
        return [output, *definition.expected_gradients(form, inputs, rows, d_rows, None)]

    whole = expected()
    monkeypatch.setattr(definition, "_PIECE_ELEMENTS", inputs[0].numel() // 2)
    assert len(definition._pieces(inputs)) == 2
    for one, other in zip(whole, expected(), strict=True):
        torch.testing.assert_close(other.value, one.value)
        torch.testing.assert_close(other.sizes, one.sizes)
        assert other.largest == pytest.approx(one.largest)
        assert other.plain_error == pytest.approx(one.plain_error, rel=0.5)
        assert other.plain_share == pytest.approx(one.plain_share, rel=0.1)
