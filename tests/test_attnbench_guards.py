"""Guards on numbers: each fires for what it is for, and for nothing else; tables can see it."""

from typing import Any

import pytest

from attnbench import guards


def cost(length: int, ms: float, flops: int, **changes: Any) -> dict[str, Any]:
    case = {"asked": "a", "backend": "auto", "length": length, "device": "cuda", "pass": "fwd"}
    timing = {"median": ms, "interval": [0.99 * ms, 1.01 * ms]}
    return {
        "kind": "cost",
        "status": "ok",
        "case": case | changes,
        "implementation": {"backend": "eager", "kind": "native"},
        "cost": {"flops": flops},
        "time": {"cold_ms": timing},
        "guards": {"check": {"ok": True}},
    }


@pytest.mark.parametrize(
    ("short_ms", "long_ms", "work", "fires"),
    [
        (1.0, 0.9, 4, True),
        (1.0, 0.5, 16, True),
        (1.0, 0.9, 3, False),  # not that much more work
        (1.0, 1.0, 4, False),  # about the same: too few threads may explain it
        (0.05, 0.04, 64, False),  # launches decide
        (1.0, 4.0, 4, False),
    ],
)
@pytest.mark.parametrize("longer_last", [True, False])
def test_more_work_in_less_time_is_marked(
    short_ms: float, long_ms: float, work: int, fires: bool, longer_last: bool
):
    pair = cost(1024, short_ms, 10**9), cost(4096, long_ms, work * 10**9)
    other, last = pair if longer_last else pair[::-1]
    found = guards.fired(guards.with_scaling(last, [other]))
    assert (list(found) == ["scaling"]) == fires
    if fires:
        assert "at length 4096 took less time" in found["scaling"]


@pytest.mark.parametrize(
    "changes", [{"asked": "b"}, {"pass": "bwd"}, {"batch": 2}, {"dtype": "float16"}]
)
def test_times_of_different_cases_are_not_held_against_each_other(changes: dict[str, Any]):
    other, last = cost(1024, 1.0, 10**9, **changes), cost(4096, 0.1, 10**10)
    assert guards.with_scaling(last, [other]) == last


def test_a_case_without_a_time_is_not_held_against_another():
    failed = cost(1024, 1.0, 10**9) | {"status": "oom", "time": None}
    last = cost(4096, 0.5, 10**10)
    assert guards.with_scaling(last, [failed]) == last
    assert guards.with_scaling(failed, [last]) == failed


@pytest.mark.parametrize(("low", "high", "fires"), [(0.95, 1.05, False), (0.8, 1.1, True)])
def test_samples_that_do_not_agree_are_marked(low: float, high: float, fires: bool):
    found = guards.spread({"median": 1.0, "interval": [low, high]})
    assert bool(found) == fires
    if fires:
        assert "±15%" in found["spread"]


@pytest.mark.parametrize(
    ("ms", "most", "fires"), [(1.0, 2e12, False), (1.0, 0.5e12, True), (1.0, None, False)]
)
def test_more_than_the_device_can_do_is_marked(ms: float, most: float | None, fires: bool):
    found = guards.ceiling("FLOPs", 1e9, ms, most)
    assert bool(found) == fires
    if fires:
        assert found["ceiling"].startswith("200% of the FLOPs")


def test_what_fired_is_added_to_what_was_there():
    one = guards.with_fired(cost(1, 1.0, 1), {"spread": "wide"})
    both = guards.with_fired(one, {"ceiling": "high"})
    assert guards.fired(both) == {"spread": "wide", "ceiling": "high"}
    assert both["guards"]["check"] == {"ok": True}
    assert guards.fired({"guards": None}) == guards.fired({}) == {}
