"""One implementation of one pattern on one set of inputs, ready to be called, checked and timed.

Letters: B batch, H heads (Hq/Hkv), L length, D head width.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from attnbench.case import CostCase
from attnbench.check import Checker
from attnbench.compiled import Compiled, seen_so_far
from attnbench.findings import Wrong, restored
from attnbench.guards import FIRED
from attnbench.matrix import too_long
from attnbench.memory import Backward, Forward, measure_memory
from attnbench.outcome import Ended
from attnbench.sources import load, settings
from attnbench.timing import Call
from attnbench.watch import copies_beyond_cache
from patterns import pattern as one_pattern
from patterns.base import Implementation, Pattern
from patterns.computed import Tally, counting

_SIZING_CALLS = 2  # the faster one says how long a call takes
_LONG_FIRST_S = 0.25  # a first call so long is made again at once: how much of it was a compiler's?
_AS_LONG = 1.25  # times a later call: a first one that took no more compiled nothing to speak of


@dataclass(frozen=True, kw_only=True)
class CostInputs:
    """q, k, v once for every copy, and the gradient of the output; all copies hold the same."""

    copies: list[tuple[Tensor, Tensor, Tensor]]
    d_out: Tensor
    scale: float | None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a case runs: equal names run equal code on equal inputs."""

    pattern: Pattern
    implementation: Implementation

    @property
    def name(self) -> str:
        """The pattern and the backend that really runs."""
        return f"{self.pattern.spec}@{self.implementation.backend}"

    @property
    def dense(self) -> bool:
        """Whether this is full attention by one of PyTorch's fused kernels."""
        return self.pattern.name == "full" and self.implementation.backend.startswith("sdpa")


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A contender that was called, and is still to be checked."""

    call: Call
    first_s: float
    again_s: tuple[float, ...]  # of later calls, where the first took long
    wrong: Wrong | None  # what it did to its inputs
    compiled_before: Compiled

    @property
    def call_s(self) -> float:
        """The quickest call up to now."""
        return min(self.first_s, *self.again_s)

    @property
    def confirmed(self) -> bool:
        """Whether two calls tell how long one takes, so that it is no accident of one.

        The first is one of them unless it took much longer than the later ones.
        """
        if not self.again_s:
            return False
        return len(self.again_s) > 1 or self.first_s <= _AS_LONG * self.again_s[0]


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A contender that passed its check, and what is known of it before the timing."""

    chosen: Chosen
    call: Call
    call_s: float
    first_call_ms: float
    memory: dict[str, Any]
    check: dict[str, Any]
    computed_pairs: int | None  # of one forward call
    compiled: Compiled


def load_inputs(case: CostCase, device: torch.device) -> CostInputs:
    """Draw the inputs of a group, in as many copies as a graph rotates through."""
    dtype = getattr(torch, case.dtype)
    (setting,) = settings(case.source, causal=case.causal)
    drawn = load(
        setting,
        length=case.length,
        seed=case.seed,
        device=device,
        dtype=dtype,
        batch=case.batch,
        heads=case.heads,
        kv_heads=case.kv_heads,
        dim=case.dim,
    )
    first = (drawn.q, drawn.k, drawn.v)
    count = copies_beyond_cache(device, sum(x.numel() * x.element_size() for x in first))
    copies = [first, *((q.clone(), k.clone(), v.clone()) for q, k, v in [first] * (count - 1))]
    for x in (x for copy in copies for x in copy):
        x.requires_grad_(case.pass_ != "fwd")
    generator = Generator(device).manual_seed(case.seed + 1)
    shape = (*drawn.q.shape[:3], drawn.v.shape[3])
    return CostInputs(
        copies=copies,
        d_out=torch.randn(shape, generator=generator, device=device, dtype=dtype),
        scale=drawn.scale,
    )


