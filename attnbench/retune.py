"""Better tile sizes for a card: from those in use, step by step to faster ones.

Sizes that do not compile, or change a result, are left out; so are those that do so in a harder
form of the pattern. What takes the samples is given, so that the search can be read, and tested,
alone.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from patterns.kernels.tile_choice import Asked, listening, trying
from patterns.kernels.tile_file import Sizes, is_allowed

_GAIN = 0.01  # of the time of the whole call, below which nothing changes
_MOST_PAIRS = 128 * 128  # of a tile; larger ones take long to compile and spill
_TILED = ("rows", "queries", "keys")
_NORMS = {2: 4.0, 4: 64.0}  # roundings that a whole result may be off by, by bytes of a number
_PLACES = 8.0  # times as many at one place

Time = Callable[[Mapping[str, Callable[[int], object]]], Mapping[str, float]]
"""From calls by name to their milliseconds, all timed together; one that fails has none."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A call whose kernels are to be tuned.

    name: what is called, for people.
    call: on the copy of the inputs of this number; returns tensors.
    wrong: what is wrong with harder forms of it now, as a sentence, or None.
    alone: entered around everything that is done with it.
    """

    name: str
    call: Callable[[int], object]
    wrong: Callable[[], str | None]
    alone: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was found for one kernel: its sizes, and the call's time with them and before."""

    kernel: str
    trial: str
    sizes: Sizes
    before: Sizes
    ms: float
    before_ms: float
    left_out: tuple[str, ...]  # sizes that failed, each with why


def retuned(trials: Sequence[Trial], time: Time, over: Callable[[], bool]) -> Iterator[Tuned]:
    """Tune every kernel that the trials launch, in the trial that launches it first.

    Args:
        trials: short ones before those that launch the same kernels and others.
        time: takes the samples.
        over: whether the budget is spent; then what is known is all.
    """
    found: dict[str, Sizes] = {}
    seen: set[str] = set()
    for trial in trials:
        with trial.alone():
            while not over() and (heard := _heard(trial, found, seen)):
                for kernel, asked in heard.items():
                    seen.add(kernel)
                    one = None if over() else _tuned(trial, kernel, asked, found, time, over)
                    if one is not None:
                        found[kernel] = one.sizes
                        yield one


def _heard(trial: Trial, found: Mapping[str, Sizes], seen: Container[str]) -> dict[str, Asked]:
    """What kernels ask for: all, unless one fails before the others are launched."""
    with trying(found), listening() as heard, suppress(Exception):
        trial.call(0)
    return {kernel: asked for kernel, asked in heard.items() if kernel not in seen}


