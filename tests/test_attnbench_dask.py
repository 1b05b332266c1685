"""A cluster measures as the places of this machine do, and a worker that is lost loses nothing."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("distributed")

from attnbench import dask_cluster, engine
from attnbench.case import CostCase, Group, case_key
from attnbench.dask_cluster import Cluster, Scheduler, expect_usable, usable
from attnbench.dask_place import Link, Seat, WorkerLost
from attnbench.dask_worker import Report
from attnbench.machine import machine_id
from attnbench.matrix import Matrix, groups_of
from attnbench.measure_cost import Protocol
from attnbench.outcome import Origin, record
from attnbench.presets import Plan
from attnbench.records import read, read_document
from attnbench.steps import Step
from attnbench.turns import PlaceLost
from patterns import BadInput

ROOT = Path(__file__).parents[1]
FAULTY = Path(__file__).parent / "faulty.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

LAST = '''
"""Patterns that end the Dask worker that they are measured by."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from patterns.full import Full

MARK = Path(__file__).with_suffix(".mark")


@dataclass(frozen=True, kw_only=True)
class Once(Full):
    name: ClassVar = "once"
    backends: ClassVar = ("eager",)

    def _run(self, q, k, v, scale, backend):
        if not MARK.exists():
            MARK.write_text("seen")
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return super()._run(q, k, v, scale, "eager")
'''

RUN = """
import sys
from pathlib import Path
from attnbench import engine, plugins
from attnbench.dask_cluster import Scheduler
from attnbench.measure_cost import Protocol
from attnbench.presets import Plan
from test_attnbench_dask import PART

address, run, *files = sys.argv[1:]
paths = [Path(file) for file in files]
plugins.load(paths)
sys.exit(engine.run(
    Plan(preset="test", parts=(PART,), budget_s=600), Path(run), protocol=Protocol(bound=1.0),
    scheduler=Scheduler(address=address, workers=2), plugins=paths,
).exit_code)
"""


class Dask:
    """A scheduler and workers, each a process on this machine."""

    def __init__(self, folder: Path) -> None:
        self._file, self._log = folder / "scheduler.json", (folder / "dask.log").open("w")
        self.processes = [self._start("scheduler", "--port", "0")]
        while not self._file.exists():
            time.sleep(0.05)
        text = self._file.read_text()
        self.address = next(part for part in text.split('"') if part.startswith("tcp://"))

    def worker(self, name: str) -> None:
        quiet = ("--nthreads", "1", "--no-nanny", "--name", name)
        self.processes.append(self._start("worker", *quiet))

    def _start(self, what: str, *typed: str) -> subprocess.Popen[bytes]:
        common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self._file))
        return subprocess.Popen(
            [sys.executable, "-m", "dask", what, *common, *typed],
            env=ENVIRONMENT,
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._log.close()


def children() -> list[psutil.Process]:
    """The worker processes that Dask workers have started."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ends this very moment
            if "attnbench.child" in one.cmdline():
                found.append(one)
    return found


def soon(true: Any, within_s: float = 90.0) -> bool:
    end = time.monotonic() + within_s
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    found = Dask(tmp_path_factory.mktemp("dask"))
    found.worker("a")
    found.worker("b")
    yield found
    found.stop()


def command(cluster: Dask, run: Path, *typed: str) -> list[str]:
    return [
        sys.executable, "run_bench.py", "run", "--engine", "dask", "--scheduler", cluster.address,
        "--heads", "1", "--dim", "8", "--device", "cpu", "--length", "32", "--no-baselines",
        *typed, "--out", str(run),
    ]  # fmt: skip


PART = Matrix(
    patterns=("local", "uniform", "exits", "once"), lengths=(32,), sources=("needle",), heads=1,
    kv_heads=1, dim=8, dtype="float32", device="cpu", baselines=False, map_bins=128,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(cluster: Dask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which one of two Dask workers is killed while a case is under way."""
    folder = tmp_path_factory.mktemp("run")
    plugin, out = folder / "last.py", folder / "run"
    plugin.write_text(LAST)
    done = subprocess.run(
        [sys.executable, "-c", RUN, cluster.address, str(out), str(plugin), str(FAULTY)],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    (folder / "said").write_text(done.stderr)
    return out


def test_a_lost_workers_case_is_done_elsewhere_and_nothing_twice(cluster: Dask, run: Path):
    assert sorted(one.poll() is None for one in cluster.processes) == [False, True, True]
    lines = (run / "records.jsonl").read_text().splitlines()
    found = {(one["kind"], one["case"]["asked"]): one for one in read(run)}
    assert len(lines) == len(found) == 2 * len(PART.patterns)
    for kind in ("cost", "fidelity"):
        for name in ("local", "uniform", "once"):
            assert found[kind, name]["status"] == "ok", found[kind, name]["reason"]
        exits = found[kind, "exits"]
        assert exits["status"] == "crashed"
        assert exits["reason"].startswith("its process ended with exit code 7 while it was")
        assert "I am off" in exits["guards"]["process"]["output"]
    assert "Traceback" not in (run.parent / "said").read_text()


def test_the_same_asked_for_gives_the_same_cases_and_records_as_in_this_process(
    run: Path, tmp_path: Path
):
    part = replace(PART, patterns=("local", "uniform"))
    plan = Plan(preset="quick", parts=(part,), budget_s=600)
    engine.run(plan, tmp_path, protocol=Protocol(bound=1.0))
    here, there = ({one["case_key"]: one for one in read(folder)} for folder in (tmp_path, run))
    assert set(here) == {case_key(case) for group in groups_of([part]) for case in group.cases}
    for key, one in here.items():
        assert there[key].keys() == one.keys()
        assert there[key]["case"] == one["case"]
        assert there[key]["cost"] == one["cost"]
        assert there[key]["fidelity"] == one["fidelity"]
        assert (there[key]["time"] or {}).keys() == (one["time"] or {}).keys()
        assert there[key]["memory"] == one["memory"] or one["kind"] == "cost"
    assert {path.name for path in (run / "maps").iterdir()} >= {
        path.name for path in (tmp_path / "maps").iterdir()
    }
    assert (tmp_path / "maps").is_dir()
    machine = read_document(run, "run.json")["machine"]
    assert read_document(run, "machine.json")[machine]["ceilings"]["copy_bytes_per_s"] > 0


def test_a_client_that_is_killed_leaves_no_process_behind(cluster: Dask, run: Path, tmp_path: Path):
    assert soon(lambda: not children())
    typed = ("--plugin", str(FAULTY), "--pattern", "hangs", "--source", "needle")
    client = subprocess.Popen(
        command(cluster, tmp_path, *typed),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert soon(children)
        assert soon(lambda: sum(one.cpu_times().user for one in children()) > 0)
    finally:
        client.kill()
        client.wait()
    assert soon(lambda: not children())


def case(asked: str) -> CostCase:
    return CostCase(
        asked=asked, pattern=asked, backend="auto", causal=True, length=16, heads=1, kv_heads=1,
        dim=8, dtype="float32", device="cpu", seed=0, pass_="fwd", batch=1,
    )  # fmt: skip


CASES = tuple(map(case, ("full", "local", "uniform")))
GROUP = Group(id=CASES[0].group, cases=CASES)
ORIGIN = Origin(version="v", machine="m")


class Doomed:
    """A process whose Dask worker is lost while `at` is timed; what is before it goes well."""

    def __init__(self, at: str) -> None:
        self.at, self.step, self.messages = at, None, iter([{"hello": {}}])

    def send(self, job: Any) -> None:
        self.messages = self.answers(job)

    def answers(self, job: Any) -> Iterator[dict[str, Any]]:
        for one in job.todo:
            self.step = Step(what="time", name=one.asked, case_key=case_key(one))
            if one.asked == self.at:
                raise WorkerLost("it is gone")
            yield {"record": record(one, ORIGIN, role="asked")}
        yield {"done": True}

    def receive(self, timeout_s: float) -> Any:
        return next(self.messages)

    def close(self) -> None:
        pass


def seat(at: str, losses: Counter[str]) -> Seat:
    made = Seat(
        address="tcp://a", start=lambda _: Doomed(at), timeout_s=1.0, other=lambda _: False,
        losses=losses,
    )  # fmt: skip
    made.wait()
    made.belongs_to(ORIGIN)
    return made


def test_a_case_that_two_workers_were_lost_over_is_taken_for_the_cause():
    losses: Counter[str] = Counter()
    first = seat("local", losses)(GROUP, CASES, 1.0)
    assert next(first)["case"]["asked"] == "full"
    with pytest.raises(PlaceLost) as lost:
        next(first)
    group, left = lost.value.left
    assert [one.asked for one in left] == ["local", "uniform"]
    assert group == GROUP
    second = seat("local", losses)(group, left, 1.0)
    culprit = next(second)
    assert (culprit["case"]["asked"], culprit["status"]) == ("local", "crashed")
    assert culprit["reason"] == (
        "its process was lost with its Dask worker, 2 times, while it was timed"
    )
    with pytest.raises(PlaceLost) as lost:
        next(second)
    group, left = lost.value.left
    assert [one.asked for one in left] == ["uniform"]
    assert [one.asked for one in group.cases] == ["full", "uniform"]
    third = seat("local", losses)(group, left, 1.0)
    assert [one["case"]["asked"] for one in third] == ["uniform"]


def test_a_worker_that_is_lost_with_nothing_left_asks_for_nothing():
    with pytest.raises(PlaceLost) as lost:
        list(seat("uniform", Counter({case_key(CASES[2]): 1}))(GROUP, CASES, 1.0))
    assert lost.value.left is None


REPORT = Report(
    name="a", host="one", threads=1, gpu_share=False, gpu="GPU-1", cuda=True, torch="2.13.0",
    version="abc+1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ModuleNotFoundError("No module named 'attnbench'"), "cannot load attnbench"),
        (replace(REPORT, version="abd+1"), r"has code abd\+1, and this is abc"),
        (replace(REPORT, version=None, missing="mine.py"), "lacks the plugin mine.py"),
        (replace(REPORT, threads=4), "start it with --nthreads 1"),
    ],
)
def test_a_worker_that_would_measure_something_else_is_refused(found: Any, said: str):
    with pytest.raises(BadInput, match=said) as caught:
        expect_usable("tcp://a", found, "abc")
    assert "\n" not in str(caught.value)
    expect_usable("tcp://a", REPORT, "abc")


@pytest.mark.parametrize(
    ("other", "device", "said"),
    [
        ({"torch": "2.11.0"}, "cpu", r"torch 2.11.0 and 2.13.0"),
        ({}, "cuda", "a and b on one would share a GPU"),
    ],
)
def test_workers_that_do_not_go_together_are_refused(other: Any, device: str, said: str):
    with pytest.raises(BadInput, match=said):
        usable({"x": REPORT, "y": replace(REPORT, name="b", **other)}, device)


def test_only_workers_with_the_device_are_used():
    found = {
        "x": REPORT,
        "y": replace(REPORT, gpu="GPU-2"),
        "z": replace(REPORT, gpu=None),
        "w": replace(REPORT, gpu=None, cuda=False),
    }
    assert set(usable(found, "cuda")) == {"x", "y", "z"}
    assert set(usable(found, "cpu")) == {"x", "y", "z", "w"}
    with pytest.raises(BadInput, match="no worker of the cluster sees a CUDA device"):
        usable({"w": found["w"]}, "cuda")


class Present(Doomed):
    """A process on a machine with these facts."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__("")
        self.messages = iter([{"hello": facts}])


def test_a_lost_place_goes_to_a_worker_that_nobody_has_of_the_same_code_and_machine(
    monkeypatch: pytest.MonkeyPatch,
):
    there = {f"tcp://{name}": replace(REPORT, name=name, gpu=name) for name in "ab"}
    facts = {"tcp://e": {"gpu": "another"}}
    link = SimpleNamespace(
        client=SimpleNamespace(close=lambda: None),
        there=lambda: {*there},
        call=lambda address, _function, _plugins: there[address],
    )
    monkeypatch.setattr(dask_cluster, "connect", lambda _: link)
    monkeypatch.setattr(dask_cluster, "reports", lambda *_: dict(there))
    monkeypatch.setattr(Cluster, "_start", lambda _, address: Present(facts.get(address, {})))
    setup = SimpleNamespace(plugins=(), device="cuda", version="abc+2")
    cluster = Cluster(Scheduler(address="tcp://here:1"), setup, 1.0)
    cluster.belongs_to(Origin(version="abc+2", machine=machine_id(cluster.facts())))
    first, second = cluster.members
    del there[first.address]
    assert not first.other(first)
    there["tcp://c"] = replace(REPORT, name="c", gpu="c", version="abd+1")
    there["tcp://d"] = replace(REPORT, name="d", gpu=there[second.address].gpu)
    there["tcp://e"] = replace(REPORT, name="e", gpu="e")
    assert not first.other(first)
    there["tcp://f"] = replace(REPORT, name="f", gpu="f")
    assert first.other(first)
    assert first.address == "tcp://f"
    del there[second.address]
    there["tcp://g"] = replace(REPORT, name="g", gpu="g")
    assert second.other(second)
    assert second.address == "tcp://g"  # since f is taken, and the others were refused


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere", "http://x"])
def test_a_scheduler_that_does_not_answer_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dask_cluster, "_CONNECTING_S", 0.3)
    with pytest.raises(BadInput, match="no Dask scheduler answers at") as caught:
        dask_cluster.connect(Scheduler(address=address))
    assert "\n" not in str(caught.value)


def test_dask_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadInput, match=r"pip install 'attnbench\[dask\]'"):
        dask_cluster.connect(Scheduler(address="tcp://127.0.0.1:1"))


def test_a_cluster_without_workers_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dask_cluster, "_PATIENCE_S", 0.0)
    link = Link(client=SimpleNamespace(nthreads=dict), scheduler="tcp://here:8786")
    with pytest.raises(BadInput, match="has 0 workers after 0 s, and 1 are needed"):
        dask_cluster.reports(link, None)


def test_dask_is_loaded_only_where_it_is_asked_for():
    code = "import sys, attnbench.engine, run_bench; sys.exit('distributed' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0
    )