def fingerprint(inputs: CostInputs) -> tuple[int, ...]:
    """A number for each of q, k, v that nearly any change to the first copy would change."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return tuple(
        int(x.detach().view(kinds[x.element_size()]).sum(dtype=torch.int64))
        for x in inputs.copies[0]
    )


def choose(case: CostCase, inputs: CostInputs) -> Chosen:
    """What this case would run.

    Raises:
        Ended: a parameter is longer than the sequence.
        BadInput, Unsupported: the pattern has no such backend, or it cannot run the inputs.
    """
    pattern = one_pattern(case.pattern)
    if reason := too_long(pattern, case.length):
        raise Ended("unsupported", reason)
    return Chosen(
        pattern=pattern,
        implementation=pattern.implementation(*inputs.copies[0], case.backend),
    )


def begin(case: CostCase, chosen: Chosen, inputs: CostInputs) -> Begun:
    """Call a contender for the first time, and see how long later calls take if that took long."""
    compiled_before, call = seen_so_far(), make_call(case, chosen, inputs)
    first_s, wrong = _restoring(call, inputs)
    begun = Begun(
        call=call,
        first_s=first_s,
        again_s=(),
        wrong=wrong,
        compiled_before=compiled_before,
    )
    return call_again(begun, inputs) if first_s >= _LONG_FIRST_S and wrong is None else begun


def call_again(begun: Begun, inputs: CostInputs) -> Begun:
    """Call a contender once more, to know better how long its calls take."""
    took_s, wrong = _restoring(begun.call, inputs)
    return replace(begun, again_s=(*begun.again_s, took_s), wrong=wrong)


def size(
    case: CostCase, chosen: Chosen, inputs: CostInputs, checker: Checker, begun: Begun
) -> Sized:
    """Run a contender alone: the correctness check, its memory, and how long a call takes.

    Raises:
        Ended: as `wrong`, where its first call or the check showed something.
    """
    first, call = inputs.copies[0], begun.call
    if (wrong := begun.wrong) is not None:
        raise Ended("wrong", wrong.reason, {FIRED: {wrong.guard: wrong.reason}})
    verdict = checker.check(
        chosen.pattern,
        chosen.implementation.backend,
        first,
        scale=inputs.scale,
        seed=case.seed,
        gradients=case.pass_ != "fwd",
    )
    if (wrong := verdict.wrong) is not None:
        seen = {"check": verdict.seen, FIRED: {wrong.guard: wrong.reason}}
        raise Ended("wrong", wrong.reason, seen)
    forward, backward = halves(case, chosen, inputs)
    tally = Tally()

    def counted() -> Tensor:
        with counting() as found:
            out = forward()
        tally.pairs = found.pairs
        return out

    memory = measure_memory(counted, backward, (*first, inputs.d_out))
    more = _SIZING_CALLS - len(begun.again_s)
    return Sized(
        chosen=chosen,
        call=call,
        call_s=min((*begun.again_s, *(_seconds(call, first[0].device) for _ in range(more)))),
        first_call_ms=begun.first_s * 1e3,
        memory=memory,
        check=verdict.seen,
        computed_pairs=tally.pairs,
        compiled=seen_so_far().since(begun.compiled_before),
    )


def make_call(case: CostCase, chosen: Chosen, inputs: CostInputs) -> Call:
    """The pass of a case as a function of the copy it runs on.

    `bwd` keeps the graph of a forward pass for each copy that was asked for, made when it first
    is, and walks it again each time.
    """
    attend, scale, backend = chosen.pattern.attend, inputs.scale, chosen.implementation.backend
    copies, d_out = inputs.copies, inputs.d_out
    kept: dict[int, Tensor] = {}

    def forward(copy: int) -> Tensor:
        return attend(*copies[copy], scale=scale, backend=backend)

    def both(copy: int) -> object:
        return torch.autograd.grad(forward(copy), copies[copy], d_out)

    def backward(copy: int) -> object:
        if copy not in kept:
            kept[copy] = forward(copy)
        return torch.autograd.grad(kept[copy], copies[copy], d_out, retain_graph=True)

    calls: dict[str, Call] = {"fwd": forward, "bwd": backward, "fwdbwd": both}
    return calls[case.pass_]


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Run on a stream other than the default one, on which graphs can be captured."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        stream = _streams.setdefault(str(device), _cuda.Stream(device))
        torch.cuda.synchronize(device)
        with torch.cuda.stream(stream):
            yield
        torch.cuda.synchronize(device)


_cuda: Any = torch.cuda  # its streams have no types
_streams: dict[str, Any] = {}


def halves(case: CostCase, chosen: Chosen, inputs: CostInputs) -> tuple[Forward, Backward | None]:
    """The call on the first copy in two steps, output and gradients; for a forward pass one."""
    attend, first = chosen.pattern.attend, inputs.copies[0]
    scale, backend = inputs.scale, chosen.implementation.backend

    def forward() -> Tensor:
        return attend(*first, scale=scale, backend=backend)

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, first, inputs.d_out)

    return forward, None if case.pass_ == "fwd" else backward


def _restoring(call: Call, inputs: CostInputs) -> tuple[float, Wrong | None]:
    """What a call took, and what it wrote to the inputs, which are as before afterwards."""
    first = inputs.copies[0]
    before = [x.detach().clone() for x in first]
    took_s = _seconds(call, first[0].device)
    return took_s, restored(first, before)


def _seconds(call: Call, device: torch.device) -> float:
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call(0)
    wait()
    return time.perf_counter() - start
