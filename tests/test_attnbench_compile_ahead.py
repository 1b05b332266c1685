"""What is called before a run: all that may compile something, once, and no failure ends it."""

import multiprocessing
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

import run_bench
from attnbench import compile_ahead as module
from attnbench.called_before import CalledBefore
from attnbench.case import AnyCase
from attnbench.compile_ahead import (
    FirstCall,
    before_a_run,
    call_once,
    compile_ahead,
    first_calls,
    worth_it,
)
from attnbench.matrix import Matrix, groups_of
from attnbench.presets import preset


def call(**changes: object) -> FirstCall:
    known = {
        "pattern": "local[window=4]", "backend": "sdpa", "batch": 1, "heads": 2, "kv_heads": 1,
        "length": 16, "dim": 8, "dtype": "float32", "device": "cpu", "backward": True,
    }  # fmt: skip
    return FirstCall(**{**known, **changes})  # type: ignore[arg-type]


def cases_of(name: str) -> list[AnyCase]:
    return [case for group in groups_of(preset(name, "cuda").parts) for case in group.cases]


def test_every_kernel_of_a_plan_is_called_once_and_dense_rows_are_not() -> None:
    cases = cases_of("kernels")
    calls = first_calls(cases)
    assert len(calls) == len(set(calls))
    names = {one.pattern.partition("[")[0] for one in calls}
    assert {"combiner-fixed", "combiner-mixture", "logsparse", "axial"} <= names
    assert "full" not in names
    asked = {(c.pattern, c.length, c.dim) for c in cases if c.asked != "full"}
    assert {(one.pattern, one.length, one.dim) for one in calls} == asked
    assert calls[0].length == max(one.length for one in calls)


def test_what_is_judged_is_called_with_gradients() -> None:
    calls = first_calls(cases_of("full"))
    judged = [one for one in calls if (one.heads, one.kv_heads) == (3, 1)]
    assert judged
    assert all(one.backward for one in judged)


@pytest.mark.parametrize("backward", [True, False])
def test_a_call_is_made(backward: bool) -> None:
    assert call_once(call(backward=backward)) == ""
    assert "no backend 'nothing'" in call_once(call(backend="nothing", backward=backward))


def test_processes_share_the_calls_and_failures_are_told() -> None:
    said: list[str] = []
    wrong = call(backend="nothing")
    failed = compile_ahead([call(), call(length=24), wrong], 2, said.append)
    assert list(failed) == [wrong]
    assert "called 3 implementations once in 2 processes" in said[-1]
    assert "1 failed" in said[-1]


def test_what_takes_too_long_is_left_to_the_run_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    killed: list[object] = []
    kill = SpawnProcess.kill
    monkeypatch.setattr(SpawnProcess, "kill", lambda child: (killed.append(child), kill(child)))
    assert compile_ahead([call()], 1, said.append, most_s=0.01) == {}
    assert said[0].startswith("compiling ahead takes too long")
    assert "called 0 implementations" in said[1]
    for child in multiprocessing.active_children():
        child.join(20)
    assert not multiprocessing.active_children()
    assert len(killed) == 1


def test_a_process_that_dies_is_told() -> None:
    said: list[str] = []
    assert compile_ahead([call()], 1, said.append, gpus=()) == {}  # no GPU to take: it ends
    assert "died" in said[0]


def test_a_list_remembers_calls_of_the_same_code_on_such_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "called"
    CalledBefore(path, "code", "machine").add(call())
    again = CalledBefore(path, "code", "machine")
    assert call() in again
    assert call(length=17) not in again
    assert call() not in CalledBefore(path, "other", "machine")
    assert call() not in CalledBefore(path, "code", "other")


def test_a_list_that_cannot_be_read_or_written_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "binary", tmp_path, tmp_path / "no" / "folder"):
        found = CalledBefore(path, "code", "machine")
        found.add(call())
        assert call() in found


def test_a_second_run_calls_nothing_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_COMPILED", ("sdpa",))
    shape = {"heads": 1, "kv_heads": 1, "dim": 8, "dtype": "float32", "device": "cpu"}
    part = Matrix(patterns=("local[window=4]",), lengths=(8, 16), **shape)  # type: ignore[arg-type]
    part = replace(part, backends=("sdpa",), baselines=False, passes=("fwd",), sources=())
    cases = [case for group in groups_of([part]) for case in group.cases]

    def go(processes: int | None) -> str:
        before = CalledBefore(tmp_path / "called", "code", "machine")
        room = {"gpus": (None,), "gpu_bytes": 64 << 30}
        assert before_a_run(cases, processes, before=before, most_s=60, **room) >= 0  # type: ignore[arg-type]
        return capsys.readouterr().err

    assert go(None) == ""  # so few are made sooner than processes are started
    first = go(1)
    assert "implementations are called for the first time: 1 processes" in first
    assert "failed" not in first
    assert go(1) == ""


def test_plugins_are_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = cases_of("quick")
    known = type(module.PATTERNS["axial"])("Mine", (module.PATTERNS["axial"],), {})
    monkeypatch.setattr(module, "PATTERNS", {**module.PATTERNS, "axial": known})
    assert any(case.asked == "axial" for case in cases)
    assert not any(one.pattern.startswith("axial[") for one in first_calls(cases))


def test_so_many_processes_as_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.psutil, "cpu_count", lambda: 16)
    assert worth_it(7, 100) == 0
    assert worth_it(8, 100) == 4
    assert worth_it(400, 19) == 14
    assert worth_it(400, 3) == 3
    assert worth_it(400, 1) == 0
    monkeypatch.setattr(module.psutil, "cpu_count", lambda: 2)
    assert worth_it(400, 100) == 0


def test_on_a_cpu_there_is_nothing_to_compile(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--device", "cpu", "--compile-ahead", "2", "--length", "32"]
    assert run_bench.main([*arguments, "--pattern", "local"]) == 2
    assert "--device cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--compile-ahead", "-1", "--device", "cpu"], "--compile-ahead"),
        (["--compile-ahead", "two", "--device", "cpu"], "--compile-ahead"),
        (["--compile-ahead", "2", "--scheduler", "tcp://127.0.0.1:1"], "this machine"),
    ],
)
def test_what_makes_no_sense_is_refused(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench.main(["run", "--pattern", "local", *options]) == 2
    assert why in capsys.readouterr().err
