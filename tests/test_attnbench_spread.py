"""Groups go to places: each to one, all of them, at the same time, within the time there is."""

import heapq
import random
import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from attnbench import turns
from attnbench.case import CostCase, Group
from attnbench.matrix import groups_of
from attnbench.outcome import DeviceLost
from attnbench.places import Place, places
from attnbench.presets import preset
from attnbench.purse import weight
from attnbench.spread import Began, Hooks, in_turn, spread
from attnbench.turns import PlaceLost
from patterns.errors import BadInput


def group(length: int, count: int = 2) -> tuple[Group, tuple[CostCase, ...]]:
    cases = tuple(
        CostCase(
            asked=f"p{number}", pattern="full", backend="auto", causal=True, length=length,
            heads=1, kv_heads=1, dim=8, dtype="float32", device="cpu", seed=0, pass_="fwd", batch=1,
        )
        for number in range(count)
    )  # fmt: skip
    return Group(id=f"g{length}", cases=cases), cases


class Fake:
    """A place that notes what it was given; `meet` makes all places wait for each other."""

    def __init__(self, meet: threading.Barrier | None = None, error: Exception | None = None):
        self.given, self.shares, self._meet, self._error = [], [], meet, error

    def __call__(
        self, group: Group, todo: Sequence[Any], budget_s: float
    ) -> Iterator[dict[str, Any]]:
        self.given.append(group.id)
        self.shares.append(budget_s)
        if self._error is not None:
            raise self._error
        time.sleep(0.005)
        if self._meet is not None:
            self._meet.wait(timeout=20)
        yield from ({"group": group.id, "case": one.asked} for one in todo)


HOOKS = Hooks(
    before=lambda group, cases: ((group, cases), []),
    skipped=lambda group, cases: iter([{"skipped": group.id}] * len(cases)),
    after=lambda group: None,
)
GO = SimpleNamespace(asked=False)


def records(found: Iterator[Any]) -> list[dict[str, Any]]:
    return [one for one in found if not isinstance(one, Began)]


def test_two_places_work_at_the_same_time_and_a_group_stays_in_one():
    meet = threading.Barrier(2)  # which one place alone would wait at for ever
    pair = [Fake(meet), Fake(meet)]
    groups = [group(length) for length in (16, 32, 64, 128)]
    found = records(spread(groups, pair, 60.0, GO, HOOKS))
    assert sorted(pair[0].given + pair[1].given) == ["g128", "g16", "g32", "g64"]
    assert len(pair[0].given) == len(pair[1].given) == 2
    assert len(found) == 8
    assert len({(one["group"], one["case"]) for one in found}) == 8


def test_the_budget_is_what_one_place_would_take():
    """So that several places are done so much sooner: none gets more time for a group."""
    meet = threading.Barrier(4)
    made = [Fake(meet) for _ in range(4)]
    records(spread([group(16) for _ in range(4)], made, 100.0, GO, HOOKS))
    shares = [share for one in made for share in one.shares]
    assert shares == pytest.approx([25.0] * 4, rel=0.05)


def test_what_a_group_leaves_of_its_time_goes_to_the_others():
    made = Fake()
    records(spread([group(16) for _ in range(4)], [made], 120.0, GO, HOOKS))
    assert made.shares == pytest.approx([30, 40, 60, 120], rel=0.05)


def test_near_the_end_no_place_gets_more_than_the_others_have():
    """Else the last group would take all that is left, while the other place waits for it."""
    meet = threading.Barrier(2)
    pair = [Fake(meet) for _ in range(2)]
    records(spread([group(16) for _ in range(8)], pair, 160.0, GO, HOOKS))
    shares = sorted(share for one in pair for share in one.shares)
    assert shares[:2] == pytest.approx([20, 20], rel=0.05)
    assert max(shares) <= 80


def test_several_places_begin_with_what_takes_longest_and_one_with_the_shortest():
    groups = [group(length) for length in (16, 256, 32, 4096)]
    one = Fake()
    records(spread(groups, [one], 60.0, GO, HOOKS))
    assert one.given == ["g16", "g256", "g32", "g4096"]
    begun = [one.group.id for one in spread(groups, [Fake(), Fake()], 60.0, GO, HOOKS)
             if isinstance(one, Began)]  # fmt: skip
    assert set(begun[:2]) == {"g4096", "g256"}


class Slow(Fake):
    """A place whose groups take as long as they weigh, in tenths of a second."""

    def __call__(self, group: Group, *given: Any) -> Iterator[dict[str, Any]]:
        began = time.perf_counter()
        time.sleep(weight(group.cases) / 10)
        self.given.append(time.perf_counter() - began)
        yield from ()


def test_two_places_are_done_in_little_more_than_half_the_time():
    # 1.2, 1.2, 1.2, 1.2 and 4.9: the order in which they come would take 7.3 of 9.8.
    groups = [group(400), group(401), group(402), group(403), group(4096)]
    pair = [Slow(), Slow()]
    began = time.perf_counter()
    records(spread(groups, pair, 60.0, GO, HOOKS))
    took = time.perf_counter() - began
    assert took <= 0.6 * sum(pair[0].given + pair[1].given)


