"""Where cases run: group after group, records appended as they come, and nothing done twice."""

import gc
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch

from attnbench import ceilings
from attnbench.case import AnyCase, Group, as_dict, case_key
from attnbench.guards import with_scaling
from attnbench.machine import facts, machine_id
from attnbench.matrix import groups_of
from attnbench.measure import Measurer
from attnbench.measure_cost import Protocol
from attnbench.outcome import Ended, Origin, record
from attnbench.places import Crew, Place
from attnbench.presets import Plan
from attnbench.progress import Progress
from attnbench.records import MACHINE, RUN, SCHEMA, Journal, journal, read_document, write_document
from attnbench.spread import Began, Hooks, Measure, Record, Todo, spread, without
from attnbench.version import same_code, version
from patterns.errors import BadInput

BAD_STATUSES = ("wrong", "crashed", "timeout")
OVER_BUDGET = "the run's budget was spent: --retry skipped with a larger --budget does it"
_SHORTEST_HANG_S, _LONGEST_HANG_S = 60.0, 120.0
_BUSY = 0.6  # load a core, above which times on the CPU are noisy


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended: how many cases of each status it has now."""

    run: Path
    statuses: Mapping[str, int]
    stopped: bool

    @property
    def exit_code(self) -> int:
        """0 where all went well, 1 where something is wrong or crashed, 130 where stopped."""
        if self.stopped:
            return 130
        return int(any(self.statuses.get(status) for status in BAD_STATUSES))


class Stop:
    """Ctrl-C once asks to stop after the group in flight; twice stops at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Say through this what happens."""
        self.asked, self._say = False, say

    def __enter__(self) -> "Stop":
        """Take over Ctrl-C, where this is the thread that gets it."""
        self._before: Any = None
        with suppress(ValueError):  # not the main thread: somebody else decides
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping after the group in flight; Ctrl-C again stops at once")


def run(
    plan: Plan,
    folder: Path,
    *,
    command: Sequence[str] = (),
    retry: Iterable[str] = (),
    extend: bool = False,
    protocol: Protocol | None = None,
    measure: Measure | None = None,
    places: Sequence[Place] = (),
    timeout_s: float | None = None,
    plugins: Sequence[Path] = (),
) -> Result:
    """Measure what a plan asks for and the folder lacks.

    Args:
        plan: what to measure, and how long that may take.
        folder: the run folder, made where there is none.
        command: how this was asked for, to be kept.
        retry: statuses whose cases are done again.
        extend: whether the folder may hold, or get, other matrices too.
        protocol: how cases are timed.
        measure: what measures a group, in place of this process.
        places: where cases run, each place in a process of its own; none: in this process.
        timeout_s: after so long without a sign of life a case in such a process has hung; None
            chooses by the plan's budget.
        plugins: files with further patterns, which have been loaded here.

    Raises:
        BadInput: the plan makes no sense, or the folder holds another matrix, version or machine.
        DeviceLost: a case broke the GPU's context; what was measured before it is kept.
    """
    protocol = protocol or Protocol()
    groups = groups_of(plan.parts)
    if not groups:
        raise BadInput("nothing is asked for: no pass and no source")
    code = version(*plugins)
    device = plan.parts[0].device
    with journal(folder) as book, ExitStack() as stack:
        if places:
            if timeout_s is None:
                timeout_s = min(_LONGEST_HANG_S, max(_SHORTEST_HANG_S, plan.budget_s / 5))
            crew = stack.enter_context(
                Crew(
                    places,
                    run=folder,
                    device=device,
                    version=code,
                    protocol=protocol,
                    timeout_s=timeout_s,
                    plugins=plugins,
                )
            )
            found = crew.facts()
        else:
            found = facts(torch.device(device))
        origin = Origin(version=code, machine=machine_id(found))
        _open(book, plan, origin, found, command=command, protocol=protocol, extend=extend)
        origin = replace(origin, ceilings=_ceilings(book, plan, origin))
        again = set(retry)
        todo = [(group, _missing(group, book, again)) for group in groups]
        missing = sum(len(cases) for _, cases in todo)
        progress = stack.enter_context(closing(Progress(missing)))
        for text in (*book.said, *(_busy(found["device"]) if missing else ["nothing left to do"])):
            progress.say(text)
        measures: list[Measure] = [measure or Measurer(origin, protocol, folder)]
        if places:
            crew.belongs_to(origin)
            measures = [*crew.members]
        hooks = Hooks(
            before=lambda group, cases: _hopeful(group, cases, book, origin),
            skipped=lambda group, cases: _skipped(cases, group, origin),
            after=_release,
        )
        left = [(group, cases) for group, cases in todo if cases]
        with Stop(progress.say) as stop:
            for event in spread(left, measures, plan.budget_s, stop, hooks):
                if isinstance(event, Began):
                    progress.group(event.group.id)
                    continue
                complete = with_scaling(event, [*book.records.values()])
                book.append(complete)
                progress.record(complete)
        keys = [case_key(case) for group in groups for case in group.cases]
        statuses = Counter(book.records[key]["status"] for key in keys if key in book.records)
        stopped = stop.asked and any(key not in book.records for key in keys)
        return Result(run=folder, statuses=dict(statuses), stopped=stopped)


def _open(
    book: Journal,
    plan: Plan,
    origin: Origin,
    found: Mapping[str, Any],
    *,
    command: Sequence[str],
    protocol: Protocol,
    extend: bool,
) -> None:
    """Refuse a folder of something else; else write down what this run is."""
    folder, parts = book.run, plan.document()
    known = read_document(folder, RUN)
    if known is None and book.records:
        raise BadInput(f"{folder} has records and no {RUN}: choose another --out")
    if known is not None:
        expect_same_origin(folder, known, origin)
        before = known["matrix"]
        new = [part for part in parts if part not in before]
        if new and not extend:
            raise BadInput(
                f"{folder} holds another matrix: --extend adds this one to it, "
                "or choose another --out"
            )
        write_document(folder, RUN, known | {"matrix": [*before, *new]})
        return
    seeds = {"inputs": sorted({part.seed for part in plan.parts}), "order": protocol.order_seed}
    document = opening(origin, command=command) | {
        "preset": plan.preset,
        "matrix": parts,
        "seeds": seeds,
        "order": "groups by length; contenders of a group shuffled every round",
        "budget_s": plan.budget_s,
    }
    write_document(folder, MACHINE, {origin.machine: found})
    write_document(folder, RUN, document)


def opening(origin: Origin, *, command: Sequence[str]) -> dict[str, Any]:
    """What run.json says of every run."""
    return {
        "schema": SCHEMA,
        "command": list(command),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": origin.version,
        "machine": origin.machine,
    }


def expect_same_origin(folder: Path, known: Mapping[str, Any], origin: Origin) -> None:
    """Refuse to add to what another code or machine measured.

    Raises:
        BadInput: it did; `known` is the folder's run.json.
    """
    if not same_code(known["version"], origin.version):
        raise BadInput(
            f"{folder} was measured by code {known['version']}, and this is "
            f"{origin.version}: choose another --out"
        )
    if known["machine"] != origin.machine:
        raise BadInput(
            f"{folder} was measured on {known['machine']}, and this is {origin.machine}: "
            "choose another --out"
        )


def _ceilings(book: Journal, plan: Plan, origin: Origin) -> dict[str, Any] | None:
    """What the device can do at most: measured as a run that times something begins, then kept."""
    timed = [part for part in plan.parts if part.passes]
    if not timed:
        return None
    machines = read_document(book.run, MACHINE) or {}
    known: dict[str, Any] = machines.get(origin.machine, {})
    dtypes = tuple(sorted({part.dtype for part in timed}))
    before = known.get("ceilings")
    if before is None or set(dtypes) - before["matmul_flops_per_s"].keys():
        before = ceilings.measured(torch.device(timed[0].device), dtypes)
        machine = known | {"ceilings": before}
        write_document(book.run, MACHINE, machines | {origin.machine: machine})
        if timed[0].device == "cuda":
            torch.cuda.empty_cache()  # a worker process needs the memory
    return before


def _missing(group: Group, book: Journal, retry: set[str]) -> list[AnyCase]:
    def done(case: AnyCase) -> bool:
        found = book.records.get(case_key(case))
        return found is not None and found["status"] not in retry

    return [case for case in group.cases if not done(case)]


def _hopeful(
    group: Group, cases: Sequence[AnyCase], book: Journal, origin: Origin
) -> tuple[Todo, list[Record]]:
    """Leave out what hung at a shorter length, and dense rows that are known to fail."""
    known = book.records
    hung = [one["case"] for one in [*known.values()] if one["status"] == "timeout"]
    hopeless = [case for case in cases if any(_longer(case, one) for one in hung)]
    records = [
        record(
            case,
            origin,
            role="comparison" if case_key(case) in group.comparisons else "asked",
            ended=Ended(
                "skipped",
                "it timed out at a shorter length: --retry timeout,skipped does both again",
            ),
        )
        for case in hopeless
    ]
    left = [case for case in cases if case not in hopeless]
    keys = {case_key(case) for case in left}
    failed = {
        key
        for key in map(case_key, group.cases)
        if key not in keys and (key not in known or known[key]["status"] != "ok")
    }
    return (without(group, failed), left), records


def _longer(case: AnyCase, hung: Mapping[str, Any]) -> bool:
    """Whether this is a case that hung, at a greater length."""
    own = as_dict(case)
    differ = {name for name in own.keys() | hung.keys() if own.get(name) != hung.get(name)}
    return differ <= {"length", "pattern"} and case.length > hung["length"]


def _skipped(cases: Iterable[AnyCase], group: Group, origin: Origin) -> Iterator[dict[str, Any]]:
    for case in cases:
        role = "comparison" if case_key(case) in group.comparisons else "asked"
        ended = Ended("skipped", OVER_BUDGET)
        yield record(case, origin, role=role, ended=ended)


def _busy(device: str) -> Iterator[str]:
    load, cores = psutil.getloadavg()[0], psutil.cpu_count() or 1
    if device == "cpu" and load > _BUSY * cores:
        yield (
            f"other programs keep this machine busy (load {load:.1f} on {cores} cores): times "
            "will be noisy, least so with OMP_NUM_THREADS=1"
        )


def _release(group: Group) -> None:
    gc.collect()
    if group.cases[0].device == "cuda":
        torch.cuda.empty_cache()
