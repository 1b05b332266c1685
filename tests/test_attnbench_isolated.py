"""What the parent makes of a worker's messages, with workers that only recite."""

import io
import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnbench import outcome
from attnbench.case import CostCase, Group, case_key
from attnbench.child import Job, Setup, serve
from attnbench.isolated import Isolated, telling
from attnbench.measure_cost import Protocol
from attnbench.outcome import CannotWrite, DeviceLost, Ended, Origin
from attnbench.worker import Broken
from patterns.errors import BadInput

ORIGIN = Origin(version="v", machine="m")
DEAD = Broken(status="crashed", how="died of SIGSEGV", output="boom")
Script = Callable[[Job], Iterator[Any]]


def case(asked: str) -> CostCase:
    return CostCase(
        asked=asked, pattern=asked, backend="auto", causal=True, length=16, heads=1, kv_heads=1,
        dim=8, dtype="float32", device="cpu", seed=0, pass_="fwd", batch=1,
    )  # fmt: skip


CASES = tuple(map(case, ("full", "local", "uniform")))
GROUP = Group(id=CASES[0].group, cases=CASES)


def step(one: CostCase | None, what: str = "check") -> dict[str, Any]:
    key = None if one is None else case_key(one)
    name = "" if one is None else one.asked
    return {"step": {"what": what, "name": name, "case_key": key, "implementation": None}}


def measured(one: CostCase, ended: Ended | None = None) -> dict[str, Any]:
    return {"record": outcome.record(one, ORIGIN, role="asked", ended=ended)}


class Reciting:
    """A worker that answers each job with what a script says."""

    def __init__(self, script: Script) -> None:
        self.script, self.jobs, self.closed = script, [], False
        self.messages: Iterator[Any] = iter([{"hello": {}}])

    def send(self, job: Job) -> None:
        self.jobs.append(job)
        self.messages = self.script(job)

    def receive(self, timeout_s: float) -> Any:
        return next(self.messages)

    def close(self) -> None:
        self.closed = True


def isolated(*scripts: Script) -> tuple[Isolated, list[Reciting]]:
    """One that gets these workers, one after the other."""
    workers: list[Reciting] = []

    def start(machine: str | None) -> Any:
        assert machine == ("m" if workers else None)
        workers.append(Reciting(scripts[len(workers)]))
        return workers[-1]

    made = Isolated(start, timeout_s=1.0)
    made.wait()
    made.belongs_to(ORIGIN)
    return made, workers


def well(job: Job) -> Iterator[Any]:
    """Everything that was asked for goes well."""
    for one in job.todo:
        yield step(one)
        yield measured(one)
    yield {"done": True}


def statuses(made: Isolated, group: Group = GROUP, todo: Any = CASES) -> dict[str, str]:
    return {x["case"]["asked"]: x["status"] for x in made(group, todo, 1.0)}


def test_a_worker_that_goes_well_is_kept():
    made, workers = isolated(well)
    for _ in range(2):
        assert set(statuses(made).values()) == {"ok"}
    assert len(workers) == 1
    assert not workers[0].closed


def test_every_process_hears_what_the_device_can_do():
    def dies(job: Job) -> Iterator[Any]:
        yield step(CASES[0])
        yield DEAD

    made, workers = isolated(dies, well)
    made.belongs_to(Origin(version="v", machine="m", ceilings={"copy_bytes_per_s": 5.0}))
    statuses(made)
    told = [job.ceilings for worker in workers for job in worker.jobs]
    assert told == [{"copy_bytes_per_s": 5.0}] * 2


def test_the_culprit_is_recorded_and_the_group_done_again_without_it():
    def dies(job: Job) -> Iterator[Any]:
        yield step(None, "inputs")
        yield step(CASES[0])
        yield step(CASES[1], "time")
        yield DEAD

    made, workers = isolated(dies, well)
    assert statuses(made) == {"full": "ok", "local": "crashed", "uniform": "ok"}
    assert workers[0].closed
    (again,) = workers[1].jobs
    assert [one.asked for one in again.todo] == ["full", "uniform"]
    assert again.lost.keys() == {"local", case_key(CASES[1])}
    assert again.lost["local"].reason == "its process died of SIGSEGV while it was timed"
    assert again.lost["local"].guards["process"]["output"] == "boom"


