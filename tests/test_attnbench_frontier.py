"""The longest length that fits is found, kept and shown, and no more is held than was allowed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import reports
import run_bench
from attnbench import frontier, matrix
from attnbench.frontier import Frontier
from attnbench.frontier_run import line_of, search
from attnbench.longest import index_of, longest, stepped
from attnbench.records import RUN, read, read_document
from patterns import PATTERNS, BadInput, registry
from patterns import pattern as one_pattern
from patterns.full import Full
from reports.frame.frontier import frontier_frame

MIB = 1 << 20


def asked(*patterns: str, **changes: Any) -> Frontier:
    found = Frontier(
        patterns=tuple(one_pattern(spec) for spec in patterns), passes=("fwd",), memory_bytes=MIB,
        heads=1, kv_heads=1, dim=8, dtype="float32", device="cpu",
    )  # fmt: skip
    return replace(found, **changes)


def found_by(folder: Path, *patterns: str, **changes: Any) -> list[dict[str, Any]]:
    search(asked(*patterns, **changes), folder, say=lambda _: None)
    return read(folder)


# The search.


def test_lengths_are_a_sixteenth_apart():
    lengths = [stepped(index) for index in range(64)]
    assert lengths[:18] == [*range(16, 32), 32, 34]
    assert all(1.03 < b / a < 1.07 for a, b in pairwise(lengths))
    assert [index_of(length) for length in lengths] == list(range(64))
    assert stepped(index_of(1000)) == 992


@pytest.mark.parametrize("limit", [1024, 1087, 1088, 2047, 2048, 5000, 65536, 1 << 20])
def test_doubling_and_bisection_find_the_last_that_works(limit: int):
    tried: list[int] = []

    def works(length: int) -> bool:
        tried.append(length)
        return length <= limit

    best, next_one = longest(works, first=1024, most=1 << 21)
    assert best == stepped(index_of(limit))
    assert next_one == stepped(index_of(limit) + 1)
    assert len(tried) == len(set(tried)) <= 17
    assert max(tried) <= 2 * limit + 2048  # what is far too long is never tried


def test_the_search_ends_at_both_ends():
    assert longest(lambda _: False, first=1024, most=1 << 21) == (None, 1024)
    assert longest(lambda _: True, first=1024, most=5000) == (4864, None)
    assert longest(lambda _: True, first=1024, most=1024) == (1024, None)


# What is measured.


def test_what_fits_is_within_the_memory_and_the_next_length_is_not(tmp_path: Path):
    (record,) = found_by(tmp_path, "local[window=16]")
    found = record["frontier"]
    trials = {one["length"]: one for one in found["trials"]}
    assert record["status"] == "ok"
    assert record["implementation"]["backend"] == "sdpa"
    assert (found["limit"], trials[found["longest"]]["limit"]) == ("memory", None)
    assert trials[found["too_long"]]["limit"] == "memory"
    assert index_of(found["too_long"]) - index_of(found["longest"]) == 1
    assert found["held_bytes"] == trials[found["longest"]]["held_bytes"] <= MIB
    assert found["held_bytes"] > 0.8 * MIB
    # q, k, v and the output, 32 bytes a token each, are the least that anybody holds.
    assert found["predicted"] == MIB // 128
    assert found["longest"] <= found["predicted"]


def test_a_backward_pass_and_more_heads_leave_less_room(tmp_path: Path):
    records = found_by(tmp_path / "one", "uniform", passes=("fwd", "fwdbwd"))
    lengths = {one["case"]["pass"]: one["frontier"]["longest"] for one in records}
    assert 1024 <= lengths["fwdbwd"] < lengths["fwd"]
    predicted = {one["case"]["pass"]: one["frontier"]["predicted"] for one in records}
    assert predicted == {"fwd": MIB // 128, "fwdbwd": MIB // 256}
    (wide,) = found_by(tmp_path / "two", "uniform", heads=2, kv_heads=1)
    assert wide["frontier"]["predicted"] == stepped(index_of(MIB // 192))


@dataclass(frozen=True, kw_only=True)
class Greedy(Full):
    """Full attention that cannot get the memory for more than 3000 tokens."""

    name: ClassVar = "greedy"
    backends: ClassVar = ("eager",)
    calls: ClassVar[list[int]] = []

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        self.calls.append(q.shape[2])
        if q.shape[2] > 3000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0")
        return v.clone()


@dataclass(frozen=True, kw_only=True)
class Broken(Full):
    name: ClassVar = "broken"
    backends: ClassVar = ("eager",)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        raise RuntimeError("something broke")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    both = MappingProxyType(dict(PATTERNS) | {"greedy": Greedy, "broken": Broken})
    monkeypatch.setattr(registry, "PATTERNS", both)
    monkeypatch.setattr(matrix, "PATTERNS", both)
    monkeypatch.setattr(frontier, "predict", light)
    Greedy.calls.clear()


def light(*_: Any) -> Any:
    """A cost model that says that nothing is held or done."""
    from attnbench.predict import Prediction

    return Prediction(flops=0, bytes=0, peak_bytes=0, least_s=0.0, measuring_s=0.0)


@pytest.mark.usefixtures("fakes")
def test_an_allocation_that_fails_ends_it_too(tmp_path: Path):
    (record,) = found_by(tmp_path, "greedy", memory_bytes=64 * MIB)
    assert (record["frontier"]["longest"], record["frontier"]["too_long"]) == (2944, 3072)
    assert record["frontier"]["limit"] == "memory"
    # q, k, v and a copy of v: four times 32 bytes a token.
    assert record["frontier"]["trials"][0]["held_bytes"] == 1024 * 128
    reasons = [one["reason"] for one in record["frontier"]["trials"] if one["limit"]]
    assert reasons
    assert all("out of memory" in reason for reason in reasons)
    assert max(Greedy.calls) <= 4096


@pytest.mark.usefixtures("fakes")
def test_a_pattern_that_breaks_is_recorded_and_others_go_on(tmp_path: Path):
    broken, other, cut = found_by(
        tmp_path, "broken", "greedy", "local[window=2000]", memory_bytes=4 * MIB
    )
    assert (broken["status"], broken["frontier"]) == ("crashed", None)
    assert "something broke" in broken["reason"]
    assert other["status"] == "ok"
    assert (cut["status"], "window=2000" in cut["reason"]) == ("unsupported", True)
    assert "crashed, RuntimeError" in line_of(broken)


def test_less_memory_than_the_shortest_needs_is_out_of_memory(tmp_path: Path):
    (record,) = found_by(tmp_path, "full", memory_bytes=MIB // 16)
    assert record["status"] == "oom"
    assert record["reason"].startswith("not even 1024 tokens: it needs at least 0.125 MiB of")


def test_what_would_take_too_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held = frontier._held
    ran: list[int] = []
    monkeypatch.setattr(frontier, "_held", lambda one, *rest: ran.append(one.length) or held(
        one, *rest
    ))  # fmt: skip
    slow = frontier.predict
    monkeypatch.setattr(
        frontier, "predict", lambda one, *rest: replace(slow(one, *rest), least_s=one.length / 1e3)
    )
    (record,) = found_by(tmp_path, "uniform", most_seconds=2.0)
    assert record["frontier"]["limit"] == "time"
    assert record["frontier"]["longest"] == 1984
    assert max(ran) == 1984


def test_a_compiler_is_waited_for_once_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held, called = frontier._held, []

    def slow_at_first(one: Any, *rest: Any) -> tuple[int, float]:
        called.append(one.length)
        return held(one, *rest)[0], 20.0 if called.count(one.length) == 1 else 0.1

    monkeypatch.setattr(frontier, "_held", slow_at_first)
    (record,) = found_by(tmp_path, "uniform", length=4096, most_seconds=2.0)
    assert (record["status"], record["frontier"]["longest"]) == ("ok", 4096)
    assert called == [1024, 1024, 2048, 2048, 4096, 4096]


def test_nothing_beyond_the_longest_asked_for_is_tried(tmp_path: Path):
    (record,) = found_by(tmp_path, "uniform", length=2048)
    assert (record["frontier"]["longest"], record["frontier"]["too_long"]) == (2048, None)
    assert record["frontier"]["limit"] == "length"
    assert "the longest looked at" in line_of(record)


# The run folder, the command, the report.


def test_the_same_again_does_nothing_and_more_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found_by(tmp_path, "uniform", length=1024)
    before = (tmp_path / "records.jsonl").read_bytes()
    found_by(tmp_path, "uniform", length=1024)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    both = found_by(tmp_path, "uniform", "local", length=1024)
    assert [one["case"]["asked"] for one in both] == ["uniform", "local"]
    known = read_document(tmp_path, RUN) or {}
    assert [one["patterns"] for one in known["frontiers"]] == [["uniform"], ["uniform", "local"]]
    monkeypatch.setattr("attnbench.frontier_run.version", lambda: "other")
    with pytest.raises(BadInput, match="was measured by code"):
        found_by(tmp_path, "fixed")


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_bench.main(["frontier", "--device", "cpu", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_writes_a_run_whose_report_has_the_table(
    tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
):
    code, out, err = typed(
        "--pattern", "uniform", "--pattern", "full", "--heads", "2/1", "--dim", "8",
        "--memory", "4MiB", "--pass", "fwd,fwdbwd", "--length", "2k",
        "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    assert "4 ok" in out
    assert len([line for line in err.splitlines() if "tokens in 4 MiB" in line]) == 4
    reports.write(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The longest length that fits in 4 MiB" in page
    rows = (tmp_path / "tables" / "frontier.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[0].startswith("pattern,backend,pass,longest that fits,predicted,held there")
    frame = frontier_frame(read(tmp_path))
    assert list(frame["pass"]) == ["fwd", "fwd", "fwdbwd", "fwdbwd"]
    assert (frame.groupby("pass").longest.diff().dropna() <= 0).all()


def test_a_run_without_frontiers_has_no_table(tmp_path: Path):
    assert len(frontier_frame([])) == 0
    record = found_by(tmp_path, "full", memory_bytes=MIB // 16)
    frame = frontier_frame(record)
    assert frame.longest.isna().all()
    assert frame.ends[0].startswith("oom: not even 1024 tokens")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "much"], "--memory expects a size"),
        (
            ["--memory", "900TiB", "--pattern", "uniform", "--length", "1k"],
            "more than this machine",
        ),
        (["--length", "512"], "--length must be at least 1024"),
        (["--seconds", "0"], "--seconds must be more than 0"),
        (["--pass", "sideways"], "unknown pass"),
        (["--pattern", "nonesuch"], "nonesuch"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, arguments: list[str], said: str, typed: Callable[..., tuple[int, str, str]]
):
    code, _, err = typed("--out", str(tmp_path), *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_records_are_json_that_anybody_can_read(tmp_path: Path):
    found_by(tmp_path, "uniform", length=1024)
    (line,) = (tmp_path / "records.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "frontier"
