"""Where cases run: group after group, records appended as they come, and nothing done twice."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from attnbench import ceilings
from attnbench.case import Group, case_key
from attnbench.child import Setup
from attnbench.compile_ahead import before_a_run
from attnbench.dask_cluster import Cluster, Scheduler
from attnbench.forecast import Forecast
from attnbench.guards import with_scaling
from attnbench.machine import facts, machine_id
from attnbench.matrix import groups_of
from attnbench.measure import Measurer
from attnbench.measure_cost import Protocol
from attnbench.opening import open_run
from attnbench.outcome import Origin
from attnbench.places import Crew, Place
from attnbench.presets import Plan
from attnbench.progress import Progress
from attnbench.records import MACHINE, RUN, Journal, journal, read_document, write_document
from attnbench.remaining import hopeful, missing, skipped
from attnbench.spent import Spent, in_words, total
from attnbench.spread import Began, Hooks, Measure, spread
from attnbench.stop import Stop
from attnbench.turns import Todo
from attnbench.version import version
from patterns.errors import BadInput

BAD_STATUSES = ("wrong", "crashed", "timeout")
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
    scheduler: Scheduler | None = None,
    timeout_s: float | None = None,
    plugins: Sequence[Path] = (),
    compile_ahead: int | None = 0,
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
        scheduler: of the Dask cluster where cases run, in place of places of this machine.
        timeout_s: after so long without a sign of life a case in such a process has hung; None
            chooses by the plan's budget.
        plugins: files with further patterns, which have been loaded here.
        compile_ahead: how many processes of this machine make calls that may compile something,
            before anything is measured and in the plan's time; None: as many as are worth it.

    Raises:
        BadInput: the plan makes no sense, or the folder holds another matrix, version or machine.
        DeviceLost: a case broke the GPU's context; what was measured before it is kept.
    """
    protocol = protocol or Protocol()
    groups = groups_of(plan.parts)
    if not groups:
        raise BadInput("nothing is asked for: no pass and no source")
    code = version(*plugins)
    device, began = plan.parts[0].device, time.monotonic()
    hang_s = timeout_s or min(_LONGEST_HANG_S, max(_SHORTEST_HANG_S, plan.budget_s / 5))
    with journal(folder) as book, ExitStack() as stack:
        crew: Crew | Cluster | None = None
        if places or scheduler:
            setup = Setup(
                run=folder,
                version=code,
                device=device,
                machine=None,
                protocol=protocol,
                plugins=tuple(path.resolve() for path in plugins),
            )
            if scheduler:
                crew = stack.enter_context(Cluster(scheduler, setup, hang_s))
            else:
                crew = stack.enter_context(Crew(places, setup, hang_s))
        found = crew.facts() if crew else facts(torch.device(device))
        origin = Origin(version=code, machine=machine_id(found))
        open_run(book, plan, origin, found, command=command, protocol=protocol, extend=extend)
        if crew:
            crew.belongs_to(origin)
        limits = crew.ceilings if crew else partial(ceilings.measured, torch.device(device))
        origin = replace(origin, ceilings=_ceilings(book, plan, origin, limits))
        again = set(retry)
        todo = [(group, missing(group, book, again)) for group in groups]
        left = [(group, cases) for group, cases in todo if cases]
        count = sum(len(cases) for _, cases in left)
        spent = crew.spent if crew else [Spent()]
        ahead = compile_ahead if device == "cuda" and not scheduler else 0
        budget_s = plan.budget_s - _compiled(
            left, ahead, places, spent, origin, found, plan, hang_s
        )
        progress = stack.enter_context(
            closing(
                Progress(
                    count,
                    forecast=Forecast(left, len(spent), budget_s),
                    ticking=crew is not None,
                )
            )
        )
        remarks = _remarks(origin, None if scheduler else found["device"])
        for text in (*book.said, *(remarks if count else ["nothing left to do"])):
            progress.say(text)
        if crew:
            crew.belongs_to(origin)
        here_alone = Measurer(origin, protocol, folder, lambda step: spent[0].turn_to(step.what))
        measures: list[Measure] = [*crew.members] if crew else [measure or here_alone]
        hooks = Hooks(
            before=lambda group, cases: hopeful(group, cases, book, origin),
            skipped=lambda group, cases: skipped(cases, group, origin),
            after=_release,
        )
        with Stop(progress.say) as stop:
            for event in spread(left, measures, budget_s, stop, hooks):
                if isinstance(event, Began):
                    progress.group(event.group.id)
                    continue
                complete = with_scaling(event, [*book.records.values()])
                book.append(complete)
                progress.record(complete)
        if count:
            progress.say(_took(folder, spent, time.monotonic() - began))
        keys = [case_key(case) for group in groups for case in group.cases]
        known = [book.records[key]["status"] for key in keys if key in book.records]
        stopped = stop.asked and len(known) < len(keys)
        return Result(run=folder, statuses=dict(Counter(known)), stopped=stopped)


