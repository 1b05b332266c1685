"""The frontier of memory: the longest length at which a pattern fits, predicted and measured.

A length fits where the inputs and all that the call holds at its peak are within the memory that
was given, by the count of the allocator or profiler, and no allocation fails. What the driver and
fragments take comes on top.
"""

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch

from attnbench.case import Case, CostCase, Pass, Status, as_dict, case_key
from attnbench.contender import Chosen, CostInputs, halves
from attnbench.longest import longest
from attnbench.matrix import ELEMENT_BYTES, asked_name, too_long
from attnbench.memory import measure_memory
from attnbench.outcome import Ended, Origin, confirm_device, ending
from attnbench.predict import Prediction, free_bytes, gib, predict
from patterns import Pattern
from patterns import pattern as one_pattern
from patterns.base import Implementation

SHORTEST = 1024
_USABLE = 0.9  # of the free memory; more is not tried
_SLOWNESS = 8.0  # of a typical pattern, against the least time; beyond, something else took it
_FIELDS = (
    *("asked", "backend", "causal", "length", "heads", "kv_heads", "dim", "dtype", "device"),
    *("source", "seed", "pass_", "batch"),
)


@dataclass(frozen=True, kw_only=True)
class FrontierCase(Case):
    """How long one pass of a pattern may get in so much memory.

    `length` is the longest one that is looked at; `pattern` keeps its automatic values.
    """

    source: str = "gaussian"
    pass_: Pass = field(metadata={"name": "pass"})
    batch: int
    memory_bytes: int
    most_seconds: float  # that a call may take for a longer one to be tried

    kind: ClassVar = "frontier"

    @property
    def group(self) -> str:
        """The cases whose lengths can be compared."""
        heads = f"h{self.heads}x{self.kv_heads}"
        return f"{self.pass_}-b{self.batch}-{heads}-d{self.dim}-{self._ending()}-frontier"


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What one call asks for, all patterns and passes at one shape."""

    patterns: tuple[Pattern, ...]
    passes: tuple[Pass, ...]
    memory_bytes: int
    heads: int
    kv_heads: int
    dim: int
    dtype: str
    device: str
    batch: int = 1
    backend: str = "auto"
    length: int = 1 << 24
    most_seconds: float = 10.0

    def cases(self) -> Iterator[FrontierCase]:
        """One a pattern and pass."""
        for one_pass in self.passes:
            for pattern in self.patterns:
                yield FrontierCase(
                    asked=asked_name(pattern),
                    pattern=pattern.spec,
                    backend=self.backend,
                    causal=pattern.causal,
                    length=self.length,
                    heads=self.heads,
                    kv_heads=self.kv_heads,
                    dim=self.dim,
                    dtype=self.dtype,
                    device=self.device,
                    seed=0,
                    pass_=one_pass,
                    batch=self.batch,
                    memory_bytes=self.memory_bytes,
                    most_seconds=self.most_seconds,
                )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One length that was looked at: what it held and, where it is too long, why.

    limit: None where it fits, else `memory` or `time`.
    """

    length: int
    limit: str | None
    held_bytes: int | None
    reason: str | None


def frontier_record(case: FrontierCase, origin: Origin) -> dict[str, Any]:
    """Find the frontier of a case; docs/records.md says what its record holds."""
    found, ended, implementation = None, None, None
    try:
        pattern = one_pattern(case.pattern)
        if reason := too_long(pattern, SHORTEST):
            raise Ended("unsupported", reason)
        implementation = _implementation(case, pattern)
        found = _searched(case, pattern, implementation)
    except Exception as error:  # whatever a pattern raises is its own ending
        ended = ending(error)
        error.__traceback__ = None  # its frames hold tensors
        confirm_device(torch.device(case.device))
    return {
        "kind": case.kind,
        "case_key": case_key(case),
        "group": case.group,
        "role": "asked",
        "case": as_dict(case),
        "status": "ok" if ended is None else ended.status,
        "reason": None if ended is None else ended.reason,
        "implementation": None if implementation is None else asdict(implementation),
        "time": None,
        "memory": None,
        "fidelity": None,
        "frontier": found,
        "cost": None,
        "guards": {},
        "version": origin.version,
        "machine": origin.machine,
    }


