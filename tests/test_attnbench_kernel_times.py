"""The table of kernels, from events as PyTorch's profiler has them."""

import json
from typing import Any

import pytest

from attnbench.case import CostCase
from attnbench.contender import Chosen
from attnbench.kernel_times import _profiled, as_document, as_text, kernels_of, launched
from patterns import pattern
from patterns.base import Implementation


class Event:
    """A raw event of a profile."""

    def __init__(self, name: str, start: int, ns: int, device: str = "DeviceType.CUDA") -> None:
        self._values = name, start, ns, device

    def name(self) -> str:
        return self._values[0]

    def start_ns(self) -> int:
        return self._values[1]

    def duration_ns(self) -> int:
        return self._values[2]

    def device_type(self) -> str:
        return self._values[3]

    def is_user_annotation(self) -> bool:
        return self._values[0].startswith("##")


CALLS: list[list[Event]] = [
    [
        Event("attend", 40, 3_000_000),
        Event("summaries", 10, 1_000_000 * scale),
        Event("cudaLaunchKernel", 5, 9_000_000, "DeviceType.CPU"),
        Event("## call", 0, 90_000_000),
        Event("attend", 90, 1_000_000),
    ]
    for scale in (1, 2, 90)
]


def found() -> Any:
    case = CostCase(
        asked="local", pattern="local[window=8]", backend="auto", causal=True, length=1024, heads=2,
        kv_heads=2, dim=64, dtype="bfloat16", device="cuda", seed=0, pass_="fwd", batch=1,
    )  # fmt: skip
    chosen = Chosen(
        pattern=pattern(case.pattern),
        implementation=Implementation(backend="triton", kind="native"),
    )
    ceilings = {"copy_bytes_per_s": 1e9}
    return _profiled(case, chosen, [launched(one) for one in CALLS], "shipped", ceilings)


def test_only_what_ran_on_the_gpu_counts_in_the_order_of_its_launch():
    assert launched(CALLS[0]) == [("summaries", 1.0), ("attend", 3.0), ("attend", 1.0)]


def test_launches_of_one_kernel_are_added_up_and_medians_taken_over_calls():
    summaries, attend = kernels_of([launched(one) for one in CALLS])
    assert (summaries.name, summaries.launches, summaries.ms) == ("summaries", 1, 2.0)
    assert (attend.name, attend.launches, attend.ms) == ("attend", 2, 4.0)
    assert (summaries.share, attend.share) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_a_profile_is_told_with_the_least_that_has_to_move():
    one = found()
    assert one.ms == 6.0
    assert one.bytes == 4 * 2 * 1024 * 64 * 2
    assert one.copy_ms == pytest.approx(one.bytes / 1e6)
    text = as_text(one)
    assert "local[window=8]@triton" in text
    assert "66.7 %" in text
    assert "tiles shipped" in text
    document = json.loads(json.dumps(as_document(one)))
    assert document["kernels"][1] == {
        "name": "attend",
        "launches": 2,
        "ms": 4.0,
        "share": pytest.approx(2 / 3),
    }