def _compiled(
    left: Sequence[Todo],
    processes: int | None,
    places: Sequence[Place],
    spent: Sequence[Spent],
    origin: Origin,
    found: Mapping[str, Any],
    plan: Plan,
    hang_s: float,
) -> float:
    """Have kernels compiled that are not yet; what of the budget, all places together, it took."""
    if processes == 0:
        return 0.0
    for one in spent:
        one.turn_to("compile")
    took_s = before_a_run(
        [case for _, cases in left for case in cases],
        processes,
        places=[place.environment for place in places] or [{}],
        gpu_bytes=found.get("gpu_memory_bytes", 0),
        code=origin.version.partition("+")[0],
        machine=origin.machine,
        hang_s=hang_s,
        most_s=plan.budget_s / len(spent) / 2,
    )
    for one in spent:
        one.turn_to("")
    return len(spent) * took_s


def _ceilings(
    book: Journal,
    plan: Plan,
    origin: Origin,
    measured: Callable[[tuple[str, ...]], dict[str, Any]],
) -> dict[str, Any] | None:
    """What the device can do at most: measured as a run that times something begins, then kept."""
    timed = [part for part in plan.parts if part.passes]
    if not timed:
        return None
    machines = read_document(book.run, MACHINE) or {}
    known: dict[str, Any] = machines.get(origin.machine, {})
    dtypes = tuple(sorted({part.dtype for part in timed}))
    before: dict[str, Any] | None = known.get("ceilings")
    if before and set(dtypes) - before.get("matmul_flops_per_s", {}).keys():
        before = None
    if before is None or ceilings.doubtful(before):
        found = measured(dtypes)
        before = found if before is None else ceilings.best_of([before, found])
        machine = known | {"ceilings": before}
        write_document(book.run, MACHINE, machines | {origin.machine: machine})
        if timed[0].device == "cuda":
            torch.cuda.empty_cache()
    return before


def _took(folder: Path, places: Iterable[Spent], elapsed_s: float) -> str:
    """Say where the time of all places went, and add it to run.json, over all commands."""
    seconds = total(places, elapsed_s)
    known = read_document(folder, RUN) or {}
    before: Mapping[str, float] = known.get("spent_s", {})
    names = [*before, *(name for name in seconds if name not in before)]
    spent = {name: round(before.get(name, 0.0) + seconds.get(name, 0.0), 3) for name in names}
    write_document(folder, RUN, known | {"spent_s": spent})
    return f"took {in_words(seconds)}"


def _remarks(origin: Origin, device: str | None) -> Iterator[str]:
    """What makes numbers doubtful before any is there; `device` None where it is not here."""
    if doubts := ceilings.doubtful(origin.ceilings or {}):
        yield (
            f"the machine was busy while its ceilings were measured ({', '.join(doubts)}): shares "
            "of the roof may be too high"
        )
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