@pytest.mark.parametrize("name", ["full", "kernels"])
def test_two_gpus_share_a_preset_evenly(name: str):
    """Also where groups take other times than they weigh, by half as much or by twice."""
    groups = [(one, one.cases) for one in groups_of(preset(name, "cuda").parts)]
    order, noise, shares = in_turn(groups, 2), random.Random(0), []
    for _ in range(200):
        real = [weight(cases) * noise.lognormvariate(0, 0.5) for _, cases in order]
        free_at = [0.0, 0.0]
        for took in real:
            heapq.heappush(free_at, heapq.heappop(free_at) + took)
        shares.append(max(free_at) / sum(real))
    assert sorted(shares)[198] <= 0.55
    assert {one.id for one, _ in order} == {one.id for one, _ in groups}


def test_what_is_left_without_time_is_skipped():
    made = Fake()
    found = records(spread([group(16)], [made], 0.0, GO, HOOKS))
    assert made.given == []
    assert found == [{"skipped": "g16"}] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_begins_after_somebody_asked_to_stop(count: int):
    stop = SimpleNamespace(asked=False)
    made = [Fake() for _ in range(count)]
    seen = []
    for one in spread([group(16 + n) for n in range(50)], made, 60.0, stop, HOOKS):
        stop.asked = True
        seen.append(one)
    assert 1 <= len({one["group"] for one in records(iter(seen))}) < 50


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_place_comes_out(count: int):
    made = [Fake(error=BadInput("the disk is full")) for _ in range(count)]
    with pytest.raises(BadInput, match="the disk is full"):
        records(spread([group(16), group(32)], made, 60.0, GO, HOOKS))


def test_places_on_the_cpu_are_processes_with_one_thread():
    assert places("cpu") == [Place()]
    assert [one.threads for one in places("cpu", workers="2")] == [1, 1]


def test_places_on_gpus_see_one_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-1")
    assert places("cuda") == [Place()]
    seen = [one.environment for one in places("cuda", gpus="all")]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["3", "5", "GPU-1"]
    assert len(places("cuda", gpus="2")) == 2
    with pytest.raises(BadInput, match="--gpus expects a number from 1 to 3, got '4'"):
        places("cuda", gpus="4")


class Failing(Fake):
    """A place that is lost as often as it says, with what it had to do."""

    def __init__(self, times: int, back: bool, meet: threading.Barrier | None = None) -> None:
        super().__init__(meet)
        self.times, self.back = times, back

    def __call__(
        self, group: Group, todo: Sequence[Any], budget_s: float
    ) -> Iterator[dict[str, Any]]:
        if self.times:
            self.times -= 1
            self.given.append(group.id)
            yield {"group": group.id, "case": todo[0].asked}
            raise PlaceLost("gone", (group, todo[1:]), lambda: self.back)
        yield from super().__call__(group, todo, budget_s)


def test_what_a_lost_place_leaves_is_done_by_another_and_only_that(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(turns, "_PATIENCE_S", 0.0)
    lost, well = Failing(1, back=False), Fake()
    found = records(spread([group(16), group(32)], [lost, well], 60.0, GO, HOOKS))
    assert len(lost.given) == 1
    assert lost.given[0] in well.given
    assert sorted((one["group"], one["case"]) for one in found) == [
        ("g16", "p0"), ("g16", "p1"), ("g32", "p0"), ("g32", "p1"),
    ]  # fmt: skip


def test_a_place_that_is_idle_waits_for_what_another_may_leave():
    """Its group comes back when nothing else was left to take."""
    begun = threading.Event()

    class Late(Failing):
        def __call__(self, *given: Any) -> Iterator[dict[str, Any]]:
            begun.set()
            time.sleep(0.2)  # so that the other place has found nothing to do
            yield from super().__call__(*given)

    class Idle(Fake):
        pass

    late, idle = Late(1, back=False), Idle()
    found = records(spread([group(16)], [late, idle], 60.0, GO, HOOKS))
    assert begun.is_set()
    assert len(found) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_place_that_comes_back_goes_on(count: int):
    made = [Failing(2, back=True) for _ in range(count)]
    found = records(spread([group(n, 4) for n in (16, 32)], made, 60.0, GO, HOOKS))
    assert len(found) == 8
    assert len({(one["group"], one["case"]) for one in found}) == 8


@pytest.mark.parametrize("count", [1, 2])
def test_when_all_places_are_lost_the_run_ends(count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "_PATIENCE_S", 0.0)
    made = [Failing(9, back=False) for _ in range(count)]
    with pytest.raises(DeviceLost, match="all workers are lost"):
        records(spread([group(16, 4), group(32, 4)], made, 60.0, GO, HOOKS))


def test_a_group_that_is_done_again_has_its_share_of_the_time_again():
    made = Failing(1, back=True)
    records(spread([group(16), group(16)], [made], 100.0, GO, HOOKS))
    assert made.shares == pytest.approx([100 / 3, 100], rel=0.05)
