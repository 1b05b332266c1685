"""Groups to their places: one after the other in one place, or each to the next place that is free.

A group stays in one place, so that its ratios are of one device.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from attnbench.case import AnyCase, CostCase, Group

Record = dict[str, Any]
Measure = Callable[[Group, Sequence[AnyCase], float], Iterator[Record]]
Todo = tuple[Group, Sequence[AnyCase]]

_SECONDS = {  # that checking and timing a case took, and what each token added; seen on one machine
    "cpu": {"fwd": (0.4, 5e-4), "bwd": (0.6, 1e-3), "fwdbwd": (0.6, 1e-3), "fidelity": (0.2, 5e-4)},
    "cuda": {
        "fwd": (0.4, 1.2e-5),
        "bwd": (0.5, 3e-5),
        "fwdbwd": (0.5, 3e-5),
        "fidelity": (0.6, 2e-5),
    },
}


class Asked(Protocol):
    """Whether somebody asked to stop."""

    asked: bool


@dataclass(frozen=True, kw_only=True)
class Began:
    """A group has begun."""

    group: Group


Event = Began | Record


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the engine adds to the measuring of groups.

    `before` gets what is about to be measured, and returns what is left to measure and the records
    of what is not; `skipped` makes the records of a group for which there is no time.
    """

    before: Callable[[Group, Sequence[AnyCase]], tuple[Todo, list[Record]]]
    skipped: Callable[[Group, Sequence[AnyCase]], Iterator[Record]]
    after: Callable[[Group], None]


def spread(
    groups: Sequence[Todo], measures: Sequence[Measure], budget_s: float, stop: Asked, hooks: Hooks
) -> Iterator[Event]:
    """Measure groups; all that comes out comes out in this thread.

    The budget is what one place would take: several take so much less. What a group leaves of its
    time goes to the others.

    Raises:
        Exception: whatever a measurement raises; the other places are then left to the caller.
    """
    purse = _Purse(groups, budget_s)
    if len(measures) == 1:
        for group, cases in groups:
            if stop.asked:
                return
            yield from _one(group, cases, measures[0], purse, stop, hooks)
        return
    events: queue.SimpleQueue[tuple[Event | None, BaseException | None]] = queue.SimpleQueue()
    waiting = iter(groups)
    turn = threading.Lock()

    def work(measure: Measure) -> None:
        try:
            while True:
                with turn:
                    todo = None if stop.asked else next(waiting, None)
                if todo is None:
                    break
                for event in _one(*todo, measure, purse, stop, hooks):
                    events.put((event, None))
            events.put((None, None))
        except BaseException as error:
            events.put((None, error))

    for measure in measures:
        threading.Thread(target=work, args=(measure,), daemon=True).start()
    going = len(measures)
    while going:
        event, error = events.get()
        if error is not None:
            raise error
        if event is None:
            going -= 1
        else:
            yield event


def _one(
    group: Group,
    cases: Sequence[AnyCase],
    measure: Measure,
    purse: "_Purse",
    stop: Asked,
    hooks: Hooks,
) -> Iterator[Event]:
    yield Began(group=group)
    (group, left), known = hooks.before(group, cases)
    yield from known
    share_s = purse.take(cases)
    try:
        if not left:
            return
        records = hooks.skipped(group, left) if share_s <= 0 else measure(group, left, share_s)
        for found in records:
            yield found
            if stop.asked and group.kind == "fidelity":
                return
    finally:
        purse.give_back(cases)
        hooks.after(group)


class _Purse:
    """The seconds of all places, as those of one; what a group does not use goes back."""

    def __init__(self, groups: Sequence[Todo], budget_s: float) -> None:
        self._left_s, self._end = budget_s, time.perf_counter() + budget_s
        self._weight = sum(weight(cases) for _, cases in groups)
        self._taken: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, cases: Sequence[AnyCase]) -> float:
        """The seconds that are for these cases: 0 or less where all are spent."""
        with self._lock:
            now, own = time.perf_counter(), weight(cases)
            share_s = min(self._left_s * own / self._weight, self._end - now)
            self._weight -= own
            self._left_s -= share_s
            self._taken[id(cases)] = now, share_s
            return share_s

    def give_back(self, cases: Sequence[AnyCase]) -> None:
        """Settle what they have really used."""
        with self._lock:
            began, share_s = self._taken.pop(id(cases))
            self._left_s += share_s - (time.perf_counter() - began)


def weight(cases: Sequence[AnyCase]) -> float:
    """A group's share of the time: roughly the seconds that its cases take."""
    first = cases[0]
    what = first.pass_ if isinstance(first, CostCase) else "fidelity"
    base, per_token = _SECONDS[first.device][what]
    return len(cases) * (base + per_token * first.length)


def without(group: Group, keys: set[str]) -> Group:
    """The same group without some of its cases."""
    from attnbench.case import case_key

    return replace(group, cases=tuple(one for one in group.cases if case_key(one) not in keys))
