"""The timing protocol: contenders interleaved round by round, in random order, until a bound.

Three times are taken of each: *cold* device time, a replayed CUDA *graph*, and *eager wall* time,
what a Python caller waits; on the CPU there is one, the wall time. What a device does to take a
sample is a `Watch` (see `attnbench.watch`), so that the protocol can be read, and tested, alone.
"""

import gc
import math
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from attnbench.statistics import interval, medians

Call = Callable[[int], object]
"""Runs once on the input copy of this number; CPU watches only ever ask for copy 0."""

MIN_ROUNDS = 5
_MOST_SAMPLES = 20  # of one kind, a contender and round
_WARMUP_S = 0.05
_SLICE_S = 0.06  # of a contender in a round, where the budget allows it
LONG_S = 0.2  # a call so long needs none before it that is not counted
LEAST_LONG_CALLS = 2 + 3 * MIN_ROUNDS  # of such a one: a warm-up, and two cold samples a round
_WANTED_ROUNDS = 10  # that the budget should allow
_OTHER_SHARE = 4  # one wall sample and one replay for so many cold samples
_CHECK_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """What the device said of itself after a slice of samples."""

    sm_mhz: int
    throttle: tuple[str, ...]


class Watch(Protocol):
    """How one device takes a sample; times are in milliseconds unless named otherwise."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def cold(self, name: str, call: Call) -> float:
        """One call with a cold cache."""
        ...

    def wall(self, call: Call) -> float | None:
        """One call as its caller waits for it; None where that is the cold time."""
        ...

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        """What replays the call as a graph and gives the time of one, or why there is none."""
        ...

    def clocks(self) -> Clocks | str | None:
        """The clocks now, or why they cannot be read; None where there is nothing to read."""
        ...

    def notes(self, name: str) -> dict[str, str]:
        """What this contender's samples suffer from."""
        ...


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of those that are timed together; a `dense` one stays for as long as any other."""

    name: str
    call: Call
    dense: bool = False


@dataclass(kw_only=True)
class Timed:
    """What was seen of one contender: a list of samples a round, for each of the three times."""

    cold: list[list[float]] = field(default_factory=list)
    graph: list[list[float]] = field(default_factory=list)
    wall: list[list[float]] = field(default_factory=list)
    clocks: list[Clocks] = field(default_factory=list)
    stopped: str = "budget"
    notes: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None  # what the call raised; then the rest is not to be used


def time_group(
    contenders: Sequence[Contender],
    watch: Watch,
    *,
    seed: int,
    budget_s: float,
    bound: float = 0.01,
    min_samples: int = 10,
) -> dict[str, Timed]:
    """Time all contenders together.

    Each is warmed up, then rounds follow: in each, every contender takes a slice of samples, in an
    order drawn from `seed`. A contender rests once its interval is within the bound, and leaves
    when it raises something.

    Args:
        seed: of the order.
        budget_s: after so long no further round begins, but there are at least 5.
        bound: half the 95 % interval of the median of cold times, relative to the median.
        min_samples: cold samples of each contender, at least.
    """
    runs = [_Run(contender, watch, min_samples) for contender in contenders]
    order = random.Random(seed)
    start = watch.now()
    with _no_garbage_collection():
        going = [run for run in runs if run.tried(run.prepare)]
        slice_s = min(_SLICE_S, max(0.0, budget_s) / (_WANTED_ROUNDS * max(1, len(going))))
        for run in going:
            run.plan(slice_s)
        _rounds(going, watch, order, start + budget_s, bound)
    for run in runs:
        run.timed.notes |= watch.notes(run.contender.name)
    return {run.contender.name: run.timed for run in runs}


def _rounds(
    runs: list["_Run"], watch: Watch, order: random.Random, end: float, bound: float
) -> None:
    active, done = list(runs), 0
    while active:
        began = watch.now()
        order.shuffle(active)
        active = [run for run in active if run.tried(run.take)]
        done += 1
        now = watch.now()
        if done < MIN_ROUNDS:
            continue
        for run in active:
            run.timed.stopped = "bound" if run.narrow(bound) else "budget"
        waiting = [run for run in active if run.timed.stopped == "budget"]
        if not waiting or now + (now - began) > end:
            return
        active = waiting + [run for run in active if run.contender.dense and run not in waiting]


class _Run:
    """One contender on its way through the rounds."""

    def __init__(self, contender: Contender, watch: Watch, min_samples: int) -> None:
        self.contender, self.timed = contender, Timed()
        self._watch, self._least = watch, max(1, math.ceil(min_samples / MIN_ROUNDS))
        self._samples, self._others = self._least, 1
        self._replay: Callable[[], float] | None = None

    def tried(self, step: Callable[[], None]) -> bool:
        """Whether a step went well; what it raised is kept, without what it held."""
        try:
            step()
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            self.timed.error = error
        return self.timed.error is None

    def prepare(self) -> None:
        """Capture the graph, and warm up for a while rather than for a number of calls."""
        name, call = self.contender.name, self.contender.call
        found = self._watch.graph(name, call)
        if isinstance(found, str):
            self.timed.notes["graph_ms"] = found
        else:
            self._replay = found
        start = self._watch.now()
        while True:
            began = self._watch.now()
            self._watch.cold(name, call)
            now = self._watch.now()
            if now - start >= _WARMUP_S:
                break
        self._sample_s = max(now - began, 1e-6)

    def plan(self, slice_s: float) -> None:
        """How many samples make a slice: bounded, and no fewer than the minimum asks for."""
        cold_s = slice_s * _OTHER_SHARE / (_OTHER_SHARE + 2)
        self._samples = min(_MOST_SAMPLES, max(self._least, int(cold_s / self._sample_s)))
        self._others = max(1, self._samples // _OTHER_SHARE)

    def take(self) -> None:
        """One slice, after one call that is not counted, where calls are not long."""
        name, call, timed = self.contender.name, self.contender.call, self.timed
        if self._sample_s < LONG_S:
            self._watch.cold(name, call)
        timed.cold.append([self._watch.cold(name, call) for _ in range(self._samples)])
        if self._replay is not None:
            timed.graph.append([self._replay() for _ in range(self._others)])
        walls = [self._watch.wall(call) for _ in range(self._others)]
        if found := [wall for wall in walls if wall is not None]:
            timed.wall.append(found)
        clocks = self._watch.clocks()
        if isinstance(clocks, str):
            timed.notes["clocks"] = clocks
        elif clocks is not None:
            timed.clocks.append(clocks)

    def narrow(self, bound: float) -> bool:
        """Whether the interval of the cold median is within the bound."""
        found = interval(medians(self.timed.cold), resamples=_CHECK_RESAMPLES)
        return found.half_width <= bound


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
