"""What compilers take is not taken from the samples of a group."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from torch import Tensor

from attnbench import ceilings, engine, matrix
from attnbench.budget import GroupBudget
from attnbench.matrix import Matrix, groups_of
from attnbench.measure_cost import Protocol, _timed_twice
from attnbench.outcome import Ended
from attnbench.presets import Plan
from attnbench.purse import weight
from attnbench.records import read
from attnbench.timing import Call
from attnbench.watch import CpuWatch
from patterns import PATTERNS, registry
from patterns.full import Full


class Steady(CpuWatch):
    """Calls, and says that it took a millisecond, so that no busy machine decides."""

    def cold(self, name: str, call: Call) -> float:
        call(0)
        return 1.0


class Clock:
    """A clock for all, so that no busy machine decides; each look at it takes `tick_s`."""

    def __init__(self, tick_s: float) -> None:
        self.now, self.tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock(0.0)
    monkeypatch.setattr(time, "perf_counter", found)
    return found


def test_a_slow_first_call_is_on_an_account_of_its_own(clock: Clock):
    group = GroupBudget(10.0)
    clock.now = 30.0  # 28 s of compiling among it
    group.excuse(28.0, 0.5)
    assert group.first_calls_s == pytest.approx(27.5)
    assert group.left_s() == pytest.approx(7.5)
    group.expect(0.01)
    group.reserve(0.01)


def test_a_first_call_that_is_not_slower_excuses_nothing(clock: Clock):
    group = GroupBudget(10.0)
    clock.now = 9.9
    group.excuse(1.0, 2.0)
    assert group.left_s() == pytest.approx(0.1)
    with pytest.raises(Ended, match="too short for it: --retry"):
        group.expect(0.01)


def test_what_fails_after_it_was_compiled_is_excused_too(clock: Clock):
    group = GroupBudget(10.0)

    def fail() -> None:
        with group.excusing_failures():
            clock.now = 25.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert group.left_s() == pytest.approx(10.0)
    with group.excusing_failures():
        clock.now = 27.0
    assert group.left_s() == pytest.approx(8.0)


def test_a_call_that_takes_long_is_made_fewer_times(clock: Clock):
    group = GroupBudget(30.0)
    group.reserve(1.1)  # 17 calls
    assert group.left_s() == pytest.approx(30.0)
    with pytest.raises(Ended, match=r"17 calls of .* do not fit"):
        group.expect(1.3)


def test_there_is_an_end_to_what_is_excused(clock: Clock):
    group = GroupBudget(10.0)
    clock.now = 1000.0
    group.excuse(1000.0, 0.0)
    assert group.left_s() == pytest.approx(10.0 + 120.0 - 1000.0)


@pytest.mark.usefixtures("clock")
def test_what_is_reserved_is_not_given_twice():
    group = GroupBudget(4.0)
    for _ in range(3):
        group.reserve(0.04)  # 25 calls, and 0.2 s
    with pytest.raises(Ended, match="too short for it: --retry"):
        group.expect(0.04)
    with pytest.raises(Ended, match="do not fit"):
        group.reserve(1.0)


def sized(name: str, call_s: float, dense: bool) -> Any:
    """A contender that was sized, as far as it matters here."""
    return SimpleNamespace(chosen=SimpleNamespace(name=name, dense=dense), call_s=call_s)


@pytest.mark.parametrize(("dense_s", "twin"), [(0.02, "full"), (0.3, "local")])
def test_a_dense_row_is_timed_twice_unless_it_is_slow(dense_s: float, twin: str):
    ready = [
        sized("local", 0.01, False),
        sized("fixed", 0.012, False),
        sized("full", dense_s, True),
    ]
    assert _timed_twice(ready).chosen.name == twin


def test_dense_attention_has_a_share_that_grows_with_the_square_of_the_length():
    def seconds(pattern: str, length: int) -> float:
        part = Matrix(
            patterns=(pattern,), lengths=(length,), passes=("fwdbwd",), heads=16, kv_heads=16,
            dtype="bfloat16", device="cuda", baselines=False,
        )  # fmt: skip
        (group,) = groups_of([part])
        return weight(group.cases)

    assert seconds("full", 262144) > 17 * 1.1 + seconds("local[window=64]", 262144)
    assert seconds("full", 4096) == pytest.approx(seconds("local[window=64]", 4096), rel=0.01)


@dataclass(frozen=True, kw_only=True)
class Compiled(Full):
    """Full attention whose first call at a length takes 100 seconds."""

    name: ClassVar = "compiled"
    backends: ClassVar = ("eager",)
    clock: ClassVar[Clock]
    called: ClassVar[set[int]]

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if q.shape[2] not in self.called:
            self.clock.now += 100.0
            self.called.add(q.shape[2])
        return super()._run(q, k, v, scale, backend)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Callable[..., list[dict[str, Any]]]:
    both = MappingProxyType(dict(PATTERNS) | {"compiled": Compiled})
    monkeypatch.setattr(registry, "PATTERNS", both)
    monkeypatch.setattr(matrix, "PATTERNS", both)
    monkeypatch.setattr(Compiled, "clock", clock, raising=False)
    monkeypatch.setattr(Compiled, "called", set(), raising=False)
    monkeypatch.setattr(ceilings, "measured", lambda *_: None)
    clock.tick_s = 5e-3

    def measured(budget_s: float, *lengths: int) -> list[dict[str, Any]]:
        part = Matrix(
            patterns=("compiled", "uniform"), lengths=lengths, heads=1, kv_heads=1, dim=4,
            dtype="float32", device="cpu", baselines=False,
        )  # fmt: skip
        plan = Plan(preset="test", parts=(part,), budget_s=budget_s)
        engine.run(plan, tmp_path, protocol=Protocol(make_watch=lambda *_, **__: Steady()))
        return read(tmp_path)

    return measured


def test_those_beside_a_slow_first_call_get_their_samples(run: Callable[..., Any]):
    slow, other = run(90.0, 16)
    assert [slow["status"], other["status"]] == ["ok", "ok"]
    assert slow["time"]["first_call_ms"] > 100_000
    assert other["time"]["cold_ms"]["n"] >= 10


def test_those_beside_one_that_fails_after_compiling_get_their_samples(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    def broken(self: Compiled, q: Tensor, *_: object) -> Tensor:
        self.clock.now += 100.0
        raise RuntimeError("the compiled code is not to be launched")

    monkeypatch.setattr(Compiled, "_run", broken)
    slow, other = run(90.0, 16)
    assert [slow["status"], other["status"]] == ["crashed", "ok"]
    assert other["time"]["cold_ms"]["n"] >= 10


def test_the_run_as_a_whole_keeps_to_its_budget(run: Callable[..., Any]):
    found = run(90.0, 16, 24)
    by_length = {length: {x["status"] for x in found if x["case"]["length"] == length}
                 for length in (16, 24)}  # fmt: skip
    assert by_length == {16: {"ok"}, 24: {"skipped"}}


def test_what_follows_a_slow_first_call_has_what_is_left(run: Callable[..., Any]):
    assert [one["status"] for one in run(300.0, 16, 24)] == ["ok"] * 4
