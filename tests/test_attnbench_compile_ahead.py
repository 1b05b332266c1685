"""What is called before a run: all that may compile something, once, and no failure ends it."""

import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import run_bench
from attnbench import called_before as called_module
from attnbench import compile_ahead as module
from attnbench import engine
from attnbench import first_calls as calls_module
from attnbench.called_before import CalledBefore, called_before
from attnbench.case import AnyCase
from attnbench.compile_ahead import before_a_run, compile_ahead, mixed, worth_it
from attnbench.first_calls import FirstCall, call_once, first_calls
from attnbench.matrix import Matrix, groups_of
from attnbench.outcome import Origin
from attnbench.places import Place
from attnbench.presets import preset
from attnbench.spent import Spent

ROOT = Path(__file__).parents[1]


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
    assert not multiprocessing.active_children()
    assert len(killed) == 1


def test_processes_that_are_well_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[multiprocessing.process.BaseProcess] = set()
    real = multiprocessing.active_children

    def children() -> list[multiprocessing.process.BaseProcess]:
        found = real()
        seen.update(found)
        return found

    monkeypatch.setattr(module.multiprocessing, "active_children", children)
    compile_ahead([call(length=length) for length in (16, 17, 18)], 2, lambda _: None)
    assert [child.exitcode for child in seen] == [0, 0]


def test_calls_in_flight_at_once_are_of_all_lengths() -> None:
    calls = [call(length=length) for length in range(100, 0, -1)]
    order = mixed(calls, 14)
    assert sorted(order, key=calls.index) == calls
    assert max(sum(one.length for one in order[n : n + 13]) for n in range(88)) < 13 * 60
    assert mixed(calls[:3], 14) == calls[:3]


def test_a_process_whose_gpu_is_broken_makes_no_more_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    ended: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(calls_module.os, "_exit", ended.append)
    assert call_once(call()) == ""
    assert not ended
    assert "nothing" in call_once(call(backend="nothing"))
    assert ended == [1]


def test_a_process_that_dies_is_told() -> None:
    said: list[str] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.05):
            for child in multiprocessing.active_children():
                child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert compile_ahead([call()], 1, said.append) == {}
    finally:
        stop.set()
        killer.join()
    assert "died" in said[0]


def test_without_processes_the_run_compiles_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "ProcessPoolExecutor", none)
    said: list[str] = []
    assert compile_ahead([call()], 1, said.append) == {}
    assert "Resource temporarily unavailable" in said[0]
    assert "compiles as it goes" in said[0]


def test_a_call_that_ended_its_process_state_is_one_that_failed() -> None:
    future: Future[str] = Future()
    future.set_exception(RuntimeError("CUDA error: an illegal memory access"))
    assert module._why(future) == "RuntimeError: CUDA error: an illegal memory access"


@pytest.mark.parametrize(("hang_s", "most_s"), [(0.02, 60.0), (60.0, 0.02), (60.0, -1.0)])
def test_calls_that_do_not_end_are_not_waited_for(hang_s: float, most_s: float) -> None:
    ended: Future[str] = Future()
    ended.set_result("")
    began = time.monotonic()
    waiting = module._ended([ended, Future()], hang_s, began + most_s)
    assert next(waiting) is ended
    with pytest.raises(TimeoutError):
        next(waiting)
    assert time.monotonic() - began < 10


def test_calls_that_go_on_ending_are_not_waited_for_for_ever() -> None:
    futures = [Future() for _ in range(3)]  # type: ignore[var-annotated]
    futures[0].set_result("")
    waiting = module._ended(futures, 60.0, time.monotonic() - 1)
    next(waiting)
    futures[1].set_result("")
    with pytest.raises(TimeoutError):
        next(waiting)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children are left to themselves")
def test_a_parent_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, sys, threading, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from attnbench.compile_ahead import compile_ahead\n"
        "from attnbench.first_calls import FirstCall\n"
        "def tell():\n"
        "    while not multiprocessing.active_children():\n"
        "        time.sleep(0.02)\n"
        "    time.sleep(3)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        "    shape = dict(batch=1, heads=1, kv_heads=1, dim=8, dtype='float32', device='cpu')\n"
        "    shape |= dict(pattern='local[window=4]', backend='sdpa', backward=True)\n"
        "    calls = [FirstCall(length=n, **shape) for n in range(16, 20000)]\n"
        "    compile_ahead(calls, 1, print)\n",
        encoding="utf-8",
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.05)


def listed(folder: Path, code: str = "code", machine: str = "machine") -> CalledBefore:
    return CalledBefore(folder / "triton", folder / "inductor", code, machine)


def test_a_list_remembers_calls_of_the_same_code_on_such_a_machine(tmp_path: Path) -> None:
    listed(tmp_path).add(call())
    assert call() in listed(tmp_path)
    assert call(length=17) not in listed(tmp_path)
    assert call() not in listed(tmp_path, code="other")
    assert call() not in listed(tmp_path, machine="other")


