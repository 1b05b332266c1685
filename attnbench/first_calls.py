"""What is to be called once before a run, so that all that compiles something has compiled it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from attnbench.case import AnyCase, CostCase
from patterns import PATTERNS
from patterns import pattern as one_pattern
from patterns.grammar import parse

FLEX = "flex"
COMPILED = ("triton", FLEX)

_cuda: Any = torch.cuda  # not all of it has types


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
        if not set(wanted) & set(COMPILED):
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


def call_once(call: FirstCall) -> str:
    """Call it on random inputs; why it failed, or nothing."""
    why = ""
    try:
        _call(call)
    except Exception as error:  # whatever it is, the run meets it where it has a record for it
        why = f"{type(error).__name__}: {error}"[:200]
    if _cuda.is_initialized():
        _let_go(failed=bool(why))
    return why


def _call(call: FirstCall) -> None:
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


def _let_go(*, failed: bool) -> None:
    """Give memory back, for other processes; end this one where its context is broken for good.

    All that it would call after that would fail, and count as called.
    """
    try:
        if failed:
            torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:  # of whatever type a driver's error is
        os._exit(1)
