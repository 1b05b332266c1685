"""Guards: what makes a number doubtful, as sentences under the names of what fired.

A guard never changes a number. `record["guards"]["fired"]` holds those that fired, and every table
that uses the case marks it. (What makes an output wrong is found by `attnbench.check`, and the case
then has no number at all.)
"""

from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]
Fired = dict[str, str]

FIRED = "fired"
_SPREAD = 0.1  # half the interval of the median, over the median
_LESS_WORK = 4.0  # a case with so many times less work should be faster
_FLOOR_MS = {"cuda": 0.1, "cpu": 1.0}  # below that launches and Python decide
_SAME = ("asked", "backend", "causal", "heads", "kv_heads", "dim", "dtype", "device", "source",
         "seed", "pass", "batch")  # fmt: skip


def fired(record: Record) -> Fired:
    """What fired for a record: guard -> sentence."""
    guards = record.get("guards") or {}
    found = guards.get(FIRED) if isinstance(guards, Mapping) else None
    return dict(found or {})


def with_fired(record: Record, found: Fired) -> dict[str, Any]:
    """The record with these added."""
    if not found:
        return dict(record)
    guards = {**(record["guards"] or {}), FIRED: fired(record) | found}
    return {**record, "guards": guards}


def spread(timing: Mapping[str, Any]) -> Fired:
    """Samples that do not agree: the interval of their median is wide.

    Args:
        timing: `cold_ms` of a record.
    """
    low, high = timing["interval"]
    half = (high - low) / 2 / timing["median"] if timing["median"] else 0.0
    if half <= _SPREAD:
        return {}
    return {
        "spread": f"the median is known to ±{half:.0%} only: the machine was busy, or the call's "
        "time varies"
    }


def ceiling(what: str, amount: float, median_ms: float, most_per_s: float | None) -> Fired:
    """More than the device can do: then the time is wrong, or not all was done.

    Args:
        what: of the amount, such as ``FLOPs`` or ``bytes``.
        amount: that one call does at least.
        median_ms: the time of a call.
        most_per_s: the measured ceiling; None where none was measured.
    """
    if most_per_s is None or not median_ms > 0:
        return {}
    share = amount / (median_ms / 1e3) / most_per_s
    if share <= 1.0:
        return {}
    return {"ceiling": f"{share:.0%} of the {what} a second that this device was measured to do"}


def scaling(record: Record, others: Iterable[Record]) -> Fired:
    """Time that does not grow with work: much more work took no longer, launches aside."""
    for other in others:
        if _comparable(record, other) and (said := _not_growing(record, other)):
            return {"scaling": said}
    return {}


def with_scaling(record: Record, others: Iterable[Record]) -> dict[str, Any]:
    """The record, marked where its time and that of another length do not fit together."""
    return with_fired(record, scaling(record, others))


def _comparable(one: Record, other: Record) -> bool:
    if not all(x["kind"] == "cost" and x["status"] == "ok" for x in (one, other)):
        return False
    same = all(one["case"].get(name) == other["case"].get(name) for name in _SAME)
    return same and one["implementation"] == other["implementation"] and bool(one["cost"])


def _not_growing(one: Record, other: Record) -> str | None:
    less, more = sorted((one, other), key=lambda x: x["cost"]["flops"])
    work = more["cost"]["flops"] / max(1, less["cost"]["flops"])
    before, after = less["time"]["cold_ms"], more["time"]["cold_ms"]
    if work < _LESS_WORK or before["median"] < _FLOOR_MS[one["case"]["device"]]:
        return None
    if after["interval"][1] > before["interval"][0]:
        return None
    short, long = less["case"]["length"], more["case"]["length"]
    return (
        f"{work:.3g} times the work of length {short} at length {long} took less time: "
        f"{before['median']:.3g} ms against {after['median']:.3g} ms"
    )
