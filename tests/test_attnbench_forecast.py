"""The time that is left: right before anything is known where the weights are, and corrected."""

import io
from typing import Any

import pytest

from attnbench.case import CostCase, Group, case_key
from attnbench.forecast import Forecast, in_words
from attnbench.progress import Progress
from attnbench.purse import weight
from attnbench.turns import Todo


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def group(length: int, count: int = 2) -> Todo:
    cases = tuple(
        CostCase(
            asked=f"p{number}", pattern="full", backend="auto", causal=True, length=length,
            heads=1, kv_heads=1, dim=8, dtype="float32", device="cpu", seed=0, pass_="fwd", batch=1,
        )
        for number in range(count)
    )  # fmt: skip
    return Group(id=f"g{length}", cases=cases), cases


GROUPS = [group(16), group(4096), group(4096 + 1)]
WEIGHTS = [weight(cases) for _, cases in GROUPS]


def do(forecast: Forecast, clock: Clock, number: int, taken_s: float) -> None:
    """Have a group measured, whose cases come out together at its end."""
    one, cases = GROUPS[number]
    forecast.began(one.id)
    clock.now += taken_s
    for case in cases:
        forecast.ended(one.id, case_key(case), measured=True)


def test_before_anything_is_known_the_weights_are_seconds():
    assert Forecast(GROUPS, 1, 1e6, Clock()).left_s() == pytest.approx(sum(WEIGHTS))


def test_what_was_measured_corrects_the_rest():
    clock = Clock()
    forecast = Forecast(GROUPS, 1, 1e6, clock)
    do(forecast, clock, 1, 10 * WEIGHTS[1])  # ten times as slow
    rate = (5 + 10 * WEIGHTS[1]) / (5 + WEIGHTS[1])
    assert forecast.left_s() == pytest.approx(rate * (WEIGHTS[0] + WEIGHTS[2]))


def test_it_counts_down_while_a_group_is_measured_and_never_below_the_rest():
    clock = Clock()
    forecast = Forecast(GROUPS, 1, 1e6, clock)
    forecast.began("g4096")
    before = forecast.left_s()
    clock.now += 2.0
    assert forecast.left_s() == pytest.approx(before - 2.0)
    clock.now += 1000.0
    assert forecast.left_s() == pytest.approx(WEIGHTS[0] + WEIGHTS[2])
    assert forecast.under_way() == ["g4096"]


def test_two_places_take_half_as_long_unless_one_group_is_most_of_it():
    assert Forecast(GROUPS, 2, 1e6, Clock()).left_s() == pytest.approx(sum(WEIGHTS) / 2)
    clock = Clock()
    forecast = Forecast(GROUPS, 2, 1e6, clock)
    do(forecast, clock, 0, WEIGHTS[0])
    do(forecast, clock, 1, WEIGHTS[1])
    forecast.began("g4097")
    assert forecast.left_s() == pytest.approx(WEIGHTS[2])


def test_it_is_never_more_than_the_budget_affords():
    """Which is the time of one place, so that two have it twice as fast."""
    clock = Clock()
    for places in (1, 2):
        forecast = Forecast(GROUPS, places, WEIGHTS[0] + 3.0, clock)
        assert forecast.left_s() == pytest.approx((WEIGHTS[0] + 3.0) / places)
        do(forecast, clock, 0, WEIGHTS[0])
        assert forecast.left_s() == pytest.approx(3.0 / places)


def test_cases_that_are_not_measured_make_nothing_look_fast():
    clock = Clock()
    forecast = Forecast(GROUPS, 1, 1e6, clock)
    forecast.began("g4096")
    for case in GROUPS[1][1]:
        forecast.ended("g4096", case_key(case), measured=False)
    assert forecast.left_s() == pytest.approx(WEIGHTS[0] + WEIGHTS[2])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "about 10 s"), (37.0, "about 40 s"), (94.0, "about 90 s"), (100.0, "about 2 min"),
        (170.0, "about 3 min"), (5400.0, "about 90 min"), (7200.0, "about 2.0 h"),
    ],
)  # fmt: skip
def test_times_are_told_roughly(seconds: float, said: str):
    assert in_words(seconds) == said


def record(case: CostCase, status: str = "oom") -> dict[str, Any]:
    return {
        "kind": "cost", "group": f"g{case.length}", "case_key": case_key(case), "status": status,
        "case": {"asked": case.asked, "backend": "auto"}, "reason": "why",
    }  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says that it is one."""

    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, minutes: float) -> str:
    """What is said of groups that take so long each."""
    clock = Clock()
    forecast = Forecast(GROUPS, 1, 1e6, clock)
    progress = Progress(6, stream, forecast=forecast, clock=clock)
    for one, cases in GROUPS:
        progress.group(one.id)
        clock.now += 60 * minutes
        for case in cases:
            progress.record(record(case, "crashed" if case is GROUPS[0][1][0] else "oom"))
    progress.close()
    return stream.getvalue()


def test_where_nobody_watches_a_line_a_minute_at_most_says_what_is_left():
    lines = told(io.StringIO(), 0.4).splitlines()
    assert [line for line in lines if "left" not in line] == [
        f"g{case.length} {case.asked}@auto: {'crashed' if index == 0 else 'oom'}, why"
        for index, case in enumerate(case for _, cases in GROUPS for case in cases)
    ]
    assert not any("left" in line for line in lines)  # it was over within 72 s, without a new group
    lines = told(io.StringIO(), 1.0).splitlines()
    left = [line for line in lines if "left" in line]
    assert [line.partition(":")[0] for line in left] == [
        "2 of 6 cases, 1 of them failed", "4 of 6 cases, 1 of them failed",
    ]  # fmt: skip
    assert all(line.endswith(" left") for line in left)


def test_a_terminal_shows_the_group_what_failed_and_what_is_left():
    shown = told(Terminal(), 1.0)
    assert "g16 p0@auto: crashed, why" in shown
    assert "oom" not in shown
    last = shown.replace("\r", "\n").strip().splitlines()[-1]
    assert "6/6" in last
    assert "1 failed" in last
    assert "g4097:" in shown
    assert "min left, 1 failed" in shown
