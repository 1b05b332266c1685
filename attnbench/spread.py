"""Groups to their places: one after the other in one place, or each to the next place that is free.

A group stays in one place, so that its ratios are of one device.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnbench.case import AnyCase, Group
from attnbench.outcome import DeviceLost
from attnbench.purse import Purse, weight
from attnbench.turns import Asked, PlaceLost, Todo, Turns

Record = dict[str, Any]
Measure = Callable[[Group, Sequence[AnyCase], float], Iterator[Record]]


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
    time goes to the others. One place takes groups in their order; several begin with what takes
    longest, so that they end together.

    Raises:
        DeviceLost: all places are lost, and groups are left.
        Exception: whatever a measurement raises; the other places are then left to the caller.
    """
    purse = Purse(groups, budget_s, len(measures))
    turns = Turns(in_turn(groups, len(measures)), stop)
    if len(measures) == 1:
        yield from _work(measures[0], turns, purse, stop, hooks)
    else:
        yield from _side_by_side(measures, turns, purse, stop, hooks)
    if turns.waiting() and not stop.asked:
        raise DeviceLost("all workers are lost: the same command goes on, once there are others")


def in_turn(groups: Sequence[Todo], places: int) -> Sequence[Todo]:
    """The order in which so many places take groups."""
    if places == 1:
        return groups
    return sorted(groups, key=lambda todo: weight(todo[1]), reverse=True)


def _side_by_side(
    measures: Sequence[Measure], turns: Turns, purse: Purse, stop: Asked, hooks: Hooks
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
    measure: Measure, turns: Turns, purse: Purse, stop: Asked, hooks: Hooks
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


def _one(
    group: Group,
    cases: Sequence[AnyCase],
    measure: Measure,
    purse: Purse,
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


def without(group: Group, keys: set[str]) -> Group:
    """The same group without some of its cases."""
    from attnbench.case import case_key

    return replace(group, cases=tuple(one for one in group.cases if case_key(one) not in keys))