def test_a_list_that_cannot_be_read_or_written_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "triton").write_bytes(b"\xff\xfe")
    (tmp_path / "folders" / "triton").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "folders", tmp_path / "no" / "folder"):
        found = listed(folder)
        found.add(call())
        assert call() in found


def test_a_second_run_calls_nothing_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calls_module, "COMPILED", ("sdpa",))
    shape = {"heads": 1, "kv_heads": 1, "dim": 8, "dtype": "float32", "device": "cpu"}
    part = Matrix(patterns=("local[window=4]",), lengths=(8, 16), **shape)  # type: ignore[arg-type]
    part = replace(part, backends=("sdpa",), baselines=False, passes=("fwd",), sources=())
    cases = [case for group in groups_of([part]) for case in group.cases]

    monkeypatch.setattr(module, "called_before", lambda _, *key: listed(tmp_path, *key))
    room = {"places": [{}], "gpu_bytes": 64 << 30, "code": "code", "machine": "machine"}

    def go(processes: int | None) -> str:
        limits = {"hang_s": 60.0, "most_s": 60.0}
        assert before_a_run(cases, processes, **room, **limits) >= 0  # type: ignore[arg-type]
        return capsys.readouterr().err

    assert go(None) == ""  # so few are made sooner than processes are started
    first = go(1)
    assert "implementations are called for the first time: 1 processes" in first
    assert "failed" not in first
    assert go(1) == ""
    monkeypatch.setattr(module, "called_before", lambda *_: None)
    assert go(None) == ""
    assert go(1) == "nothing is compiled ahead: there is no Triton, or no cache for it\n"


def test_flex_attention_is_remembered_in_the_cache_of_torch_compile(tmp_path: Path) -> None:
    listed(tmp_path).add(call(backend="flex"))
    assert (tmp_path / "inductor").exists()
    assert not (tmp_path / "triton").exists()
    assert call(backend="flex") in listed(tmp_path)


def test_the_lists_lie_in_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    found = called_before([call(), call(backend="flex")], "code", "machine")
    assert found is not None
    assert found._inductor is not None
    assert found._triton.parent.name == "cache"
    assert "inductor" in found._inductor.parent.name

    monkeypatch.setattr(called_module, "_inductor_cache", lambda: pytest.fail("takes seconds"))
    found = called_before([call(backend="triton")], "code", "machine")
    assert found is not None
    assert found._inductor is None


def test_what_failed_ahead_is_not_tried_ahead_again(tmp_path: Path) -> None:
    wrong = call(backend="nothing")
    assert list(compile_ahead([wrong], 1, print, before=listed(tmp_path))) == [wrong]
    assert wrong in listed(tmp_path)


def test_compiling_ahead_takes_from_the_time_of_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def before(cases: list[AnyCase], processes: int | None, **more: object) -> float:
        asked.update(more, cases=cases, processes=processes)
        return 7.0

    monkeypatch.setattr(engine, "before_a_run", before)
    plan = preset("quick", "cuda")
    groups = groups_of(plan.parts)[:2]
    left = [(group, list(group.cases)) for group in groups]
    spent = [Spent(), Spent()]
    places = [Place(environment={"CUDA_VISIBLE_DEVICES": str(n)}) for n in (2, 5)]
    origin = Origin(version="abc+def+dirty", machine="m")
    told = ({"gpu_memory_bytes": 9}, plan, 60.0)
    assert engine._compiled(left, None, places, spent, origin, *told) == 14.0
    assert asked["places"] == [place.environment for place in places]
    assert asked["code"] == "abc"  # a commit of documents compiles nothing anew
    assert asked["most_s"] == plan.budget_s / 4
    assert len(asked["cases"]) == sum(len(group.cases) for group in groups)  # type: ignore[arg-type]
    assert all("compile" in one.seconds for one in spent)
    assert engine._compiled(left, 0, places, spent, origin, *told) == 0.0


def test_plugins_are_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = cases_of("quick")
    known = type(calls_module.PATTERNS["axial"])("Mine", (calls_module.PATTERNS["axial"],), {})
    monkeypatch.setattr(calls_module, "PATTERNS", {**calls_module.PATTERNS, "axial": known})
    assert any(case.asked == "axial" for case in cases)
    assert not any(one.pattern.startswith("axial[") for one in first_calls(cases))


def test_so_many_processes_as_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cores, memory = set(range(16)), SimpleNamespace(available=1 << 40)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    assert worth_it(7, 100) == 0
    assert worth_it(8, 100) == 4
    assert worth_it(400, 19) == 14
    assert worth_it(400, 3) == 3
    assert worth_it(400, 1) == 0
    memory.available = 20 << 30
    assert worth_it(400, 100) == 6
    cores.clear()
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
