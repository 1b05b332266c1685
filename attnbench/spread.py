"""Groups to their places: one after the other in one place, or each to the next place that is free.

A group stays in one place, so that its ratios are of one device.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from attnbench.case import AnyCase, CostCase, Group
from attnbench.outcome import DeviceLost

Record = dict[str, Any]
Measure = Callable[[Group, Sequence[AnyCase], float], Iterator[Record]]
Todo = tuple[Group, Sequence[AnyCase]]

_LOOK_S = 0.5  # how often those who wait look whether somebody asked to stop
_PATIENCE_S = 60.0  # for a lost place to come back

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


class PlaceLost(RuntimeError):
    """A place is gone while it measured: what it leaves is done by another one.

    `left` is None where nothing is; `back` says whether the place is there again.
    """

    def __init__(self, said: str, left: Todo | None, back: Callable[[], bool]) -> None:
        """Keep what is left, and how to find out."""
        super().__init__(said)
        self.left, self.back = left, back


def spread(
    groups: Sequence[Todo], measures: Sequence[Measure], budget_s: float, stop: Asked, hooks: Hooks
) -> Iterator[Event]:
    """Measure groups; all that comes out comes out in this thread.

    The budget is what one place would take: several take so much less. What a group leaves of its
    time goes to the others.

    Raises:
        DeviceLost: all places are lost, and groups are left.
        Exception: whatever a measurement raises; the other places are then left to the caller.
    """
    purse, turns = _Purse(groups, budget_s), _Turns(groups, stop)
    if len(measures) == 1:
        yield from _work(measures[0], turns, purse, stop, hooks)
    else:
        yield from _side_by_side(measures, turns, purse, stop, hooks)
    if turns.waiting() and not stop.asked:
        raise DeviceLost("all workers are lost: the same command goes on, once there are others")


def _side_by_side(
    measures: Sequence[Measure], turns: "_Turns", purse: "_Purse", stop: Asked, hooks: Hooks
) -> Iterator[Event]:
    """A thread for each place."""
    events: queue.SimpleQueue[tuple[Event | None, BaseException | None]] = queue.SimpleQueue()

    def work(measure: Measure) -> None:
        try:
            for event in _work(measure, turns, purse, stop, hooks):
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


def _work(
    measure: Measure, turns: "_Turns", purse: "_Purse", stop: Asked, hooks: Hooks
) -> Iterator[Event]:
    """Group after group in one place, for as long as there are both."""
    while (todo := turns.take()) is not None:
        left: Todo | None = None
        back: Callable[[], bool] | None = None
        try:
            yield from _one(*todo, measure, purse, stop, hooks)
        except PlaceLost as lost:
            left, back = lost.left, lost.back
            if left is not None:
                purse.ask_again(left[1])
        finally:
            turns.finished(left)
        if back is not None and not turns.wait_for(back):
            return


class _Turns:
    """The groups that wait, and how many are under way: one of those may come back."""

    def __init__(self, groups: Sequence[Todo], stop: Asked) -> None:
        self._waiting, self._going, self._stop = deque(groups), 0, stop
        self._changed = threading.Condition()

    def take(self) -> Todo | None:
        """The next group; None once there are no more, or somebody asked to stop."""
        with self._changed:
            while not self._waiting and self._going and not self._stop.asked:
                self._changed.wait(_LOOK_S)
            if self._stop.asked or not self._waiting:
                return None
            self._going += 1
            return self._waiting.popleft()

    def finished(self, left: Todo | None) -> None:
        """A group is no longer under way; what is left of it is next."""
        with self._changed:
            self._going -= 1
            if left is not None:
                self._waiting.appendleft(left)
            self._changed.notify_all()

    def waiting(self) -> bool:
        """Whether groups wait."""
        with self._changed:
            return bool(self._waiting)

    def wait_for(self, back: Callable[[], bool]) -> bool:
        """Whether a lost place came back while there was something to do."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end and not self._stop.asked:
            with self._changed:
                if not self._waiting and not self._going:
                    return False
            if back():
                return True
            time.sleep(_LOOK_S)
        return False


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

    def ask_again(self, cases: Sequence[AnyCase]) -> None:
        """Let these cases, which took their share in vain, have one again."""
        with self._lock:
            self._weight += weight(cases)

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
