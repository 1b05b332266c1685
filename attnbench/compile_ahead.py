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
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import psutil
import torch

from attnbench.called_before import CalledBefore
from attnbench.case import AnyCase, CostCase
from patterns import PATTERNS
from patterns import pattern as one_pattern
from patterns.grammar import parse

_COMPILED = ("triton", "flex")
_WORTH_IT = 8  # calls; fewer are made sooner than processes are started
_MOST_PROCESSES = 32
_PROCESS_BYTES = 4 << 30  # of GPU memory: its context, and a call at a long length
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class FirstCall:
    """One call: [batch, heads, length, dim], with gradients or without."""

    pattern: str
    backend: str
    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int
    dtype: str
    device: str
    backward: bool


def first_calls(cases: Iterable[AnyCase]) -> list[FirstCall]:
    """The calls of these cases that may compile something, the longest first.

    Patterns of plugins are left to the run, which can end a process over them.
    """
    found = dict.fromkeys(_of(cases))
    return sorted(found, key=lambda call: (-call.length, not call.backward))


def _of(cases: Iterable[AnyCase]) -> Iterator[FirstCall]:
    for case in cases:
        known = PATTERNS.get(parse(case.pattern)[0])
        if known is None or known.__module__.partition(".")[0] != "patterns":
            continue
        wanted = known.backends if case.backend == "auto" else (case.backend,)
        if not set(wanted) & set(_COMPILED):
            continue
        cost = case if isinstance(case, CostCase) else None
        yield FirstCall(
            pattern=case.pattern,
            backend=case.backend,
            batch=1 if cost is None else cost.batch,
            heads=case.heads,
            kv_heads=case.kv_heads,
            length=case.length,
            dim=case.dim,
            dtype=case.dtype,
            device=case.device,
            backward=cost is None or cost.pass_ != "fwd",
        )


def before_a_run(
    cases: Sequence[AnyCase],
    processes: int | None,
    *,
    gpus: Sequence[str | None],
    gpu_bytes: int,
    before: CalledBefore | None,
    most_s: float,
) -> float:
    """Make the first calls of these cases that were not made before.

    Args:
        cases: what will be measured.
        processes: how many make them; None: as many as are worth it.
        gpus: those of the run, as CUDA_VISIBLE_DEVICES names them.
        gpu_bytes: memory of each.
        before: what was called before; None: nothing can be compiled.
        most_s: after so long the rest is left to the run.

    Returns:
        The seconds that it took.
    """
    began = time.monotonic()
    calls = [] if before is None else [one for one in first_calls(cases) if one not in before]
    if processes is None:
        processes = worth_it(len(calls), len(gpus) * (gpu_bytes // _PROCESS_BYTES))
    if calls and processes:
        _say(
            f"{len(calls)} implementations are called for the first time: {processes} processes "
            "compile them"
        )
        compile_ahead(calls, processes, _say, gpus=gpus, before=before, most_s=most_s)
    return time.monotonic() - began


def worth_it(calls: int, room: int) -> int:
    """How many processes to use for so many calls, if nobody said: 0 where the run is as fast.

    Args:
        calls: how many there are.
        room: for how many processes the GPUs have memory.
    """
    cores = psutil.cpu_count() or 1
    found = min(cores - 2, room, _MOST_PROCESSES, calls // 2)
    return found if calls >= _WORTH_IT and found > 1 else 0


def compile_ahead(
    calls: Sequence[FirstCall],
    processes: int,
    say: Callable[[str], None],
    *,
    gpus: Sequence[str | None] = (None,),
    before: CalledBefore | None = None,
    most_s: float | None = None,
) -> dict[FirstCall, str]:
    """Make these calls, spread over so many processes; those that failed, each with why.

    Args:
        calls: from `first_calls`.
        processes: how many at once.
        say: is told how it went.
        gpus: what CUDA_VISIBLE_DEVICES is to be, one after the other; None leaves it as it is.
        before: gets the calls that were made.
        most_s: after so long what is still to do is left to the run.
    """
    began, failed, made = time.monotonic(), {}, 0
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(tuple(gpus),))
    try:
        futures = {pool.submit(call_once, call): call for call in calls}
        for future in as_completed(futures, timeout=most_s):
            call, why = futures[future], future.result()
            made += 1
            if why:
                failed[call] = why
            elif before is not None:
                before.add(call)
    except TimeoutError:
        say("compiling ahead takes too long: the run compiles the rest as it goes")
    except BrokenProcessPool:
        say("a process that compiles ahead died: the run compiles the rest as it goes")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
    say(
        f"called {made} implementations once in {processes} processes, in "
        f"{time.monotonic() - began:.0f} s"
        + (f"; {len(failed)} failed, which the run will look into" if failed else "")
    )
    return failed


def call_once(call: FirstCall) -> str:
    """Call it on random inputs; why it failed, or nothing."""
    try:
        shape = (call.batch, call.heads, call.length, call.dim)
        kind = {"device": call.device, "dtype": getattr(torch, call.dtype)}
        q = torch.randn(shape, **kind)
        k, v = torch.randn(2, call.batch, call.kv_heads, call.length, call.dim, **kind)
        pattern = one_pattern(call.pattern)
        if not call.backward:
            with torch.no_grad():
                pattern.attend(q, k, v, backend=call.backend)
        else:
            leaves = [x.requires_grad_() for x in (q, k, v)]
            out = pattern.attend(*leaves, backend=call.backend)
            torch.autograd.grad(out, leaves, torch.randn_like(out))
        if call.device == "cuda":
            torch.cuda.synchronize()
    except Exception as error:  # whatever it is, the run meets it where it has a record for it
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        if call.device == "cuda":
            torch.cuda.empty_cache()
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _begin(gpus: Sequence[str | None]) -> None:
    """Take one core and one of the GPUs; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if (mine := gpus[os.getpid() % len(gpus)]) is not None:
        os.environ[_VISIBLE] = mine
