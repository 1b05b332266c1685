"""What a device can do at most, and how near a record comes to it."""

from pathlib import Path

import pytest
import torch

from attnbench import ceilings, engine
from attnbench.ceilings import measured, roof
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
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
