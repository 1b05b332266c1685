"""Faults, planted: whatever a pattern does, the run goes on and the record says what happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from attnbench.records import read

ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).parent / "faulty.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = ("--heads", "1", "--dim", "8", "--device", "cpu", "--engine", "local")


def command(run: Path, *typed: str) -> list[str]:
    return [sys.executable, "run_bench.py", "run", *TINY, *typed, "--out", str(run)]


def bench(run: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run, *typed),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


ALL_FAULTS = """
import sys
from pathlib import Path
from attnbench import engine, plugins
from attnbench.matrix import Matrix
from attnbench.measure_cost import Protocol
from attnbench.places import Place
from attnbench.presets import Plan

run, plugin, *names = sys.argv[1:]
plugins.load([Path(plugin)])
part = Matrix(
    patterns=tuple(names), lengths=(32,), sources=("gaussian",), heads=1, kv_heads=1, dim=8,
    dtype="float32", device="cpu",
)
sys.exit(engine.run(
    Plan(preset="test", parts=(part,), budget_s=300), Path(run), protocol=Protocol(bound=1.0),
    places=[Place(threads=1)], timeout_s=4, plugins=[Path(plugin)],
).exit_code)
"""

FAULTS = ("nan", "hungry", "hangs", "exits", "segfaults", "dies-late", "writes", "peeks")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Groups with all of them in it, among those that are well."""
    run = tmp_path_factory.mktemp("faulty") / "run"
    done = subprocess.run(
        [sys.executable, "-c", ALL_FAULTS, str(run), str(PLUGIN), *FAULTS, "local"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return read(run)


@pytest.fixture(scope="module")
def faulty(records: list[dict]) -> dict[str, dict]:
    """The cost cases, by the name of the pattern."""
    found = [one for one in records if one["kind"] == "cost"]
    return {one["case"]["asked"]: one for one in found if one["case"]["backend"] == "auto"} | {
        "full": next(one for one in found if one["case"]["backend"] == "sdpa")
    }


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("nan", "wrong", "NaN or Inf"),
        ("hungry", "oom", "can't allocate memory"),
        (
            "hangs",
            "timeout",
            "its process said nothing for 4 s while it was called for the first time",
        ),
        (
            "exits",
            "crashed",
            "its process ended with exit code 7 while it was called for the first time",
        ),
        (
            "segfaults",
            "crashed",
            "its process died of SIGSEGV while it was called for the first time",
        ),
        ("dies-late", "crashed", "its process died of SIGABRT while it was timed"),
        ("writes", "wrong", "the call changed its input v"),
        ("peeks", "wrong", "another future changes the output up to token 16"),
    ],
)
def test_a_fault_is_recorded_as_what_it_is(faulty: dict, name: str, status: str, said: str):
    found = faulty[name]
    assert (found["status"], said in found["reason"]) == (status, True), found["reason"]
    assert found["time"] is None
    assert found["memory"] is None


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("nan", "wrong"),
        ("hungry", "oom"),
        ("hangs", "timeout"),
        ("exits", "crashed"),
        ("segfaults", "crashed"),
        ("writes", "wrong"),
        ("local", "ok"),
    ],
)
def test_fidelity_cases_fail_the_same_way(records: list[dict], name: str, status: str):
    (found,) = (x for x in records if x["kind"] == "fidelity" and x["case"]["asked"] == name)
    assert found["status"] == status, found["reason"]
    assert (found["fidelity"] is None) == (status != "ok")


@pytest.mark.parametrize("name", ["local", "full"])
def test_those_that_are_well_are_measured_beside_them(faulty: dict, name: str):
    assert faulty[name]["status"] == "ok"
    assert faulty[name]["time"]["ratio_to_dense"]["dense"] == "full@sdpa"
    assert faulty[name]["guards"]["check"]["ok"]


@pytest.mark.parametrize(
    ("name", "guard"), [("nan", "finite"), ("writes", "inputs"), ("peeks", "causality")]
)
def test_the_guard_that_fired_is_named(faulty: dict, name: str, guard: str):
    assert list(faulty[name]["guards"]["fired"]) == [guard]


@pytest.mark.parametrize(
    ("name", "how", "printed"),
    [
        ("hangs", "said nothing for 4 s", 'File "faulty.py", line'),
        ("exits", "ended with exit code 7", "I am off"),
        ("segfaults", "died of SIGSEGV", "Segmentation fault"),
    ],
)
def test_what_a_process_printed_at_its_end_is_kept(faulty: dict, name: str, how: str, printed: str):
    process = faulty[name]["guards"]["process"]
    assert process["how"] == how
    assert printed in process["output"]
    assert str(ROOT) not in process["output"]
    assert faulty[name]["implementation"] == {"backend": "eager", "kind": "native"}


