"""The record of a cost case that was timed; docs/records.md says what it holds."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from attnbench.case import CostCase
from attnbench.ceilings import doubts, roof
from attnbench.contender import Sized
from attnbench.guards import spread, with_fired
from attnbench.impossible import above_ceilings
from attnbench.launch import launch
from attnbench.outcome import Origin, record
from attnbench.statistics import medians, ratio, summary
from attnbench.timing import Clocks, Timed

_CLOCK_SPREAD = 0.05

Record = dict[str, Any]


def measured_record(
    case: CostCase,
    origin: Origin,
    role: str,
    sized: Sized,
    own: Timed,
    dense: Mapping[str, Timed],
    again: Timed | None,
) -> Record:
    """The record, marked with what fired.

    Args:
        case: what was measured.
        origin: the code and the machine, its ceilings among it.
        role: `asked` or `comparison`.
        sized: the contender, checked and sized.
        own: its samples.
        dense: those of the fused dense rows of the group, by name.
        again: its own samples as if it were another contender, if it is the one timed twice.
    """
    time_block = _time_block(sized, own, dense, again)
    guards = {"check": sized.check, "clocks": _clocks_block(own.clocks)}
    if (compiled := sized.compiled.document) is not None:
        guards["compiled"] = compiled
    measured = record(
        case,
        origin,
        role=role,
        implementation=sized.chosen.implementation,
        time=time_block,
        memory=sized.memory,
        guards=guards,
    )
    cold_ms, cost = time_block["cold_ms"], measured["cost"]
    time_block["roof"] = roof(
        origin.ceilings,
        cost,
        dtype=case.dtype,
        pass_=case.pass_,
        ms=cold_ms["median"],
        computed_pairs=sized.computed_pairs,
    )
    time_block["notes"] |= doubts(origin.ceilings, time_block["roof"], case.dtype)
    impossible = above_ceilings(origin.ceilings, cost, case, cold_ms["median"])
    return with_fired(measured, spread(cold_ms) | impossible | sized.compiled.fired)


def _time_block(
    found: Sized, own: Timed, dense: Mapping[str, Timed], again: Timed | None
) -> Record:
    notes = dict(own.notes)
    speeds = [clocks.sm_mhz for clocks in own.clocks]
    if speeds and max(speeds) > (1 + _CLOCK_SPREAD) * min(speeds):
        notes["clocks"] = f"the SM clock moved between {min(speeds)} and {max(speeds)} MHz"
    if not dense:
        notes["ratio_to_dense"] = "no dense row was timed in this group"
    block: Record = {
        "cold_ms": summary(own.cold),
        "graph_ms": summary(own.graph),
        "eager_wall_ms": summary(own.wall),
        "first_call_ms": found.first_call_ms,
        "rounds": len(own.cold),
        "stopped": own.stopped,
        "ratio_to_dense": _ratio(own, dense),
        "same_twice": _same_twice(own, again),
        "notes": notes,
    }
    return {**block, "launches": [launch(block, medians(own.cold))]}


def _same_twice(own: Timed, again: Timed | None) -> Record | None:
    if again is None or again.error is not None or not again.cold:
        return None
    paired = ratio(again.cold, own.cold)
    return {"median": paired.median, "interval": [paired.low, paired.high]}


def _ratio(own: Timed, dense: Mapping[str, Timed]) -> Record | None:
    if not dense:
        return None
    name = min(dense, key=lambda name: median(medians(dense[name].cold)))
    paired = ratio(dense[name].cold, own.cold)
    label = f"full@{name.rpartition('@')[2]}"
    return {"median": paired.median, "interval": [paired.low, paired.high], "dense": label}


def _clocks_block(clocks: Sequence[Clocks]) -> Record | None:
    if not clocks:
        return None
    return {
        "sm_mhz": [one.sm_mhz for one in clocks],
        "throttle": sorted({reason for one in clocks for reason in one.throttle}),
    }
