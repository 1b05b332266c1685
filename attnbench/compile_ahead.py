"""Have several processes call everything that a run will measure once, before it begins.

A kernel is compiled when it is first called, on one core, and once for each length that changes its
constants: on an empty cache that takes longer than measuring. Triton and Inductor keep what they
compiled on disk, so that processes which call all of it beforehand leave the run little to wait
for. They measure nothing, and what fails in them the run finds out by itself.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from attnbench.case import CostCase, Group
from patterns import pattern as one_pattern

_COMPILED = ("triton", "flex")


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


def first_calls(groups: Sequence[Group]) -> list[FirstCall]:
    """The calls of these groups that may compile something, the longest first."""
    found = {call: None for group in groups for call in _of(group)}
    return sorted(found, key=lambda call: (-call.length, not call.backward))


def _of(group: Group) -> Iterator[FirstCall]:
    for case in group.cases:
        pattern = one_pattern(case.pattern)
        wanted = pattern.backends if case.backend == "auto" else (case.backend,)
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


def compile_ahead(
    calls: Sequence[FirstCall], processes: int, say: Callable[[str], None]
) -> dict[FirstCall, str]:
    """Make these calls, spread over so many processes; those that failed, each with why."""
    began, failed = time.monotonic(), {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        futures = {pool.submit(call_once, call): call for call in calls}
        try:
            for future in as_completed(futures):
                if why := future.result():
                    failed[futures[future]] = why
        except BrokenProcessPool:
            say("a process that compiles ahead died: the run compiles what is missing")
    say(
        f"called {len(calls)} implementations once in {processes} processes, in "
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


def _begin() -> None:
    """Take one core, and a GPU as the others do not."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.set_device(os.getpid() % torch.cuda.device_count())