def _searched(
    case: FrontierCase, pattern: Pattern, implementation: Implementation
) -> dict[str, Any]:
    trials: dict[int, Trial] = {}

    def fits(length: int) -> bool:
        trials[length] = _tried(_at(case, pattern, length), case, pattern, implementation)
        return trials[length].limit is None

    def may_fit(length: int) -> bool:
        one = _at(case, pattern, length)
        return _least_held(one, predict(one, pattern, implementation)) <= case.memory_bytes

    best, next_one = longest(fits, first=SHORTEST, most=case.length)
    if best is None:
        shortest = trials[SHORTEST]
        status: Status = "oom" if shortest.limit == "memory" else "skipped"
        raise Ended(status, f"not even {SHORTEST} tokens: {shortest.reason}")
    predicted, _ = longest(may_fit, first=SHORTEST, most=case.length)
    return {
        "longest": best,
        "too_long": next_one,
        "limit": "length" if next_one is None else trials[next_one].limit,
        "predicted": predicted,
        "held_bytes": trials[best].held_bytes,
        "trials": [asdict(trials[length]) for length in sorted(trials)],
    }


def _tried(
    one: CostCase, case: FrontierCase, pattern: Pattern, implementation: Implementation
) -> Trial:
    """Run one call at one length, unless it cannot fit."""
    device, prediction = torch.device(one.device), predict(one, pattern, implementation)
    least = _least_held(one, prediction)
    most = min(case.memory_bytes, _USABLE * free_bytes(device))

    def found(limit: str | None, held: int | None, reason: str | None) -> Trial:
        return Trial(length=one.length, limit=limit, held_bytes=held, reason=reason)

    if least > most:
        return found("memory", None, f"it needs at least {gib(least)} of {gib(most)}")
    if prediction.least_s > case.most_seconds:
        return found("time", None, f"a call takes at least {prediction.least_s:.0f} s")
    try:
        held, took = _held(one, pattern, implementation, device)
        odd = one.length == SHORTEST or _SLOWNESS * prediction.least_s < case.most_seconds
        if odd and took > case.most_seconds:  # a compiler's time, perhaps, which is spent once
            held, took = _held(one, pattern, implementation, device)
    except Exception as error:
        ended = ending(error)
        error.__traceback__ = None
        if ended.status != "oom":
            raise
        return found("memory", None, ended.reason)
    finally:
        gc.collect()
        confirm_device(device)
    if held > case.memory_bytes:
        return found("memory", held, f"it held {gib(held)} of {gib(case.memory_bytes)}")
    if took > case.most_seconds:
        return found("time", held, f"it took {took:.0f} s")
    return found(None, held, None)


def _held(
    one: CostCase, pattern: Pattern, implementation: Implementation, device: torch.device
) -> tuple[int, float]:
    """Bytes of the inputs and of all that one call holds at its peak, and the seconds it took."""
    began = time.perf_counter()
    with torch.set_grad_enabled(one.pass_ != "fwd"):
        inputs = _inputs(one, device)
        chosen = Chosen(pattern=pattern, implementation=implementation)
        forward, backward = halves(one, chosen, inputs)
        memory = measure_memory(forward, backward, (*inputs.copies[0], inputs.d_out))
    return _input_bytes(one) + (memory["peak_bytes"] or 0), time.perf_counter() - began


def _inputs(one: CostCase, device: torch.device) -> CostInputs:
    """Random inputs, made in their own dtype: no copy takes memory beside them."""
    generator = torch.Generator(device).manual_seed(one.seed)
    dtype = getattr(torch, one.dtype)

    def drawn(heads: int) -> torch.Tensor:
        shape = (one.batch, heads, one.length, one.dim)
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    backward = one.pass_ != "fwd"
    q, k, v = (drawn(heads) for heads in (one.heads, one.kv_heads, one.kv_heads))
    for x in (q, k, v):
        x.requires_grad_(backward)
    d_out = drawn(one.heads) if backward else torch.empty(0, device=device)
    return CostInputs(copies=[(q, k, v)], d_out=d_out, scale=None)


def _input_bytes(one: CostCase) -> int:
    heads = one.heads * (1 if one.pass_ == "fwd" else 2) + 2 * one.kv_heads
    return ELEMENT_BYTES[one.dtype] * one.batch * heads * one.length * one.dim


def _least_held(one: CostCase, prediction: Prediction) -> int:
    return _input_bytes(one) + prediction.peak_bytes


def _at(case: FrontierCase, pattern: Pattern, length: int) -> CostCase:
    """The call at one length, as the cost model knows it."""
    fields = {name: getattr(case, name) for name in _FIELDS}
    return CostCase(**(fields | {"length": length, "pattern": pattern.resolve(length).spec}))


def _implementation(case: FrontierCase, pattern: Pattern) -> Implementation:
    """What would run, told by inputs of which a single number exists."""
    one = torch.empty(1, device=case.device, dtype=getattr(torch, case.dtype))
    q = one.expand(case.batch, case.heads, SHORTEST, case.dim)
    k = one.expand(case.batch, case.kv_heads, SHORTEST, case.dim)
    return pattern.implementation(q, k, k, case.backend)
