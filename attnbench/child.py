"""What a worker process does: it measures the groups that it is told to, and says each step.

Started by `attnbench.worker`. Orders come in through stdin, pickled; when stdin ends, the parent
is gone and so is this process. Replies, one JSON document a line, leave through what was stdout;
whatever patterns print goes where stderr goes, to be shown when something breaks.
"""

import faulthandler
import gc
import io
import json
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.case import AnyCase, Group
    from attnbench.measure_cost import Protocol
    from attnbench.outcome import Ended
    from attnbench.steps import Step

_MOST_OUTPUT = 1 << 20  # bytes that are kept of what patterns print
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_USABLE = 0.9  # of the memory that is free
_HARD_END = 3  # the exit code after a lost device


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is told first. `machine` None means: find out, and say it."""

    run: Path
    version: str
    device: str
    machine: str | None
    protocol: "Protocol"
    plugins: tuple[Path, ...] = ()
    threads: int | None = None  # of each operation on the CPU; None leaves it to PyTorch
    memory_share: float = 1.0  # of the machine's free memory, on the CPU


@dataclass(frozen=True, kw_only=True)
class Job:
    """One group to measure; see `attnbench.measure.Measurer`."""

    group: "Group"
    todo: "Sequence[AnyCase]"
    budget_s: float
    lost: "Mapping[str, Ended]"
    ceilings: "Mapping[str, Any] | None" = None  # the same for all groups of a run


@dataclass(frozen=True, kw_only=True)
class CeilingsJob:
    """Measure what the device can do at most, once a run; see `attnbench.ceilings`."""

    dtypes: tuple[str, ...]


AnyJob = Job | CeilingsJob


def main() -> None:
    """Serve until the parent goes away."""
    replies = _take_channels()
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    end_with_parent(int(sys.argv[1]))
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    serve(orders.get(), orders, replies)


def serve(setup: Setup, orders: "queue.SimpleQueue[AnyJob]", replies: io.TextIOBase) -> None:
    """Say what was found out, then do job after job."""
    import torch

    from attnbench.ceilings import measured
    from attnbench.machine import facts, machine_id
    from attnbench.measure import Measurer
    from attnbench.outcome import CannotWrite, DeviceLost, Origin
    from attnbench.plugins import load, load_installed
    from patterns.errors import BadInput

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message, ensure_ascii=False) + "\n")
        replies.flush()

    def announce(step: "Step") -> None:
        reply(step=asdict(step), at=_output_size())

    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    load(setup.plugins)
    load_installed()
    try:
        found = facts(torch.device(setup.device)) if setup.machine is None else None
    except BadInput as error:
        reply(refused=str(error))
        return
    machine = setup.machine if found is None else machine_id(found)
    assert machine is not None
    if setup.device == "cpu":
        _limit_memory(setup.memory_share)
    reply(hello=found)
    _collect()
    measure = None
    while True:
        job = orders.get()
        try:
            if isinstance(job, CeilingsJob):
                reply(ceilings=measured(torch.device(setup.device), job.dtypes))
                continue
            if measure is None:
                origin = Origin(version=setup.version, machine=machine, ceilings=job.ceilings)
                measure = Measurer(origin, setup.protocol, setup.run, announce)
            for record in measure(job.group, job.todo, job.budget_s, job.lost):
                reply(record=record)
            reply(done=True)
        except CannotWrite as error:
            reply(refused=str(error))
        except DeviceLost as error:  # its context cannot be mended: a new process has a new one
            reply(gone=str(error))
            os._exit(_HARD_END)
        finally:
            _collect()
            if setup.device == "cuda":
                torch.cuda.empty_cache()


def _collect() -> None:
    """Free what is garbage, and leave the rest out of what is looked through within a group.

    A full collection takes 0.1 s with torch loaded, and one is due before each memory pass.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _take_channels() -> io.TextIOBase:
    """Keep what was stdout for replies, and let everybody else's prints go to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    if hasattr(faulthandler, "register"):  # not on Windows; the parent asks where this one hangs
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    return replies


def _listen(orders: "queue.SimpleQueue[Any]") -> None:
    """Read orders; the first one is the path on which to find the modules of the others."""
    channel = sys.stdin.buffer
    try:
        sys.path[:] = pickle.load(channel)
        while True:
            orders.put(pickle.load(channel))
    except EOFError:
        os._exit(0)
    except BaseException:
        faulthandler.disable()
        import traceback

        traceback.print_exc()
        os._exit(1)


def end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies, even where a pattern hangs in C."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was asked for
        os._exit(0)


def _limit_memory(share: float) -> None:
    """Let an allocation that cannot be served fail, rather than end somebody else's process."""
    if sys.platform != "linux":
        return
    import resource

    import psutil

    used = psutil.Process().memory_info().vms
    allowed = used + int(_USABLE * share * psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.RLIM_INFINITY))


def _output_size() -> int:
    """Bytes that were printed so far; much more than anybody would read is thrown away."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    size = os.fstat(2).st_size
    if size > _MOST_OUTPUT:
        os.ftruncate(2, 0)
        return 0
    return size


if __name__ == "__main__":
    from attnbench.child import main as serve_orders  # whose classes are those of the orders

    serve_orders()
