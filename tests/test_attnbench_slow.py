"""What takes long takes little of its group: it comes late, and is left where there is no time."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from attnbench import call_times, matrix, measure_cost
from attnbench.call_times import CallTimes
from attnbench.case import CostCase
from attnbench.contender import CostInputs
from attnbench.matrix import Matrix, groups_of
from attnbench.measure_cost import CostMeasurer, Protocol
from attnbench.outcome import Origin
from attnbench.timing import Call
from attnbench.watch import CpuWatch
from patterns import PATTERNS, registry
from patterns.base import Implementation
from patterns.full import Full

BUDGET_S = 30.0
EAGER = Implementation(backend="eager", kind="native")


class Steady(CpuWatch):
    """Calls, and says that it took a millisecond."""

    def cold(self, name: str, call: Call) -> float:
        call(0)
        return 1.0


class Clock:
    """A clock for all, so that no busy machine decides; each look at it takes 5 ms."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 5e-3
        return self.now


@dataclass(frozen=True, kw_only=True)
class Slow(Full):
    """Full attention of which each call takes as long as `call_s` says, by its length."""

    name: ClassVar = "slow"
    backends: ClassVar = ("eager",)
    clock: ClassVar[Clock]
    call_s: ClassVar[Callable[[int], float]]
    calls: ClassVar[list[int]]

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        self.clock.now += type(self).call_s(q.shape[2])
        self.calls.append(q.shape[2])
        return self.spoil(super()._run(q, k, v, scale, backend), v)

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        return out


@dataclass(frozen=True, kw_only=True)
class SlowAndWrong(Slow):
    """Nor is it what its definition says."""

    name: ClassVar = "slow-wrong"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        return out + 1


@dataclass(frozen=True, kw_only=True)
class SlowAndWrites(Slow):
    """From one of its calls on it writes to its inputs."""

    name: ClassVar = "slow-writes"
    writes_from: ClassVar[int]

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        if len(self.calls) >= self.writes_from:
            v.detach().zero_()
        return out


SLOW = (Slow, SlowAndWrong, SlowAndWrites)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", found)
    both = MappingProxyType(dict(PATTERNS) | {one.name: one for one in SLOW})
    for module in (registry, matrix, call_times):
        monkeypatch.setattr(module, "PATTERNS", both)
    monkeypatch.setattr(Slow, "clock", found, raising=False)
    monkeypatch.setattr(Slow, "calls", [], raising=False)
    return found


@pytest.fixture
def measured(clock: Clock) -> Callable[..., dict[str, dict[str, Any]]]:
    measurer = CostMeasurer(
        Origin(version="v", machine="m"), Protocol(make_watch=lambda *_, **__: Steady())
    )

    def of(*patterns: str, length: int = 16, pass_: str = "fwd", **others: Any) -> Any:
        """The records of a group by what was asked; the same measurer does all."""
        part = Matrix(
            patterns=patterns, lengths=(length,), passes=(pass_,), heads=1, kv_heads=1, dim=4,
            dtype="float32", device="cpu", **{"baselines": False, **others},
        )  # fmt: skip
        (group,) = groups_of([part])
        cases = [case for case in group.cases if isinstance(case, CostCase)]
        records = measurer.measure(group, cases, BUDGET_S)
        return {f"{x['case']['asked']}@{x['case']['backend']}": x for x in records}

    return of


def takes(monkeypatch: pytest.MonkeyPatch, call_s: Callable[[int], float]) -> None:
    monkeypatch.setattr(Slow, "call_s", staticmethod(call_s), raising=False)


def takes_in_turn(monkeypatch: pytest.MonkeyPatch, *calls_s: float) -> None:
    """The first calls take so long, and all others as long as the last of them."""
    takes(monkeypatch, lambda _: calls_s[min(len(Slow.calls), len(calls_s) - 1)])


@pytest.mark.parametrize("pass_", ["fwd", "fwdbwd"])
def test_what_is_too_slow_for_its_group_is_called_twice_and_left(
    measured: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch, pass_: str
):
    takes(monkeypatch, lambda _: BUDGET_S / 3)
    found = measured("slow", "uniform", pass_=pass_)
    assert clock.now < BUDGET_S
    assert Slow.calls == [16, 16]
    assert found["slow@auto"]["status"] == "skipped"
    assert "17 calls of 10 s do not fit into the group's 30 s" in found["slow@auto"]["reason"]
    assert found["uniform@auto"]["status"] == "ok"


