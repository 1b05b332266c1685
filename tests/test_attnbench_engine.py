"""The engine: each case ends in one record, a run goes on where it stopped, and stops if asked."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from attnbench import contender, engine, matrix, measure_cost, outcome
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
from attnbench.presets import Plan
from attnbench.records import read, read_document
from attnbench.timing import Call
from patterns import PATTERNS, BadInput, Unsupported, registry
from patterns.full import Full


class Instant:
    """A watch that calls, and says that it took a millisecond."""

    def __init__(self, *_: object, **__: object) -> None:
        self.time = 0.0

    def now(self) -> float:
        self.time += 1e-3
        return self.time

    def cold(self, name: str, call: Call) -> float:
        call(0)
        self.time += 0.1
        return 1.0

    def wall(self, call: Call) -> float | None:
        return 2.0

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        return lambda: 0.5

    def clocks(self) -> None:
        return None

    def notes(self, name: str) -> dict[str, str]:
        return {}


class Spoilt(Full):
    """Full attention with something wrong."""

    backends: ClassVar = ("eager",)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return self.spoil(super()._run(q, k, v, scale, "eager"))


@dataclass(frozen=True, kw_only=True)
class Wrong(Spoilt):
    name: ClassVar = "wrong"

    def spoil(self, out: Tensor) -> Tensor:
        return out + 1


@dataclass(frozen=True, kw_only=True)
class Nan(Spoilt):
    name: ClassVar = "nan"

    def spoil(self, out: Tensor) -> Tensor:
        return out * torch.nan


@dataclass(frozen=True, kw_only=True)
class Hungry(Spoilt):
    name: ClassVar = "hungry"

    def spoil(self, out: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has 1")


@dataclass(frozen=True, kw_only=True)
class Huge(Spoilt):
    name: ClassVar = "huge"

    def spoil(self, out: Tensor) -> Tensor:
        return out.expand(1 << 45, *out.shape).clone()


@dataclass(frozen=True, kw_only=True)
class Crashing(Spoilt):
    name: ClassVar = "crashing"

    def spoil(self, out: Tensor) -> Tensor:
        raise RuntimeError("something broke " + "x" * 1000)


@dataclass(frozen=True, kw_only=True)
class Refusing(Spoilt):
    name: ClassVar = "refusing"

    def spoil(self, out: Tensor) -> Tensor:
        raise Unsupported("the length 64 is odd enough; use 65")


@dataclass(frozen=True, kw_only=True)
class Late(Spoilt):
    """Well until it is timed."""

    name: ClassVar = "late"
    calls: ClassVar[list[int]] = []

    def spoil(self, out: Tensor) -> Tensor:
        self.calls.append(1)
        if len(self.calls) > 8:
            raise RuntimeError("worn out")
        return out


FAKES = {cls.name: cls for cls in (Wrong, Nan, Hungry, Huge, Crashing, Refusing, Late)}
TINY = Matrix(
    patterns=("local",),
    lengths=(64,),
    heads=2,
    kv_heads=2,
    dim=8,
    dtype="float32",
    device="cpu",
    baselines=False,
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    both = MappingProxyType(dict(PATTERNS) | FAKES)
    monkeypatch.setattr(registry, "PATTERNS", both)
    monkeypatch.setattr(matrix, "PATTERNS", both)
    Late.calls.clear()


def go(run: Path, *parts: Matrix, budget_s: float = 60.0, **options) -> engine.Result:
    plan = Plan(preset="test", parts=parts or (TINY,), budget_s=budget_s)
    return engine.run(plan, run, protocol=Protocol(make_watch=Instant), **options)


def of(*patterns: str, **changes) -> Matrix:
    return dataclasses.replace(TINY, patterns=patterns, **changes)


def only(run: Path) -> dict:
    (found,) = read(run)
    return found


def test_a_case_that_goes_well_has_times_memory_and_cost(tmp_path: Path):
    assert go(tmp_path).exit_code == 0
    found = only(tmp_path)
    assert (found["status"], found["reason"], found["role"]) == ("ok", None, "asked")
    assert found["time"]["cold_ms"]["median"] == 1.0
    assert found["time"]["eager_wall_ms"]["median"] == 2.0
    assert found["time"]["graph_ms"]["median"] == 0.5
    assert found["time"]["ratio_to_dense"] is None
    assert found["memory"]["peak_bytes"] > 0
    assert found["cost"]["keys_per_query"] == pytest.approx(7.5625)
    assert found["guards"]["check"]["ok"]
    assert found["implementation"] == {"backend": "sdpa", "kind": "native"}


def test_what_a_run_is_stands_beside_its_records(tmp_path: Path):
    go(tmp_path, command=["run", "--pattern", "local"])
    document = read_document(tmp_path, "run.json")
    assert document["command"] == ["run", "--pattern", "local"]
    assert document["matrix"][0]["patterns"] == ["local"]
    assert document["seeds"] == {"inputs": [0], "order": 0}
    machines = read_document(tmp_path, "machine.json")
    assert list(machines) == [document["machine"]] == [only(tmp_path)["machine"]]
    assert document["version"] == only(tmp_path)["version"]


@pytest.mark.parametrize("one_pass", ["fwd", "bwd", "fwdbwd"])
def test_each_pass_is_measured(tmp_path: Path, one_pass: str):
    go(tmp_path, of("local", passes=(one_pass,)))
    found = only(tmp_path)
    assert found["status"] == "ok"
    assert ("dq" in found["guards"]["check"]) == (one_pass != "fwd")
    assert (found["memory"]["saved_bytes"] is None) == (one_pass == "fwd")


@pytest.mark.parametrize(
    ("name", "status", "said", "code"),
    [
        ("wrong", "wrong", "from the definition at the worst place", 1),
        ("nan", "wrong", "NaN or Inf", 1),
        ("hungry", "oom", "Tried to allocate 8.00 GiB", 0),
        ("huge", "oom", "predicted", 0),
        ("crashing", "crashed", "RuntimeError: something broke x", 1),
        ("refusing", "unsupported", "use 65", 0),
        ("late", "crashed", "worn out", 1),
    ],
)
def test_a_case_that_fails_has_a_reason_and_no_time(
    tmp_path: Path, name: str, status: str, said: str, code: int
):
    result = go(tmp_path, of(name, "local"))
    assert result.exit_code == code
    failed, well = sorted(read(tmp_path), key=lambda one: one["case"]["asked"] == "local")
    assert failed["status"] == status
    assert said in failed["reason"]
    assert len(failed["reason"]) <= 300
    assert failed["time"] is failed["memory"] is None
    assert failed["cost"]["flops"] > 0
    assert well["status"] == "ok"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "oom"),
        (RuntimeError("No available kernel. Aborting execution."), "unsupported"),
        (KeyError("x"), "crashed"),
    ],
)
def test_an_exception_has_a_status_and_a_reason(error: Exception, status: str):
    ended = outcome.ending(error)
    assert ended.status == status
    assert ended.reason


def test_a_backend_that_a_pattern_lacks_is_unsupported(tmp_path: Path):
    go(tmp_path, of("uniform", "local", backends=("sdpa",)))
    statuses = {one["case"]["asked"]: one["status"] for one in read(tmp_path)}
    assert statuses == {"uniform": "unsupported", "local": "ok"}


def test_a_parameter_longer_than_one_length_is_unsupported_there(tmp_path: Path):
    assert go(tmp_path, of("local[window=64]", lengths=(32, 64))).exit_code == 0
    short, long = read(tmp_path)
    assert short["status"] == "unsupported"
    assert short["reason"] == "window=64 is longer than the length 32"
    assert long["status"] == "ok"


def test_what_needs_more_memory_than_there_is_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("attnbench.predict.free_bytes", lambda device: 100)
    go(tmp_path)
    assert only(tmp_path)["status"] == "skipped"
    assert "are free" in only(tmp_path)["reason"]


def test_dense_rows_are_marked_as_comparisons_and_ratios_are_against_the_fastest(tmp_path: Path):
    go(tmp_path, of("local", baselines=True))
    found = {(one["case"]["asked"], one["role"]): one for one in read(tmp_path)}
    assert {("local", "asked"), ("full", "comparison")} <= found.keys()
    ratio = found["local", "asked"]["time"]["ratio_to_dense"]
    assert ratio == {"median": 1.0, "interval": [1.0, 1.0], "dense": "full@sdpa"}


def test_equal_code_on_equal_inputs_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sized = []
    size = contender.size
    monkeypatch.setattr(
        measure_cost, "size", lambda case, *rest: sized.append(case.asked) or size(case, *rest)
    )
    go(tmp_path, of("local", "local[window=8]", backends=("auto", "sdpa")))
    assert len(read(tmp_path)) == 4
    assert sized == ["local"]


def test_the_second_run_does_nothing(tmp_path: Path):
    go(tmp_path, of("local", "uniform"))
    before = (tmp_path / "records.jsonl").read_bytes()

    def never(*_: object) -> Iterator[dict]:
        raise AssertionError("measured again")

    assert go(tmp_path, of("local", "uniform"), measure=never).exit_code == 0
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_what_is_missing_is_done_with_the_dense_rows_beside_it(tmp_path: Path):
    go(tmp_path, of("local", baselines=True))
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"asked":"local"' not in line]
    (tmp_path / "records.jsonl").write_text("".join(kept))
    go(tmp_path, of("local", baselines=True))
    again = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(again) == len(kept) + 1
    assert read(tmp_path)[-1]["time"]["ratio_to_dense"]["dense"] == "full@sdpa"


def test_failed_cases_are_done_again_only_when_asked(tmp_path: Path):
    go(tmp_path, of("crashing", "local"))
    go(tmp_path, of("crashing", "local"))
    written = tmp_path / "records.jsonl"
    assert len(written.read_text().splitlines()) == 2
    go(tmp_path, of("crashing", "local"), retry=["crashed"])
    assert len(written.read_text().splitlines()) == 3


def test_another_matrix_is_refused_unless_it_extends(tmp_path: Path):
    go(tmp_path)
    with pytest.raises(BadInput, match="--extend"):
        go(tmp_path, of("uniform"))
    go(tmp_path, of("uniform"), extend=True)
    assert len(read(tmp_path)) == 2
    assert len(read_document(tmp_path, "run.json")["matrix"]) == 2
    go(tmp_path)  # the old one is still part of it


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("version", lambda: "000000000000+abc", "was measured by code"),
        ("machine_id", lambda facts: "other", "was measured on"),
    ],
)
def test_another_version_or_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Callable, said: str
):
    go(tmp_path)
    monkeypatch.setattr(engine, name, value)
    with pytest.raises(BadInput, match=said) as caught:
        go(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_asked_for_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no pass and no source"):
        go(tmp_path, of("local", passes=()))
    assert not (tmp_path / "records.jsonl").exists()


def test_what_the_budget_leaves_no_time_for_is_skipped(tmp_path: Path):
    result = go(tmp_path, of("local", lengths=(32, 64)), budget_s=0.0)
    assert result.statuses == {"skipped": 2}
    assert all("--budget" in one["reason"] for one in read(tmp_path))
    assert result.exit_code == 0


def test_a_call_that_is_too_slow_for_its_group_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(contender, "_seconds", lambda call, device: 10.0)
    go(tmp_path, budget_s=5.0)
    assert only(tmp_path)["status"] == "skipped"
    assert "calls of 10 s do not fit" in only(tmp_path)["reason"]


def test_fidelity_cases_are_measured_layer_by_layer(tmp_path: Path):
    part = of("local", "uniform", passes=(), sources=("captured",), map_bins=8)
    go(tmp_path, dataclasses.replace(part, lengths=(32,)))
    found = read(tmp_path)
    assert {one["case"]["layer"] for one in found} == {"0", "5", "15", "20", "29"}
    assert {one["status"] for one in found} == {"ok"}
    assert all(one["fidelity"]["output_error"]["mean"] > 0 for one in found)
    maps = {path.stem for path in (tmp_path / "maps").iterdir()}
    assert maps == {one["case_key"] for one in found if one["case"]["layer"] == "15"}


def test_a_fidelity_case_that_fails_has_a_reason(tmp_path: Path):
    part = of("crashing", "wrong", "uniform", passes=(), sources=("needle",), lengths=(32,))
    assert go(tmp_path, part).exit_code == 1
    statuses = {one["case"]["asked"]: one["status"] for one in read(tmp_path)}
    assert statuses == {"crashing": "crashed", "wrong": "wrong", "uniform": "ok"}


def test_stopping_lets_the_group_in_flight_finish(tmp_path: Path):
    def stops(group, todo, budget_s) -> Iterator[dict]:
        signal.raise_signal(signal.SIGINT)
        origin = outcome.Origin(version="v", machine="m")
        for case in todo:
            yield outcome.record(case, origin, role="asked", ended=outcome.Ended("oom", "full"))

    result = go(tmp_path, of("local", "uniform", lengths=(32, 64)), measure=stops)
    assert (result.stopped, result.exit_code) == (True, 130)
    assert [one["case"]["length"] for one in read(tmp_path)] == [32, 32]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stopping_twice_stops_at_once(tmp_path: Path):
    def stops(group, todo, budget_s) -> Iterator[dict]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield {}

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, measure=stops)
    assert read(tmp_path) == []
    go(tmp_path)
    assert len(read(tmp_path)) == 1


def test_a_lost_gpu_ends_the_run_after_its_case_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lost(_: object) -> None:
        raise outcome.DeviceLost("the GPU's context is lost")

    monkeypatch.setattr(measure_cost, "confirm_device", lost)
    with pytest.raises(outcome.DeviceLost):
        go(tmp_path, of("crashing", "local"))
    assert only(tmp_path)["status"] == "crashed"