def neighbours(sizes: Sizes) -> Iterator[dict[str, int | None]]:
    """Sizes that differ in one thing: twice or half of it, one stage more or less."""
    for field, size in sizes.items():
        steps: tuple[int | None, ...] = (None,)  # as many registers as the compiler wants
        if size is None:
            continue
        if field == "stages":
            steps = (size - 1, size + 1)
        elif field != "registers":
            steps = (size // 2, 2 * size)
        for step in steps:
            found = {**sizes, field: step}
            if is_allowed(found) and _pairs(found) <= max(_MOST_PAIRS, _pairs(sizes)):
                yield found


def same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether results differ by no more than roundings in another order."""
    if len(found) != len(wanted):
        return False
    for x, y in zip(found, wanted, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        off, whole = x.double() - y.double(), y.double()
        most = _NORMS.get(x.element_size(), 64.0) * torch.finfo(x.dtype).eps
        if not off.norm() <= most * whole.norm():
            return False
        if not off.abs().max() <= _PLACES * most * whole.abs().max():
            return False
    return True


def _tuned(
    trial: Trial,
    kernel: str,
    asked: Asked,
    known: Mapping[str, Sizes],
    time: Time,
    over: Callable[[], bool],
) -> Tuned | None:
    """Climb from the sizes in use; None where not even the safe ones run."""
    wanted = _results(trial, {**known, kernel: asked.safe})
    if isinstance(wanted, str):
        return None
    climb = _Climb(trial, kernel, known, time, over, wanted)
    climb.up(asked)
    while (best := climb.best()) is not None:
        with trying({**known, kernel: best}):
            why = _wrong(trial)
        if why is None:
            return Tuned(
                kernel=kernel,
                trial=trial.name,
                sizes=best,
                before=asked.got,
                ms=climb.times[_text(best)],
                before_ms=climb.times.get(_text(asked.got), math.nan),
                left_out=tuple(f"{text}: {reason}" for text, reason in climb.failed.items()),
            )
        climb.leave_out(best, why)
    return None


class _Climb:
    """The sizes of one kernel that were looked at: how fast they are, or why they failed."""

    def __init__(
        self,
        trial: Trial,
        kernel: str,
        known: Mapping[str, Sizes],
        time: Time,
        over: Callable[[], bool],
        wanted: Sequence[Tensor],
    ) -> None:
        self._trial, self._kernel, self._known = trial, kernel, known
        self._time, self._over, self._wanted = time, over, wanted
        self._sizes: dict[str, Sizes] = {}
        self._top: str | None = None
        self.times: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def up(self, asked: Asked) -> None:
        """From the sizes in use to faster neighbours, for as long as there are some."""
        running = self._running([asked.got])
        start = asked.got if running else asked.safe
        running += self._running([asked.safe, *neighbours(start)])
        self._top = _text(start)
        while running:
            self._measure(running)
            fastest = min(self.times, key=lambda text: self.times[text], default=None)
            if fastest is None:
                return
            gain = 1 - self.times[fastest] / self.times.get(self._top, math.inf)
            if gain < _GAIN:
                return
            self._top = fastest
            running = self._running(neighbours(self._sizes[fastest]))

    def best(self) -> Sizes | None:
        """Where the climb ended, or the fastest of what is left."""
        if self._top in self.times:
            return self._sizes[self._top]
        text = min(self.times, key=lambda text: self.times[text], default=None)
        return None if text is None else self._sizes[text]

    def leave_out(self, sizes: Sizes, why: str) -> None:
        """They failed after all."""
        del self.times[_text(sizes)]
        self.failed[_text(sizes)] = why

    def _running(self, candidates: Iterable[Sizes]) -> list[Sizes]:
        """Those that are new, run, and change no result."""
        found = []
        for sizes in candidates:
            text = _text(sizes)
            if text in self._sizes or self._over():
                continue
            self._sizes[text] = sizes
            got = _results(self._trial, self._with(sizes))
            if isinstance(got, str):
                self.failed[text] = got
            elif not same(got, self._wanted):
                self.failed[text] = "another result"
            else:
                found.append(sizes)
        return found

    def _measure(self, fresh: Sequence[Sizes]) -> None:
        """Time them, beside the best ones so far."""
        group = {_text(sizes): sizes for sizes in fresh}
        if self._top in self.times:
            group[self._top] = self._sizes[self._top]
        timed = self._time({text: self._call(sizes) for text, sizes in group.items()})
        for text in group:
            if text in timed:
                self.times[text] = timed[text]
            else:
                self.times.pop(text, None)
                self.failed[text] = "it failed while it was timed"

    def _call(self, sizes: Sizes) -> Callable[[int], object]:
        def call(copy: int) -> object:
            with trying(self._with(sizes)):
                return self._trial.call(copy)

        return call

    def _with(self, sizes: Sizes) -> dict[str, Sizes]:
        return {**self._known, self._kernel: sizes}


def _results(trial: Trial, sizes: Mapping[str, Sizes]) -> tuple[Tensor, ...] | str:
    """What the call returns with these sizes, or why it returns nothing."""
    try:
        with trying(sizes):
            found = trial.call(0)
        parts = (found,) if isinstance(found, Tensor) else tuple(found)  # type: ignore[arg-type]
        return tuple(part.detach().clone() for part in parts)
    except Exception as error:  # whatever a compiler or a driver raises
        return _line(error)


def _wrong(trial: Trial) -> str | None:
    try:
        return trial.wrong()
    except Exception as error:  # see above
        return _line(error)


def _line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:120]


def _pairs(sizes: Sizes) -> int:
    found = 1
    for field in _TILED:
        found *= sizes.get(field) or 1
    return found


def _text(sizes: Sizes) -> str:
    return ",".join(f"{field}={size}" for field, size in sizes.items())