def test_a_group_of_slow_ones_ends_within_twice_its_budget(
    measured: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    takes(monkeypatch, lambda _: BUDGET_S / 3)
    found = measured("slow", "slow[causal=true]", "slow-wrong")
    assert clock.now < 2 * BUDGET_S
    assert {x["status"] for x in found.values()} == {"skipped"}


def test_one_that_fits_just_so_is_timed_once_within_twice_the_budget(
    measured: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    takes(monkeypatch, lambda _: 1.2)  # 17 of them take 0.68 of the budget
    found = measured("slow")
    assert found["slow@auto"]["status"] == "ok"
    assert found["slow@auto"]["time"]["same_twice"] is None
    assert clock.now < 2 * BUDGET_S


def test_what_is_wrong_is_no_compilers_expense(
    measured: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    accounts: list[measure_cost.GroupBudget] = []

    class Kept(measure_cost.GroupBudget):
        def __init__(self, budget_s: float) -> None:
            super().__init__(budget_s)
            accounts.append(self)

    monkeypatch.setattr(measure_cost, "GroupBudget", Kept)
    takes(monkeypatch, lambda _: 1.0)
    assert measured("slow-wrong")["slow-wrong@auto"]["status"] == "wrong"
    assert accounts[0].first_calls_s < 0.1


def test_what_is_quadratic_comes_after_the_others_and_the_textbook_last(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []
    begin = measure_cost.begin

    def noted(case: CostCase, *rest: Any) -> Any:
        order.append(f"{case.asked}@{case.backend}")
        return begin(case, *rest)

    monkeypatch.setattr(measure_cost, "begin", noted)
    takes(monkeypatch, lambda _: 0.01)
    measured("slow", "strided", "uniform", baselines=True)
    first, rest = order[: order.index("strided@auto")], order[order.index("strided@auto") :]
    assert {one.partition("@")[0] for one in first} == {"full"}
    assert rest[1] == "uniform@auto"
    assert rest[-2:] == ["slow@auto", "full@eager"]
    assert len(rest) > 4  # windows to compare with, which are fast, are not kept waiting either


def test_what_a_shorter_length_tells_is_not_tried(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    takes(monkeypatch, lambda length: 0.4 * (length / 16) ** 2)
    assert measured("slow", length=16)["slow@auto"]["status"] == "ok"
    Slow.calls.clear()
    found = measured("slow", "uniform", length=64)
    assert Slow.calls == []
    reason = found["slow@auto"]["reason"]
    assert re.match(r"17 calls of at least 6\.[45] s do not fit into the group's 30 s", reason)
    assert found["uniform@auto"]["status"] == "ok"


def test_calls_that_were_not_seen_early_tell_as_well(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    takes(monkeypatch, lambda length: 0.15 * (length / 16) ** 2)
    assert measured("slow", length=16)["slow@auto"]["status"] == "ok"
    Slow.calls.clear()
    assert "calls of at least 2." in measured("slow", length=64)["slow@auto"]["reason"]
    assert Slow.calls == []


def test_what_was_skipped_tells_too(measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    takes(monkeypatch, lambda _: 10.0)
    measured("slow", pass_="fwd")
    Slow.calls.clear()
    assert "at least 10 s" in measured("slow", pass_="fwdbwd")["slow@auto"]["reason"]
    assert Slow.calls == []


def of(pattern: str = "local", length: int = 1024, pass_: str = "fwd", **others: Any) -> CostCase:
    shape = {"heads": 1, "kv_heads": 1, "dim": 4, "dtype": "float64", **others}
    part = Matrix(
        patterns=(pattern,), lengths=(length,), passes=(pass_,), device="cpu", baselines=False,
        **shape,
    )  # fmt: skip
    (group,) = groups_of([part])
    (case,) = group.cases
    assert isinstance(case, CostCase)
    return case


@pytest.mark.parametrize(("pattern", "times"), [("local", 4), ("oracle-topk", 16)])
def test_a_longer_one_takes_more_by_its_length_or_the_square(pattern: str, times: float):
    known = CallTimes()
    known.add(of(pattern), EAGER, 0.5)
    assert known.least_s(of(pattern, 4096), EAGER) == pytest.approx(0.5 * times)
    assert known.least_s(of(pattern), EAGER) == 0.5
    assert known.least_s(of(pattern, 512), EAGER) == 0.0


def test_calls_that_may_be_launches_tell_nothing_of_longer_ones():
    known = CallTimes()
    known.add(of("oracle-topk", 512), EAGER, 0.09)
    assert known.least_s(of("oracle-topk", 4096), EAGER) == 0.0
    known.add(of("oracle-topk", 1024), EAGER, 0.18)  # as much as the calls in it, not the pairs
    assert known.least_s(of("oracle-topk", 4096), EAGER) == pytest.approx(0.72)
    known.add(of("oracle-topk", 2048), EAGER, 0.17)
    assert known.least_s(of("oracle-topk", 4096), EAGER) == pytest.approx(0.17)


def test_the_quickest_of_several_is_what_counts():
    known = CallTimes()
    for call_s in (0.9, 0.5, 0.7):
        known.add(of(), EAGER, call_s)
    assert known.least_s(of(), EAGER) == 0.5


@pytest.mark.parametrize(
    ("known_pass", "told"), [("fwd", {"fwd", "fwdbwd"}), ("bwd", {"bwd", "fwdbwd"}),
                             ("fwdbwd", {"fwdbwd"})]
)  # fmt: skip
def test_a_pass_takes_no_less_than_what_is_part_of_it(known_pass: str, told: set[str]):
    known = CallTimes()
    known.add(of(pass_=known_pass), EAGER, 1.0)
    passes = ("fwd", "bwd", "fwdbwd")
    assert {one for one in passes if known.least_s(of(pass_=one), EAGER) == 1.0} == told
    assert {known.least_s(of(pass_=one), EAGER) for one in passes} <= {0.0, 1.0}


def test_what_is_not_the_same_tells_nothing():
    known = CallTimes()
    known.add(of(), EAGER, 1.0)
    others = [of("local[window=7]"), of("uniform"), of(causal=False), of(dtype="float32"),
              of(heads=2, kv_heads=2), of(dim=8), of(batch=2)]  # fmt: skip
    assert [known.least_s(one, EAGER) for one in others] == [0.0] * len(others)
    assert known.least_s(of(), replace(EAGER, backend="flex")) == 0.0
    assert known.least_s(of(), replace(EAGER, kind="simulated")) == 0.0


@pytest.mark.parametrize("writes_from", [1, 2, 3])
def test_one_that_writes_to_its_inputs_leaves_them_as_they_were(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, writes_from: int
):
    kept: list[tuple[CostInputs, list[Tensor]]] = []
    load = measure_cost.load_inputs

    def loaded(*given: Any) -> CostInputs:
        inputs = load(*given)
        kept.append((inputs, [x.clone() for x in inputs.copies[0]]))
        return inputs

    monkeypatch.setattr(measure_cost, "load_inputs", loaded)
    monkeypatch.setattr(SlowAndWrites, "writes_from", writes_from, raising=False)
    takes_in_turn(monkeypatch, 5.0, 3.0, 0.03)  # so that it is called three times if it is well
    found = measured("slow-writes")["slow-writes@auto"]
    assert (found["status"], found["reason"]) == ("wrong", "the call changed its input v")
    assert len(Slow.calls) == writes_from
    ((inputs, before),) = kept
    assert all(map(torch.equal, inputs.copies[0], before))


def test_those_after_one_that_compiled_and_wrote_have_their_time(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SlowAndWrites, "writes_from", 1, raising=False)
    takes_in_turn(monkeypatch, 100.0, 0.03)
    found = measured("slow-writes", "slow")
    assert {name: x["status"] for name, x in found.items()} == {
        "slow-writes@auto": "wrong",
        "slow@auto": "ok",
    }


@pytest.mark.parametrize("first_s", [1.0, 5.0])
def test_one_call_that_was_disturbed_decides_nothing(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, first_s: float
):
    takes_in_turn(monkeypatch, first_s, 3.0, 0.03)
    assert measured("slow")["slow@auto"]["status"] == "ok"


def test_the_quicker_of_two_calls_is_what_a_skip_names(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    takes_in_turn(monkeypatch, 5.0, 3.0, 2.0)
    assert measured("slow")["slow@auto"]["reason"].startswith("17 calls of 2 s do not fit")
    assert len(Slow.calls) == 3
    assert "calls of at least 2 s" in measured("slow", pass_="fwdbwd")["slow@auto"]["reason"]
    assert len(Slow.calls) == 3


def test_what_one_call_said_that_was_not_confirmed_is_not_passed_on(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    takes_in_turn(monkeypatch, 20.0, 12.0, 0.03)
    found = measured("slow")["slow@auto"]
    assert found["status"] == "skipped"
    assert found["reason"].startswith("what is left of the group's 30 s is too short for it")
    assert len(Slow.calls) == 2
    assert measured("slow", length=64)["slow@auto"]["status"] == "ok"


def test_nobody_else_is_blamed_for_time_that_its_own_calls_took(
    measured: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    takes_in_turn(monkeypatch, 1.2, 12.0, 1.2)  # 17 calls would take 20.4 s of 30, and 17 are left
    found = measured("slow")["slow@auto"]
    assert found["status"] == "skipped"
    assert found["reason"].startswith("what is left of the group's 30 s is too short for it")