KILLED = """
import collections, os, random, signal, sys, time
from pathlib import Path
import torch
from attnbench import engine
from attnbench.matrix import Matrix
from attnbench.presets import Plan
from attnbench.version import version

run = Path(sys.argv[1])
part = Matrix(
    patterns=("local", "uniform"), lengths=tuple(range(16, 36)), sources=("needle",), heads=1,
    kv_heads=1, dim=8, dtype="float32", device="cpu", baselines=False,
)
torch.set_num_threads(1)
version()  # once for all, it asks git
plan, chance, kills, before = (
    Plan(preset="test", parts=(part,), budget_s=1.0), random.Random(0), 0, b""
)
while True:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        engine.run(plan, run)
        os._exit(0)
    time.sleep(chance.uniform(0.02, 0.2) if kills < 20 else 0)
    if kills < 20:
        os.kill(pid, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    path = run / "records.jsonl"
    now = path.read_bytes() if path.exists() else b""
    whole = before[: before.rfind(b"\\n") + 1]
    assert now.startswith(whole), "a finished case was lost"
    before, kills = now, kills + (ended == -signal.SIGKILL)
    if ended != -signal.SIGKILL:
        assert ended == 0, ended
        break
print(kills)
"""


def counted(run: Path) -> Counter[str]:
    """How many lines each case has."""
    lines = (run / "records.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["case_key"] for line in lines)


def test_twenty_kills_at_random_moments_lose_nothing_and_repeat_nothing(tmp_path: Path):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5  # the run was over before the others
    found = counted(run)
    assert len(found) == 2 * 20 * 2
    assert set(found.values()) == {1}
    assert {one["status"] for one in read(run)} <= {"ok", "skipped"}


def started(run: Path, *typed: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(run, *typed), cwd=ROOT, env=ENVIRONMENT, **pipes)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [one for one in below if "attnbench.child" in one.cmdline()]


def gone(process: psutil.Process, within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_runs_our_code_also_where_the_current_folder_has_another_copy(tmp_path: Path):
    (tmp_path / "attnbench").mkdir()
    (tmp_path / "attnbench" / "__init__.py").write_text("raise SystemExit('another checkout')\n")
    typed = ["--length", "16", "--pattern", "uniform", "--no-baselines", "--budget", "0.05"]
    made = command(tmp_path / "run", *typed, "--source", "needle", "--plugin", str(PLUGIN))
    made[1] = str(ROOT / made[1])
    done = subprocess.run(
        made,
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "2 ok" in done.stdout


MANY = ("--pattern", "uniform", "--length", ",".join(map(str, range(16, 40))), "--no-baselines")


def test_workers_die_with_a_parent_that_is_killed_and_the_run_goes_on(tmp_path: Path):
    run = tmp_path / "run"
    typed = (*MANY, "--source", "needle", "--workers", "2", "--budget", "0.1")
    first = started(run, *typed)
    while not first.stderr.readline().startswith("needle-"):
        pass
    workers = workers_of(first)
    first.kill()
    first.communicate()
    assert len(workers) == 2
    assert all(gone(worker) for worker in workers)
    before = set(counted(run))
    assert 1 <= len(before) < 48
    done = bench(run, *typed)
    assert done.returncode == 0, done.stderr
    assert f"process {first.pid} died while it wrote" in done.stderr
    found = counted(run)
    assert before < set(found)
    assert len(found) == 48
    assert set(found.values()) == {1}


def test_a_further_launch_dies_with_a_parent_that_is_killed(tmp_path: Path):
    run = tmp_path / "run"
    typed = ("--pattern", "uniform", "--length", "16", "--no-baselines", "--launches", "2")
    first = started(run, *typed, "--engine", "inline", "--source", "needle", "--budget", "0.05")
    while "launch 2 of 2" not in first.stderr.readline():
        pass
    while not (children := psutil.Process(first.pid).children()):  # it is told before it begins
        assert first.poll() is None
        time.sleep(0.01)
    (launch,) = children
    while not (run / "launches" / "2" / ".lock").exists():  # it is past its start by then
        assert launch.is_running()
        time.sleep(0.01)
    first.kill()
    assert gone(launch)
    first.communicate()


def test_ctrl_c_ends_after_the_group_in_flight(tmp_path: Path):
    run = tmp_path / "run"
    first = started(run, *MANY, "--source", "needle", "--pass", "fwd")
    while not first.stderr.readline().startswith("needle-"):
        pass
    (worker,) = workers_of(first)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "stopping after the group in flight" in err
    assert "goes on" in out
    assert gone(worker)
    assert 1 <= len(counted(run)) < 48
    assert {one["status"] for one in read(run)} == {"ok"}


def test_ctrl_c_twice_ends_at_once_even_where_a_pattern_hangs(tmp_path: Path):
    run = tmp_path / "run"
    typed = ("--plugin", str(PLUGIN), "--pattern", "uniform", "--pattern", "hangs")
    first = started(run, *typed, "--length", "16", "--no-baselines", "--source", "needle")
    while not first.stderr.readline().startswith("needle-"):
        pass
    (worker,) = workers_of(first)
    first.send_signal(signal.SIGINT)
    assert "stopping after" in first.stderr.readline()
    began = time.monotonic()
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert first.returncode == 130
    assert "stopped at once" in err
    assert "Traceback" not in err
    assert gone(worker)
    assert list(counted(run).values()) == [1]
