"""Several launches of one run: joined in its records, held apart in them, and never twice."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import run_bench
from attnbench import launches
from attnbench.arguments import parser
from attnbench.case import CostCase, Group, case_key
from attnbench.engine import Result
from attnbench.launch import joined, launch, over_launches
from attnbench.matrix import Matrix
from attnbench.measure_cost import CostMeasurer, Protocol
from attnbench.outcome import Origin
from attnbench.presets import Plan
from attnbench.records import read, write_document
from attnbench.statistics import summary
from attnbench.steps import Step
from patterns import BadInput

PART = Matrix(lengths=(16,), heads=1, kv_heads=1, dim=4, dtype="float32", device="cpu")


def block(ms: float, *, dense: float | None = 2.0) -> dict[str, Any]:
    """The `time` of one launch of five rounds of two samples."""
    rounds = [[ms, ms * 1.01] for _ in range(5)]
    found = {
        "cold_ms": summary(rounds), "graph_ms": None, "eager_wall_ms": summary(rounds),
        "first_call_ms": 9.0, "rounds": 5, "stopped": "bound",
        "ratio_to_dense": None if dense is None else {
            "median": dense, "interval": [dense, dense], "dense": "full@sdpa"
        },
        "same_twice": {"median": 1.002, "interval": [1.0, 1.004]}, "notes": {},
    }  # fmt: skip
    return {**found, "launches": [launch(found, [ms] * 5)]}


def test_shares_of_the_roof_are_those_of_the_median_over_launches():
    roof = {"least_ms": 0.5, "share": 0.5, "tile_least_ms": 0.8, "tile_share": 0.8}
    found = joined(block(1.0) | {"roof": roof}, block(3.0), 2)["roof"]
    assert found["share"] == pytest.approx(0.5 / 2.01)
    assert found["tile_share"] == pytest.approx(0.8 / 2.01)
    unknown = roof | {"tile_least_ms": None, "tile_share": None}
    assert joined(block(1.0) | {"roof": unknown}, block(3.0), 2)["roof"]["tile_share"] is None
    assert joined(block(1.0) | {"roof": None}, block(3.0), 2)["roof"] is None


def test_doubts_about_the_ceilings_of_another_launch_are_none_about_the_first_ones():
    found = joined(block(2.0), {**block(2.0), "notes": {"roof": "doubtful", "clocks": "moved"}}, 2)
    assert found["notes"] == {"clocks": "moved"}
    found = joined({**block(2.0), "notes": {"roof": "doubtful"}}, block(2.0), 2)
    assert found["notes"] == {"roof": "doubtful"}


def test_the_interval_of_several_launches_is_over_the_launches():
    one = joined(block(1.0), block(1.2) | {"stopped": "budget"}, 2)
    both = joined(one, block(1.1, dense=2.2), 3)
    assert [entry["launch"] for entry in both["launches"]] == [1, 2, 3]
    assert [entry["cold_ms"] for entry in both["launches"]] == pytest.approx([1.005, 1.206, 1.1055])
    cold = both["cold_ms"]
    assert cold["median"] == pytest.approx(1.1055)
    assert cold["n"] == len(cold["samples"]) == 30
    # By hand: logs 0.0050, 0.1873, 0.1003, their deviation 0.0912, t of 2 degrees 4.303.
    assert cold["interval"] == pytest.approx([0.8786, 1.3820], rel=2e-3)
    assert (both["rounds"], both["stopped"]) == (15, "budget")
    assert both["ratio_to_dense"]["median"] == 2.0
    assert both["ratio_to_dense"]["dense"] == "full@sdpa"
    assert both["ratio_to_dense"]["interval"][1] > 2.2
    assert both["same_twice"]["median"] == 1.002
    assert both["graph_ms"] is None
    assert joined(block(1.0, dense=None), block(1.0, dense=None), 2)["ratio_to_dense"] is None


def test_two_equal_launches_have_a_narrow_interval_and_two_unequal_ones_a_wide_one():
    assert over_launches([2.0, 2.0]) == (2.0, pytest.approx([2.0, 2.0]))
    middle, (low, high) = over_launches([1.0, 1.1])
    assert middle == pytest.approx(1.05)
    assert math.log(high / low) / 2 == pytest.approx(12.706 * math.log(1.1) / 2, rel=1e-3)


def folder(path: Path, times: dict[str, float | None]) -> Path:
    """A run folder whose cases have these times, or crashed."""
    path.mkdir(parents=True)
    write_document(path, "run.json", {"version": "abc", "machine": "m"})
    lines = [
        {
            "schema": 1, "kind": "cost", "case_key": key, "group": "g", "case": {},
            "status": "crashed" if ms is None else "ok", "reason": None,
            "time": None if ms is None else block(ms),
        }
        for key, ms in times.items()
    ]  # fmt: skip
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_join_adds_a_launch_once_and_leaves_failures_alone(tmp_path: Path):
    run = folder(tmp_path / "run", {"a": 1.0, "b": 1.0, "c": None, "d": 1.0})
    assert launches.join(run, 2) == 0
    folder(run / "launches" / "2", {"a": 1.2, "b": None, "c": 1.0})
    assert launches.join(run, 2) == 1
    assert launches.join(run, 2) == 0
    records = {record["case_key"]: record for record in read(run)}
    counts = {key: len((one["time"] or {}).get("launches", [])) for key, one in records.items()}
    assert counts == {"a": 2, "b": 1, "c": 0, "d": 1}
    assert records["c"]["status"] == "crashed"


def test_repeat_starts_the_launches_one_after_the_other_and_joins_them(tmp_path: Path):
    run = folder(tmp_path / "run", {"a": 1.0})
    said: list[str] = []

    def command(number: int, into: Path) -> list[str]:
        folder(into, {"a": 1.0 + number / 10})
        return [sys.executable, "-c", ""]

    result = Result(run=run, statuses={"ok": 1}, stopped=False)
    assert launches.repeat(result, 3, command, said.append) == result
    assert said == ["launch 2 of 3", "launch 3 of 3"]
    assert [one["launch"] for one in read(run)[0]["time"]["launches"]] == [1, 2, 3]


@pytest.mark.parametrize(("code", "stopped"), [(0, False), (1, False), (130, True)])
def test_a_launch_that_was_stopped_stops_the_run(tmp_path: Path, code: int, stopped: bool):
    result = Result(run=folder(tmp_path / "run", {"a": 1.0}), statuses={}, stopped=False)
    said: list[str] = []
    leave = [sys.executable, "-c", f"raise SystemExit({code})"]
    found = launches.repeat(result, 3, lambda *_: leave, said.append)
    assert found.stopped == stopped
    assert len(said) == (1 if stopped else 2)


def test_a_launch_that_refuses_its_input_is_bad_input(tmp_path: Path):
    result = Result(run=folder(tmp_path / "run", {"a": 1.0}), statuses={}, stopped=False)
    leave = [sys.executable, "-c", "raise SystemExit(2)"]
    with pytest.raises(BadInput, match="launch 2 did not begin"):
        launches.repeat(result, 2, lambda *_: leave, lambda _: None)


def test_further_launches_only_time():
    plan = Plan(
        preset="x",
        parts=(
            Matrix(**{**vars(PART), "sources": ("needle",), "map_bins": 8}),
            Matrix(**{**vars(PART), "passes": (), "sources": ("needle",)}),
        ),
        budget_s=1,
    )
    assert launches.timing_only(plan).parts == (PART,)
    with pytest.raises(BadInput, match="nothing is timed"):
        launches.timing_only(Plan(preset="x", parts=plan.parts[1:], budget_s=1))


def test_the_command_of_a_launch_is_what_was_typed_into_its_folder(tmp_path: Path):
    commands = dict.fromkeys(run_bench._COMMANDS, lambda _: 0)
    typed = parser(commands).parse_args(["run", "--pattern", "local", "--out", "r"])
    typed.typed = ["run", "--pattern", "local", "--out", "r", "--launches", "3"]
    found = run_bench._launch(typed, 60.0, 2, tmp_path)
    assert found[:2] == [sys.executable, run_bench.__file__]
    again = parser(commands).parse_args(found[2:])
    assert (again.out, again.launches, again.launch, again.budget) == (tmp_path, "1", "2", 1.0)
    assert again.pattern == ["local"]


class Ticks:
    """A watch on which every call takes a millisecond, and a second timing 1 % more."""

    def __init__(self, *_: object, **__: object) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def cold(self, name: str, _call: object) -> float:
        self.seconds += 0.01
        return 1.01 if name.endswith(" again") else 1.0

    def wall(self, _call: object) -> None:
        return None

    def graph(self, _name: str, _call: object) -> str:
        return "none here"

    def clocks(self) -> None:
        return None

    def notes(self, _name: str) -> dict[str, str]:
        return {}


def tiny(asked: str, backend: str) -> CostCase:
    return CostCase(
        asked=asked, pattern=asked, backend=backend, causal=True, length=16, heads=1,
        kv_heads=1, dim=4, dtype="float32", device="cpu", seed=0, pass_="fwd", batch=1,
    )  # fmt: skip


def test_one_contender_of_a_group_is_timed_twice_and_has_one_record():
    cases = (tiny("full", "sdpa"), tiny("uniform", "auto"))
    measurer = CostMeasurer(Origin(version="v", machine="m"), Protocol(make_watch=Ticks))
    with torch.no_grad():
        records = list(measurer.measure(Group(id="g", cases=cases), cases, 60.0))
    found = {record["case"]["asked"]: record["time"] for record in records}
    assert found["full"]["same_twice"]["median"] == pytest.approx(1.01)
    assert found["uniform"]["same_twice"] is None
    assert len(records) == 2
    assert found["uniform"]["launches"][0]["rounds_ms"] == [1.0] * 5
    assert found["uniform"]["launches"][0]["cold_ms"] == 1.0


class SecondRaises(Ticks):
    """The second timing of a contender raises something."""

    def cold(self, name: str, call: object) -> float:
        if name.endswith(" again"):
            raise RuntimeError("boom")
        return super().cold(name, call)


def test_a_second_timing_is_announced_as_its_case_and_what_it_raises_is_the_case_s():
    steps: list[Step] = []
    cases = (tiny("full", "sdpa"), tiny("uniform", "auto"))
    protocol = Protocol(make_watch=SecondRaises)
    measurer = CostMeasurer(Origin(version="v", machine="m"), protocol, steps.append)
    with torch.no_grad():
        records = list(measurer.measure(Group(id="g", cases=cases), cases, 60.0))
    statuses = {record["case"]["asked"]: record["status"] for record in records}
    assert statuses == {"full": "crashed", "uniform": "ok"}
    timed = {step.case_key for step in steps if step.what == "time"}
    assert timed == {case_key(case) for case in cases}