def test_what_came_out_before_a_crash_is_not_measured_again():
    def dies(job: Job) -> Iterator[Any]:
        yield step(CASES[0], "fidelity")
        yield measured(CASES[0])
        yield step(CASES[1], "fidelity")
        yield DEAD

    made, workers = isolated(dies, well)
    assert statuses(made) == {"full": "ok", "local": "crashed", "uniform": "ok"}
    assert [one.asked for one in workers[1].jobs[0].todo] == ["uniform"]


def test_a_dense_row_that_nobody_waits_for_is_left_out_without_a_record():
    def dies(job: Job) -> Iterator[Any]:
        yield step(CASES[0])
        yield DEAD

    made, workers = isolated(dies, well)
    assert statuses(made, todo=CASES[1:]) == {"local": "ok", "uniform": "ok"}
    assert "full" in workers[1].jobs[0].lost


def test_a_group_whose_inputs_end_two_processes_is_given_up():
    def dies(job: Job) -> Iterator[Any]:
        yield step(None, "inputs")
        yield DEAD

    made, workers = isolated(dies, dies)
    found = list(made(GROUP, CASES, 1.0))
    assert [one["status"] for one in found] == ["crashed"] * 3
    assert "before any case began" in found[0]["reason"]
    assert len(workers) == 2


@pytest.mark.parametrize("told", [CASES[1], CASES[2]])
def test_a_lost_device_is_blamed_on_the_last_record(told: CostCase):
    """All that ran after the culprit failed too, so the last step is not what is to blame."""

    def loses(job: Job) -> Iterator[Any]:
        yield step(told, "time")
        yield measured(CASES[1], Ended("crashed", "illegal memory access"))
        yield {"gone": "the context is lost"}

    made, workers = isolated(loses, well)
    assert statuses(made) == {"local": "crashed", "full": "ok", "uniform": "ok"}
    (again,) = workers[1].jobs
    assert [one.asked for one in again.todo] == ["full", "uniform"]
    assert case_key(CASES[1]) in again.lost
    assert case_key(CASES[2]) not in again.lost


def test_a_full_disk_ends_the_run():
    def refuses(job: Job) -> Iterator[Any]:
        yield step(CASES[0], "fidelity")
        yield {"refused": "cannot write map"}

    made, workers = isolated(refuses)
    with pytest.raises(CannotWrite, match="cannot write map"):
        statuses(made)
    assert workers[0].closed


def test_a_worker_that_does_not_start_ends_the_run_with_what_it_said():
    made = Isolated(lambda machine: Reciting(well), timeout_s=1.0)
    made._worker.messages = iter([DEAD])
    with pytest.raises(DeviceLost, match=r"did not start: it died of SIGSEGV. boom"):
        made.wait()


def test_records_that_nobody_wants_end_the_worker():
    made, workers = isolated(well)
    records = made(GROUP, CASES, 1.0)
    next(records)
    records.close()
    assert workers[0].closed


def test_a_worker_that_cannot_use_what_it_finds_is_bad_input():
    made, (worker,) = isolated(lambda _: iter(()))
    worker.messages = iter([{"refused": "cannot use tile sizes from there"}])
    with pytest.raises(BadInput, match="cannot use tile sizes"):
        made.wait()
    assert worker.closed


def test_a_worker_says_in_one_line_what_it_cannot_use(monkeypatch: pytest.MonkeyPatch):
    def refused(_: object) -> None:
        raise BadInput("cannot use tile sizes from there")

    monkeypatch.setattr("attnbench.machine.facts", refused)
    setup = Setup(run=Path("x"), version="v", device="cuda", machine=None, protocol=Protocol())
    replies = io.StringIO()
    serve(setup, queue.SimpleQueue(), replies)
    assert json.loads(replies.getvalue()) == {"refused": "cannot use tile sizes from there"}


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("Traceback\n  File x\nValueError: no such thing\n", "ValueError: no such thing"),
        ("terminate: bad_alloc\nFatal Python error: Aborted\n\n<no Python frame>\n",
         "terminate: bad_alloc"),
        ("Fatal Python error: Aborted\n\n<no Python frame>\n", "Fatal Python error: Aborted"),
    ],
)  # fmt: skip
def test_of_what_a_process_said_at_its_end_the_reason_is_told(output: str, line: str):
    assert telling(output) == line
