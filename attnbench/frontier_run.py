"""A run folder with frontiers in it: what is asked for and missing is searched, and kept."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from attnbench.case import case_key
from attnbench.engine import Result
from attnbench.frontier import SHORTEST, Frontier, frontier_record
from attnbench.machine import facts, machine_id
from attnbench.opening import opened
from attnbench.outcome import Origin
from attnbench.predict import gib
from attnbench.records import RUN, Journal, journal, write_document
from attnbench.stop import Stop
from attnbench.version import version
from patterns.errors import BadInput


def search(
    asked: Frontier,
    folder: Path,
    *,
    command: Sequence[str] = (),
    retry: Iterable[str] = (),
    plugins: Sequence[Path] = (),
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Result:
    """Find the frontiers that are asked for and that the folder lacks.

    Args:
        asked: what to find.
        folder: the run folder, made where there is none; other records may be in it.
        command: how this was asked for, to be kept.
        retry: statuses whose cases are done again.
        plugins: files with further patterns, which have been loaded here.
        say: hears a line a case.

    Raises:
        BadInput: it makes no sense, or the folder holds another version or machine.
        DeviceLost: a case broke the GPU's context; what was found before it is kept.
    """
    if asked.length < SHORTEST:
        raise BadInput(f"--length must be at least {SHORTEST}, got {asked.length}")
    if not asked.most_seconds > 0:
        raise BadInput(f"--seconds must be more than 0, got {asked.most_seconds}")
    cases, again = list(asked.cases()), set(retry)
    found = facts(torch.device(asked.device))
    origin = Origin(version=version(*plugins), machine=machine_id(found))
    with journal(folder) as book:
        _open(book, asked, origin, found, command=command)
        for line in book.said:
            say(line)
        with Stop(say) as stop:
            for case in cases:
                before = book.records.get(case_key(case))
                if stop.asked or (before is not None and before["status"] not in again):
                    continue
                record = frontier_record(case, origin)
                book.append(record)
                say(line_of(record))
        keys = [case_key(case) for case in cases]
        statuses = Counter(book.records[key]["status"] for key in keys if key in book.records)
        stopped = stop.asked and any(key not in book.records for key in keys)
        return Result(run=folder, statuses=dict(statuses), stopped=stopped)


def line_of(record: Mapping[str, Any]) -> str:
    """A frontier in one line."""
    case, found = record["case"], record["frontier"]
    name = f"{case['asked']}@{case['backend']} {case['pass']}"
    if found is None:
        return f"{name}: {record['status']}, {record['reason']}"
    ends = {"length": "the longest looked at", "time": "longer calls take too long"}
    why = ends.get(found["limit"], f"{found['too_long']} does not fit")
    return (
        f"{name}: {found['longest']} tokens in {gib(case['memory_bytes'])} ({why}); "
        f"predicted {found['predicted']}"
    )


def _open(
    book: Journal,
    asked: Frontier,
    origin: Origin,
    machine: Mapping[str, Any],
    *,
    command: Sequence[str],
) -> None:
    """Refuse a folder of something else; else write down what is searched in it."""
    folder = book.run
    document = asdict(asked) | {"patterns": [one.spec for one in asked.patterns]}
    wanted = document | {"passes": list(asked.passes)}
    known = opened(book, origin, machine, command=command)
    before = known.get("frontiers", [])
    more = [] if wanted in before else [wanted]
    write_document(folder, RUN, known | {"frontiers": [*before, *more]})
