"""What a device can do at most, and how near a record comes to it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench import ceilings, engine
from attnbench.ceilings import best_of, doubtful, doubts, measured, roof
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
from attnbench.places import ceilings_of_all
from attnbench.presets import Plan
from attnbench.records import read, read_document, write_document

LOOSE = Protocol(bound=100.0)  # five rounds are enough
KNOWN = {"copy_bytes_per_s": 1e12, "matmul_flops_per_s": {"float32": 1e13}, "exp_per_s": 1e11}
COST = {"bytes": 1e9, "flops": 1e11, "scored_pairs": 1e9}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_BUDGET_S", {"cpu": 0.01})


def test_ceilings_are_those_of_plain_operations():
    found = measured(torch.device("cpu"), ("float32", "float64"))
    assert found["matmul_flops_per_s"].keys() == {"float32", "float64"}
    rates = [found["copy_bytes_per_s"], found["exp_per_s"], *found["matmul_flops_per_s"].values()]
    # A core that did less than this would be of the eighties, and no CPU does more.
    assert all(1e6 < rate < 1e14 for rate in rates)
    assert found["notes"] == {}


def test_rates_are_work_over_the_fastest_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_fastest_s", lambda _device, work: (work(), 2.0)[1])
    found = measured(torch.device("cpu"), ("float32",))
    assert found["copy_bytes_per_s"] == 2 * (1 << 26) / 2
    assert found["matmul_flops_per_s"] == {"float32": 2 * 512**3 / 2}
    assert found["exp_per_s"] == (1 << 16) / 2


def test_what_a_device_cannot_do_is_null_with_a_reason():
    found = measured(torch.device("cpu"), ("float32", "nosuch"))
    assert found["matmul_flops_per_s"]["nosuch"] is None
    assert "nosuch" in found["notes"]["nosuch"]
    assert found["matmul_flops_per_s"]["float32"] > 0


@pytest.mark.parametrize(
    ("pass_", "changes", "least_ms", "bound"),
    [
        ("fwd", {}, 10.0, "matmul"),
        ("bwd", {}, 25.0, "matmul"),
        ("fwdbwd", {}, 35.0, "matmul"),
        ("fwd", {"bytes": 2e10}, 20.0, "copy"),
        ("bwd", {"bytes": 2e10}, 40.0, "copy"),
        ("fwd", {"scored_pairs": 3e9}, 30.0, "exp"),
        ("fwdbwd", {"scored_pairs": 3e9}, 60.0, "exp"),
    ],
)
def test_the_roof_is_the_ceiling_that_takes_longest(
    pass_: str, changes: dict[str, float], least_ms: float, bound: str
):
    found = roof(KNOWN, COST | changes, dtype="float32", pass_=pass_, ms=80.0)
    assert found is not None
    assert found["least_ms"] == pytest.approx(least_ms)
    assert found["share"] == pytest.approx(least_ms / 80)
    assert found["bound"] == bound


def test_the_bound_of_the_tiles_stands_beside_that_of_the_definition():
    found = roof(KNOWN, COST, dtype="float32", pass_="fwd", ms=80.0, computed_pairs=4 * 10**9)
    assert found is not None
    assert (found["scored_pairs"], found["computed_pairs"]) == (1e9, 4 * 10**9)
    assert (found["least_ms"], found["bound"]) == (pytest.approx(10.0), "matmul")
    assert found["tile_least_ms"] == pytest.approx(40.0)
    assert found["tile_share"] == pytest.approx(0.5)
    assert found["tile_bound"] == "matmul"
    # More products move no more bytes.
    copied = COST | {"bytes": 2e10}
    found = roof(KNOWN, copied, dtype="float32", pass_="fwd", ms=80.0, computed_pairs=10**9)
    assert found is not None
    assert (found["tile_least_ms"], found["tile_bound"]) == (pytest.approx(20.0), "copy")


@pytest.mark.parametrize(("scored", "computed"), [(1e9, None), (0, 10)])
def test_without_products_there_is_no_bound_of_the_tiles(scored: float, computed: int | None):
    cost = COST | {"scored_pairs": scored}
    found = roof(KNOWN, cost, dtype="float32", pass_="fwd", ms=80.0, computed_pairs=computed)
    assert found is not None
    assert found["share"] == pytest.approx(0.125)
    assert found["tile_least_ms"] is found["tile_share"] is found["tile_bound"] is None


def test_a_record_has_the_pairs_that_were_computed(tmp_path: Path):
    part = Matrix(
        patterns=("local[window=16]", "full"), lengths=(64,), heads=2, kv_heads=1, dim=4,
        dtype="float32", device="cpu", baselines=False, passes=("fwd", "fwdbwd"),
    )  # fmt: skip
    engine.run(Plan(preset="x", parts=(part,), budget_s=120), tmp_path, protocol=LOOSE)
    found = {(x["case"]["asked"], x["case"]["pass"]): x["time"]["roof"] for x in read(tmp_path)}
    assert len(found) == 4
    for (asked, _), one in found.items():
        # One tile; or blocks of 16 queries against their own 16 keys and those before.
        assert one["computed_pairs"] == 2 * (64 * 64 if asked == "full" else 64 * 32)
        assert one["scored_pairs"] < one["computed_pairs"]
        assert one["tile_share"] > 0


def test_without_a_ceiling_there_is_no_roof():
    assert roof(None, COST, dtype="float32", pass_="fwd", ms=1.0) is None
    assert roof(KNOWN, None, dtype="float32", pass_="fwd", ms=1.0) is None
    assert roof(KNOWN, COST, dtype="float16", pass_="fwd", ms=1.0) is None
    found = roof(KNOWN | {"exp_per_s": None}, COST, dtype="float32", pass_="fwd", ms=20.0)
    assert found is not None
    assert found["bound"] == "matmul"


def test_a_run_measures_its_ceilings_once_and_its_records_have_their_share(tmp_path: Path):
    part = Matrix(
        patterns=("uniform",), lengths=(16,), heads=1, kv_heads=1, dim=4, dtype="float32",
        device="cpu", baselines=False,
    )  # fmt: skip
    engine.run(Plan(preset="x", parts=(part,), budget_s=120), tmp_path, protocol=LOOSE)
    machines = read_document(tmp_path, "machine.json") or {}
    (machine,) = machines.values()
    (record,) = read(tmp_path)
    assert machine["ceilings"]["copy_bytes_per_s"] > 0
    assert record["time"]["roof"] == roof(
        machine["ceilings"],
        record["cost"],
        dtype="float32",
        pass_="fwd",
        ms=record["time"]["cold_ms"]["median"],
    )
    key = record["machine"]
    write_document(tmp_path, "machine.json", {key: machine | {"ceilings": KNOWN}})
    engine.run(Plan(preset="x", parts=(part,), budget_s=120), tmp_path, protocol=LOOSE)
    assert (read_document(tmp_path, "machine.json") or {})[key]["ceilings"] == KNOWN


def times_of(monkeypatch: pytest.MonkeyPatch, **given: list[float]) -> list[str]:
    """Let each ceiling take these times in turn; returns whose turn it was, as it goes."""
    turns: list[str] = []
    left = {name: iter(times) for name, times in given.items()}
    names = {torch.Tensor.copy_: "copy", torch.mm: "matmul", torch.exp: "exp"}

    def fastest(_device: torch.device, work: Any) -> float:
        name = next(name for call, name in names.items() if call.__name__ in work.__code__.co_names)
        turns.append(name)
        return next(left[name])

    monkeypatch.setattr(ceilings, "_fastest_s", fastest)
    return turns


def test_the_best_of_several_turns_counts_and_the_ceilings_take_turns(
    monkeypatch: pytest.MonkeyPatch,
):
    turns = times_of(
        monkeypatch, copy=[2.0, 2, 2.1, 2, 2], matmul=[2.0] * 5, exp=[2.0, 2.1, 1.9, 2, 2]
    )
    found = measured(torch.device("cpu"), ("float32",))
    assert turns == ["copy", "matmul", "exp"] * 5
    assert found["exp_per_s"] == (1 << 16) / 1.9
    assert found["spread"] == pytest.approx(
        {"copy_bytes_per_s": 0.0, "float32": 0.0, "exp_per_s": 0.05}
    )
    assert doubtful(found) == {}


def test_a_ceiling_under_load_is_measured_more_often_and_then_doubtful(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ceilings, "_LONGEST_S", 60.0)
    loaded = [8.0, 2.0] + [8.0] * 13
    turns = times_of(monkeypatch, copy=[2.0] * 15, matmul=[2.0] * 15, exp=loaded)
    found = measured(torch.device("cpu"), ("float32",))
    assert len(turns) == 3 * 15
    assert found["exp_per_s"] == (1 << 16) / 2
    assert doubtful(found) == {"exp_per_s": 0.75}


def test_when_the_load_ends_the_ceilings_are_as_good_as_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_LONGEST_S", 60.0)
    exps = [8.0] * 4 + [2.0] * 11
    turns = times_of(monkeypatch, copy=[2.0] * 15, matmul=[2.0] * 15, exp=exps)
    found = measured(torch.device("cpu"), ("float32",))
    assert len(turns) == 3 * 9  # by then most of the exp times agree
    assert doubtful(found) == {}


def test_no_more_turns_than_there_is_time_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ceilings, "_LONGEST_S", 0.0)
    slow = [8.0, 8.0, 8.0, 8.0, 2.0]
    turns = times_of(monkeypatch, copy=slow, matmul=slow, exp=slow)
    assert set(doubtful(measured(torch.device("cpu"), ("float32",)))) == {
        "copy_bytes_per_s", "float32", "exp_per_s",
    }  # fmt: skip
    assert len(turns) == 3 * 5


@pytest.mark.parametrize(
    ("spread", "ms", "said"),
    [
        ({}, 30.0, None),
        ({"exp_per_s": 0.05}, 30.0, None),
        (
            {"exp_per_s": 0.6},
            60.0,
            "the exp ceiling is doubtful: most of its measurements were 60%",
        ),
        ({"float32": 0.6}, 60.0, None),  # not the one that is reached
        ({}, 29.0, None),
        ({}, 28.0, "faster than the measured exp ceiling allows"),
    ],
)
def test_a_share_of_a_doubtful_ceiling_has_a_note(
    spread: dict[str, float], ms: float, said: str | None
):
    known, cost = KNOWN | {"spread": spread}, COST | {"scored_pairs": 3e9}
    found = roof(known, cost, dtype="float32", pass_="fwd", ms=ms)
    assert found is not None
    assert found["least_ms"] == pytest.approx(30.0)
    notes = doubts(known, found, "float32")
    assert list(notes) == ([] if said is None else ["roof"])
    assert notes.get("roof", "").startswith(said or "")


def test_a_matrix_ceiling_is_doubtful_by_its_dtype():
    known = KNOWN | {"spread": {"float32": 0.3}}
    found = roof(known, COST, dtype="float32", pass_="fwd", ms=80.0)
    assert "the matmul ceiling is doubtful" in doubts(known, found, "float32")["roof"]
    assert doubts(None, None, "float32") == {}


SLOW = {
    "copy_bytes_per_s": 1e9, "matmul_flops_per_s": {"float32": 2e9, "float64": None},
    "exp_per_s": 3e9, "cache_bytes": None, "notes": {"float64": "none"},
    "spread": {"copy_bytes_per_s": 0.5, "float32": 0.2, "exp_per_s": 0.0},
}  # fmt: skip
FAST = {
    "copy_bytes_per_s": 2e9, "matmul_flops_per_s": {"float32": 1e9, "float64": 5e8},
    "exp_per_s": 3e9, "cache_bytes": None, "notes": {},
    "spread": {"copy_bytes_per_s": 0.01, "float32": 0.9, "float64": 0.02, "exp_per_s": 0.4},
}  # fmt: skip


def test_the_best_of_two_measurements_has_the_spread_of_the_better_one():
    best = best_of([SLOW, FAST])
    assert best["copy_bytes_per_s"] == 2e9
    assert best["matmul_flops_per_s"] == {"float32": 2e9, "float64": 5e8}
    assert best["spread"] == {
        "copy_bytes_per_s": 0.01, "float32": 0.2, "float64": 0.02, "exp_per_s": 0.0,
    }  # fmt: skip
    assert best["notes"] == {}
    assert SLOW["copy_bytes_per_s"] == 1e9


class Place:
    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        return self.found


def test_every_gpu_is_measured_and_no_case_is_held_to_the_slower_ones_ceiling():
    found = ceilings_of_all([Place(SLOW), Place(FAST)], ("float32",))
    assert found["copy_bytes_per_s"] == 2e9
    assert [one["copy_bytes_per_s"] for one in found["places"]] == [1e9, 2e9]
    assert [one["float64"] for one in found["places"]] == [None, 5e8]
    assert ceilings_of_all([Place(SLOW)], ("float32",)) == SLOW


def test_a_run_on_a_busy_machine_says_so_and_measures_again_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    part = Matrix(
        patterns=("local[window=4]",), lengths=(16,), heads=1, kv_heads=1, dim=4,
        dtype="float32", device="cpu", baselines=False,
    )  # fmt: skip
    low = {
        "copy_bytes_per_s": 1e12, "matmul_flops_per_s": {"float32": 1e12}, "exp_per_s": 1.0,
        "cache_bytes": None, "notes": {}, "spread": {"exp_per_s": 0.75},
    }  # fmt: skip
    given = iter([low, low | {"exp_per_s": 1e12, "spread": {"exp_per_s": 0.01}}])
    monkeypatch.setattr(ceilings, "measured", lambda *_: next(given))
    engine.run(Plan(preset="x", parts=(part,), budget_s=60), tmp_path, protocol=LOOSE)
    (record,) = read(tmp_path)
    assert record["time"]["roof"]["share"] > 1
    assert record["time"]["notes"]["roof"].startswith("the exp ceiling is doubtful")
    assert record["guards"].get("fired", {}).keys() <= {"spread"}
    assert "measured (exp_per_s)" in capsys.readouterr().err
    engine.run(Plan(preset="x", parts=(part,), budget_s=60), tmp_path, protocol=LOOSE)
    (machine,) = (read_document(tmp_path, "machine.json") or {}).values()
    assert machine["ceilings"]["exp_per_s"] == 1e12
    assert machine["ceilings"]["spread"] == {"exp_per_s": 0.01}
