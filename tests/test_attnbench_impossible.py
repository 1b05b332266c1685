"""No time is better than the device: what is above a measured ceiling is marked, no more."""

from pathlib import Path
from typing import Any

import pytest

from attnbench import ceilings, engine, guards
from attnbench.case import CostCase
from attnbench.impossible import above_ceilings, mandatory_bytes
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
from attnbench.presets import Plan
from attnbench.records import read

KNOWN = {
    "copy_bytes_per_s": 1e12,
    "matmul_flops_per_s": {"bfloat16": 1e14, "float32": 1e13},
    "exp_per_s": 1e9,
    "cache_bytes": 0,
}
LITTLE = {"flops": 1, "scored_pairs": 1}


def case(**changes: Any) -> CostCase:
    fields: dict[str, Any] = {
        "asked": "full", "pattern": "full", "backend": "auto", "causal": True, "length": 1000,
        "heads": 4, "kv_heads": 4, "dim": 50, "dtype": "bfloat16", "device": "cuda",
        "source": "gaussian", "seed": 0, "pass_": "fwd", "batch": 2,
    }  # fmt: skip
    return CostCase(**(fields | changes))


@pytest.mark.parametrize(
    ("pass_", "flops", "fires"),
    [("fwd", 0.99e11, False), ("fwd", 1.01e11, True), ("bwd", 0.51e11, True),
     ("bwd", 0.49e11, False), ("fwdbwd", 0.34e11, True), ("fwdbwd", 0.33e11, False)],
)  # fmt: skip
def test_more_operations_than_the_ceiling_are_marked(pass_: Any, flops: float, fires: bool):
    found = above_ceilings(KNOWN, LITTLE | {"flops": flops}, case(pass_=pass_), 1.0)
    assert list(found) == (["ceiling"] if fires else [])
    if fires:
        assert "% of the FLOPs a second" in found["ceiling"]


TENSOR = 2 * 2 * 4 * 1000 * 50  # bytes of q


@pytest.mark.parametrize(("pass_", "tensors"), [("fwd", 4), ("bwd", 7), ("fwdbwd", 8)])
def test_more_bytes_than_the_ceiling_are_marked(pass_: Any, tensors: int):
    least_ms = tensors * TENSOR / 1e12 * 1e3
    asked = case(pass_=pass_)
    assert mandatory_bytes(asked) == tensors * TENSOR
    assert above_ceilings(KNOWN, LITTLE, asked, 1.01 * least_ms) == {}
    found = above_ceilings(KNOWN, LITTLE, asked, 0.5 * least_ms)
    assert found["ceiling"].startswith("200% of the bytes a second")


def test_grouped_heads_and_patterns_that_score_nothing_move_less():
    assert mandatory_bytes(case(kv_heads=1)) == 2.5 * TENSOR
    assert mandatory_bytes(case(kv_heads=1, pass_="bwd")) == 4 * TENSOR
    assert mandatory_bytes(case(), scored=False) == 2 * TENSOR  # its values, and the output
    nothing = LITTLE | {"scored_pairs": 0}
    assert above_ceilings(KNOWN, nothing, case(), 3 * TENSOR / 1e9) == {}


def test_what_the_cache_may_hold_need_not_travel():
    known = KNOWN | {"cache_bytes": 4 * TENSOR}
    assert above_ceilings(known, LITTLE, case(), 1e-9) == {}
    assert above_ceilings(known, LITTLE, case(length=10_000), 30 * TENSOR / 1e9)
    assert above_ceilings(KNOWN | {"cache_bytes": None}, LITTLE, case(), 1e-9) == {}


def test_exponentials_are_no_ceiling():  # other instructions can stand in for them
    assert above_ceilings(KNOWN, LITTLE | {"scored_pairs": 10**12}, case(), 1.0) == {}


@pytest.mark.parametrize(
    ("device", "dtype", "fires"),
    [("cuda", "bfloat16", True), ("cuda", "float32", False), ("cpu", "float32", True),
     ("cpu", "bfloat16", False)],
)  # fmt: skip
def test_only_dtypes_whose_products_were_measured_are_held_to_them(
    device: Any, dtype: str, fires: bool
):
    known = KNOWN | {"cache_bytes": None}
    found = above_ceilings(known, LITTLE | {"flops": 1e13}, case(device=device, dtype=dtype), 1.0)
    assert bool(found) == fires


def test_a_cpu_is_held_to_four_times_its_ceiling():
    cost, asked = LITTLE | {"flops": 3.9e10}, case(device="cpu", dtype="float32")
    assert above_ceilings(KNOWN | {"cache_bytes": None}, cost, asked, 1.0) == {}


@pytest.mark.parametrize(("spread", "most"), [(0.0, 1.0), (0.09, 1.0), (0.5, 2.0), (0.75, 4.0)])
def test_a_ceiling_that_was_measured_under_load_is_taken_to_be_higher(spread: float, most: float):
    """It is doubtful, and not the case, up to what its own measurements differ by."""
    known = KNOWN | {"spread": {"bfloat16": spread}}
    assert above_ceilings(known, LITTLE | {"flops": 0.99e11 * most}, case(), 1.0) == {}
    assert above_ceilings(known, LITTLE | {"flops": 1.01e11 * most}, case(), 1.0)
    copied, least_ms = KNOWN | {"spread": {"copy_bytes_per_s": spread}}, 4 * TENSOR / 1e9
    assert above_ceilings(copied, LITTLE, case(), 1.01 * least_ms / most) == {}
    assert above_ceilings(copied, LITTLE, case(), 0.99 * least_ms / most)


@pytest.mark.parametrize("known", [None, {"copy_bytes_per_s": None, "matmul_flops_per_s": {}}])
def test_what_was_not_measured_is_no_ceiling(known: dict[str, Any] | None):
    assert above_ceilings(known, LITTLE | {"flops": 1e30}, case(), 1e-9) == {}
    assert above_ceilings(KNOWN, None, case(), 1e-9) == {}


def test_a_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slow = KNOWN | {"matmul_flops_per_s": {"float32": 1.0}, "cache_bytes": None}
    monkeypatch.setattr(ceilings, "measured", lambda *_: slow)
    part = Matrix(
        patterns=("local",), lengths=(64,), heads=1, kv_heads=1, dim=4, dtype="float32",
        device="cpu", baselines=False,
    )  # fmt: skip
    loose = Protocol(bound=100.0)
    result = engine.run(Plan(preset="x", parts=(part,), budget_s=60), tmp_path, protocol=loose)
    (record,) = read(tmp_path)
    assert "FLOPs" in guards.fired(record)["ceiling"]
    assert record["status"] == "ok"
    assert result.exit_code == 0
