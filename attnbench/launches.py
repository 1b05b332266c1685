"""Several process launches of one run's timing, kept apart in its records.

What drifts from one launch to the next (which kernel a library picks, where memory lies, how warm
the device is) is in no interval over rounds. So launch 1 measures the run as always, the further
ones time it again, each in a process of its own and a folder of its own below RUN/launches/, and
what they found is laid beside the first in the records of the run.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attnbench.engine import Result
from attnbench.launch import joined
from attnbench.presets import Plan
from attnbench.records import Record, journal, read
from attnbench.stop import Stop
from patterns.errors import BadInput

FOLDER = "launches"
_BAD_INPUT, _STOPPED = 2, 130


def timing_only(plan: Plan) -> Plan:
    """The same plan without fidelity and maps, which no launch changes.

    Raises:
        BadInput: it times nothing.
    """
    parts = [part for part in plan.parts if part.passes]
    if not parts:
        raise BadInput("--launches repeats the timing, and nothing is timed: ask for a pass")
    bare = [dataclasses.replace(part, sources=(), map_bins=0) for part in parts]
    return dataclasses.replace(plan, parts=tuple(dict.fromkeys(bare)))


def repeat(
    result: Result,
    launches: int,
    command: Callable[[int, Path], Sequence[str]],
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Result:
    """Time a run again in further launches, and join what they find.

    Launches that are there already only do what they lack, as any run does.

    Args:
        result: of launch 1.
        launches: how many there should be, the first one included.
        command: launch number and its folder -> the command line that does it.
        say: tells of what happens.

    Raises:
        BadInput: a launch refuses its input, which it has said itself.
    """
    for number in range(2, launches + 1):
        folder = result.run / FOLDER / str(number)
        say(f"launch {number} of {launches}")
        with Stop(say) as stop:
            # Ctrl-C reaches it too, since it is of the same group of processes.
            child = subprocess.Popen(command(number, folder), stdout=subprocess.DEVNULL)
            try:
                code = child.wait()
            finally:
                child.kill()
        if code == _BAD_INPUT:
            raise BadInput(f"launch {number} did not begin, for the reason above")
        join(result.run, number)
        if code == _STOPPED or stop.asked:
            return dataclasses.replace(result, stopped=True)
        if code < 0:
            say(f"launch {number} was ended by signal {-code}: the same command does the rest")
    return result


def join(run: Path, number: int) -> int:
    """Lay what one further launch found beside what the run has; how many records changed.

    Raises:
        BadInput: the run or the launch cannot be read, or is being written.
    """
    folder = run / FOLDER / str(number)
    if not folder.is_dir():
        return 0
    others = {record["case_key"]: record for record in read(folder)}
    changed = 0
    with journal(run) as book:
        for key, record in list(book.records.items()):
            other = others.get(key)
            if other is None or not _timed(record) or not _timed(other):
                continue
            if number in {one["launch"] for one in record["time"].get("launches") or ()}:
                continue
            book.append(record | {"time": joined(record["time"], other["time"], number)})
            changed += 1
    return changed


def _timed(record: Record) -> bool:
    return record["status"] == "ok" and bool((record.get("time") or {}).get("launches"))
