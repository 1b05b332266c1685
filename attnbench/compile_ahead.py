"""Have several processes call everything that a run will measure once, before it begins.

A kernel is compiled when it is first called, on one core, and once for each length that changes its
constants: on an empty cache that takes longer than measuring. Triton and Inductor keep what they
compiled on disk, so that processes which call all of it beforehand leave the run little to wait
for. They measure nothing, and what fails in them the run finds out by itself.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.queues import SimpleQueue
from typing import Any

import psutil
import torch

from attnbench.called_before import CalledBefore, called_before
from attnbench.case import AnyCase
from attnbench.child import end_with_parent
from attnbench.first_calls import FirstCall, call_once, first_calls

_WORTH_IT = 8  # calls; fewer are made sooner than processes are started
_MOST_PROCESSES = 32
_PROCESS_BYTES = 4 << 30  # of GPU memory: its context, and a call at a long length
_HOST_BYTES = 3 << 30  # of the machine's memory: PyTorch, CUDA and a compiler
_PATIENCE_S = 10.0  # for processes to end, and to be gone once they were killed
_LONGEST_S = threading.TIMEOUT_MAX

Environment = Mapping[str, str]


def before_a_run(
    cases: Sequence[AnyCase],
    processes: int | None,
    *,
    places: Sequence[Environment],
    gpu_bytes: int,
    code: str,
    machine: str,
    hang_s: float,
    most_s: float,
) -> float:
    """Make the first calls of these cases that were not made before.

    Args:
        cases: what will be measured.
        processes: how many make them; None: as many as are worth it.
        places: the environment of each place of the run, which names its GPU.
        gpu_bytes: memory of a GPU.
        code: the sources of what is called.
        machine: its key.
        hang_s: after so long without any call that ends, the rest is left to the run.
        most_s: after so long in all, likewise.

    Returns:
        The seconds that it took.
    """
    began = time.monotonic()
    calls = first_calls(cases)
    before = called_before(calls, code, machine) if calls else None
    if calls and before is None and processes:
        _say("nothing is compiled ahead: there is no Triton, or no cache for it")
    calls = [one for one in calls if before is not None and one not in before]
    if processes is None:
        processes = worth_it(len(calls), len(places) * (gpu_bytes // _PROCESS_BYTES))
    if calls and processes:
        _say(
            f"{len(calls)} implementations are called for the first time: {processes} processes "
            "compile them"
        )
        limits = {"hang_s": hang_s, "most_s": most_s}
        compile_ahead(calls, processes, _say, places=places, before=before, **limits)
    return time.monotonic() - began


def worth_it(calls: int, room: int) -> int:
    """How many processes to use for so many calls, if nobody said: 0 where the run is as fast.

    Args:
        calls: how many there are.
        room: for how many processes the GPUs have memory.
    """
    own = getattr(os, "sched_getaffinity", None)  # this process's share of the cores
    cores = len(own(0)) if own else psutil.cpu_count() or 1
    room = min(room, psutil.virtual_memory().available // _HOST_BYTES)
    found = min(cores - 2, room, _MOST_PROCESSES, calls // 2)
    return found if calls >= _WORTH_IT and found > 1 else 0


def compile_ahead(
    calls: Sequence[FirstCall],
    processes: int,
    say: Callable[[str], None],
    *,
    places: Sequence[Environment] = ({},),
    before: CalledBefore | None = None,
    hang_s: float = _LONGEST_S,
    most_s: float = _LONGEST_S,
) -> dict[FirstCall, str]:
    """Make these calls, spread over so many processes; those that failed, each with why.

    Args:
        calls: from `first_calls`, by length.
        processes: how many at once.
        say: is told how it went.
        places: what the processes add to their environment, in turn: which GPU is theirs.
        before: gets the calls that were made, failed ones too: a run makes those itself.
        hang_s: after so long without any call that ends, the rest is left to the run.
        most_s: after so long in all, likewise.
    """
    began = time.monotonic()
    found: dict[FirstCall, str] = {}
    try:
        with _pool(processes, places) as pool:
            with _deaf():
                futures = {pool.submit(call_once, call): call for call in mixed(calls, processes)}
            for future in _ended(futures, hang_s, began + most_s):
                call = futures[future]
                found[call] = _why(future)
                if before is not None:
                    before.add(call)
    except TimeoutError:
        say("compiling ahead takes too long: the run compiles the rest as it goes")
    except BrokenProcessPool:
        say("a process that compiles ahead died: the run compiles the rest as it goes")
    except (OSError, NotImplementedError) as error:  # no processes, no shared memory
        say(f"nothing is compiled ahead ({error}): the run compiles as it goes")
    failed = {call: why for call, why in found.items() if why}
    say(
        f"called {len(found)} implementations once in {processes} processes, in "
        f"{time.monotonic() - began:.0f} s"
        + (f"; {len(failed)} failed, which the run will look into" if failed else "")
    )
    return failed


def mixed(calls: Sequence[FirstCall], processes: int) -> list[FirstCall]:
    """The same calls so that those in flight at once are of all lengths: together they have to fit.

    Args:
        calls: by length.
        processes: how many are in flight.
    """
    step = max(1, -(-len(calls) // processes))
    return [call for first in range(step) for call in calls[first::step]]


@contextmanager
def _pool(processes: int, places: Sequence[Environment]) -> Iterator[ProcessPoolExecutor]:
    """Processes that take places in turn; none of them is left when this ends."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    turns = context.SimpleQueue()
    for number in range(processes):
        turns.put(dict(places[number % len(places)]))
    pool = ProcessPoolExecutor(processes, context, _begin, (os.getpid(), turns))
    patience_s = 0.0
    try:
        yield pool
        patience_s = _PATIENCE_S  # those that are well end by themselves, and leave nothing behind
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children = set(multiprocessing.active_children()) - others
        end = time.monotonic() + patience_s
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
            child.kill()
        for child in children:  # what they hold of the GPU is free before anything is measured
            child.join(_PATIENCE_S)


def _ended(futures: Collection[Future[str]], hang_s: float, end: float) -> Iterator[Future[str]]:
    """These as they end.

    Raises:
        TimeoutError: for so long none did, or the time is over.
    """
    left = set(futures)
    while left:
        patience_s = min(hang_s, end - time.monotonic(), _LONGEST_S)
        done, left = wait(left, max(0.0, patience_s), FIRST_COMPLETED)
        yield from done
        if left and (not done or time.monotonic() >= end):
            raise TimeoutError


def _why(future: Future[str]) -> str:
    """Why a call failed, or nothing.

    Raises:
        BrokenProcessPool: its process died.
    """
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # the run meets it where it has a record for it
        return f"{type(error).__name__}: {error}"[:200]


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes to which Ctrl-C says nothing, from their first moment on."""
    before: Any = None
    with suppress(ValueError):  # not the main thread: it is not asked
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _begin(parent: int, turns: "SimpleQueue[dict[str, str]]") -> None:
    """End with the parent, and take one core and a place."""
    end_with_parent(parent)
    torch.set_num_threads(1)
    os.environ.update(turns.get())
