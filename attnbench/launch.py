"""The `time` block of a record over one process launch, and over several.

docs/records.md says what a block holds.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from attnbench.statistics import student_quantile

_TIMINGS = ("cold_ms", "graph_ms", "eager_wall_ms")


def joined(time: Mapping[str, Any], other: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The `time` block over all launches of one and of the launch with this number.

    A median is that of the launches' medians, and its interval a 95 % one over them; samples and
    rounds are those of all.
    """
    launches = [*time["launches"], {**other["launches"][0], "launch": number}]
    found = {
        name: _timing([time.get(name), other.get(name)], [one[name] for one in launches])
        for name in _TIMINGS
    }
    return {
        **time,
        **found,
        "rounds": time["rounds"] + other["rounds"],
        "stopped": "bound" if time["stopped"] == other["stopped"] == "bound" else "budget",
        "ratio_to_dense": _ratio([one["ratio_to_dense"] for one in launches], time),
        "same_twice": _ratio([one["same_twice"] for one in launches], {}),
        "roof": _roof(time, found["cold_ms"]),
        "launches": launches,
        "notes": {**_without_roof(other["notes"]), **time["notes"]},
    }


def launch(time: Mapping[str, Any], rounds_ms: Sequence[float]) -> dict[str, Any]:
    """What a record keeps of one launch by itself, as the first of its list."""

    def middle(name: str) -> float | None:
        found = time.get(name)
        return None if found is None else found["median"]

    return {
        "launch": 1,
        "rounds_ms": list(rounds_ms),
        **{name: middle(name) for name in (*_TIMINGS, "ratio_to_dense", "same_twice")},
        "first_call_ms": time["first_call_ms"],
        "stopped": time["stopped"],
    }


def over_launches(values: Sequence[float]) -> tuple[float, list[float]]:
    """The median of one positive value a launch, and its 95 % interval by Student's t on logs."""
    middle = median(values)
    logs = np.log(np.asarray(values, dtype=float))
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = student_quantile(0.025, len(logs) - 1) * error
    centre = float(logs.mean())
    low, high = math.exp(centre - half), math.exp(centre + half)
    return middle, [min(low, middle), max(high, middle)]


def _timing(
    both: Sequence[Mapping[str, Any] | None], medians: Sequence[float | None]
) -> dict[str, Any] | None:
    there = [one for one in both if one is not None]
    if len(there) < len(both) or None in medians:
        return dict(there[0]) if there and both[0] is not None else None
    middle, bounds = over_launches([value for value in medians if value is not None])
    lists = [one["samples"] for one in there]
    samples = None if None in lists else [sample for one in lists for sample in one]
    low, high = (
        np.percentile(samples, (20, 80)).tolist()
        if samples
        else (median(one[name] for one in there) for name in ("p20", "p80"))
    )
    return {
        "median": middle, "p20": low, "p80": high, "interval": bounds,
        "n": sum(one["n"] for one in there), "samples": samples,
    }  # fmt: skip


def _roof(time: Mapping[str, Any], cold: Mapping[str, Any] | None) -> dict[str, Any] | None:
    before = time.get("roof")
    if before is None or cold is None:
        return None
    shares = {"share": before["least_ms"] / cold["median"]}
    if before.get("tile_least_ms") is not None:
        shares["tile_share"] = before["tile_least_ms"] / cold["median"]
    return {**before, **shares}


def _without_roof(notes: Mapping[str, str]) -> dict[str, str]:
    """Each launch measures ceilings of its own, and the share of the roof is by the first one's."""
    return {name: said for name, said in notes.items() if name != "roof"}


def _ratio(values: Sequence[float | None], time: Mapping[str, Any]) -> dict[str, Any] | None:
    found = [value for value in values if value is not None]
    before = time.get("ratio_to_dense") or {}
    if len(found) < 2:
        return before or None
    middle, bounds = over_launches(found)
    return {**before, "median": middle, "interval": bounds}
