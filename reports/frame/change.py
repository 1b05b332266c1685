"""What changed between two runs: each case's time, memory and error, with a verdict.

A *verdict* is SAME, FASTER or SLOWER, LESS or MORE (memory, error), or UNCLEAR. A time is called
faster or slower only where its whole interval lies beyond the margin: the larger of what the two
machines showed between two timings of the same thing (their A/A floors) and one microsecond. It
is called the same only where the interval leaves no room for a change as large as the threshold.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports.frame.moderated import Repeats, centre, differences

SAME, FASTER, SLOWER, UNCLEAR = "SAME", "FASTER", "SLOWER", "UNCLEAR"
LESS, MORE, FAILS = "LESS", "MORE", "FAILS"
WORSE = (SLOWER, MORE)

LEVEL = 0.99
"""The probability with which all intervals of a comparison hold together."""

_TICK_MS = 1e-3  # no difference below one microsecond is called one
_CLOCK_MS = 5e-4  # what CUDA's documentation gives as the resolution of its events
_GRAIN_BYTES = 1 << 16  # what allocators round to, several times
_FLOOR_QUANTILE = 0.95
_Z95 = 1.959964
_NAMED = {
    name: f"case.{name}"
    for name in (
        *("asked", "backend", "pass", "length", "dtype", "source", "layer"),
        *("device", "causal", "batch", "heads", "kv_heads", "dim"),
    )
} | {"role": "role"}
_SHAPE = ["dtype", "device", "causal", "batch", "heads", "kv_heads", "dim"]
_FAILED = ("wrong", "crashed", "timeout", "oom", "unsupported")


def changes(a: pd.DataFrame, b: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """One row a case that both runs have, and a quantity (`time`, `memory`, `error`).

    `ratio` is b over a, `low` and `high` its interval, `margin` the relative change below which
    nothing is called one, `over` what the interval is taken over, `shared` whether the case's
    variance is drawn towards that of the others (false of what has no variance).

    Args:
        a: the records of one run, as `attnbench.load` gives them.
        b: those of the other.
        threshold: the relative change that counts as a regression, 0.05 for instance.
    """
    one, other = ({row["case_key"]: row for row in rows_of(frame)} for frame in (a, b))
    pairs = {key: (one[key], other[key]) for key in one if key in other}
    floor = max(aa_floor(a) or 0.0, aa_floor(b) or 0.0)
    rows = [
        *_times(pairs, floor, threshold),
        *_memories(pairs),
        *_errors(pairs),
        *_failures(pairs),
    ]
    columns = ["case_key", "quantity", *_NAMED, "a", "b", "ratio", "low", "high", "margin", "over"]
    columns += ["shared", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def facets(found: pd.DataFrame, quantity: str) -> list[pd.DataFrame]:
    """The changes of one quantity that have a ratio, cut by pass or source, and shape.

    What is in one facet may be in one figure; the one with most cases comes first.
    """
    rows = found[found.quantity.eq(quantity) & found.ratio.gt(0)]
    parts = [part for _, part in rows.groupby(["pass", "source", *_SHAPE], sort=True)]
    return sorted(parts, key=lambda part: -len(part))


def facet_text(part: pd.DataFrame) -> str:
    """One facet in words: forward, batch 1, 16 heads of 64, bfloat16 on cuda, causal."""
    row = part.iloc[0]
    what = str(row["pass"] or row.source)
    said = [what]
    said += [f"batch {int(row.batch)}"] if row.batch != "" else []
    if row.heads != "":
        heads, groups = int(row.heads), int(row.kv_heads)
        shared = "" if heads == groups else f"/{groups}"
        said.append(f"{heads}{shared} heads of {int(row.dim)}")
    said += [f"{row['dtype']}" + (f" on {row.device}" if row.device else "")]
    if row.causal != "":
        said.append("causal" if row.causal else "bidirectional")
    return ", ".join(said)


def only_in(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The cases of `a` that `b` has not, in few words."""
    found = a[~a.case_key.isin(set(b.case_key))]
    return pd.DataFrame([_name(row) for row in rows_of(found)], columns=list(_NAMED))


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries by column."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def regressions(found: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The changes for the worse beyond the threshold, and the cases that no longer work."""
    worse = found.verdict.isin(WORSE) & found.ratio.gt(1 + threshold)
    return found[worse | found.verdict.eq(FAILS)]


def aa_floor(frame: pd.DataFrame) -> float | None:
    """What a machine shows between two timings of the same thing: |ratio - 1|, 95 % of groups.

    None where no group of the run timed something twice.
    """
    column = "time.same_twice.median"
    if column not in frame:
        return None
    ratios = pd.to_numeric(frame[column], errors="coerce").dropna()
    if len(ratios) == 0:
        return None
    return float(np.quantile(np.abs(np.log(ratios)), _FLOOR_QUANTILE))


def repeats_of(row: Mapping[str, Any], over: str) -> Repeats | None:
    """The logarithms of a case's cold times over its `launches` or its `rounds`, or None.

    Where an old record has lost its samples, the spread is read back from its 95 % interval.
    """
    rounds = rounds_of(row)
    if over == "launches":
        good = [one for one in rounds if one and all(map(_is_time, one))]
        middles = [centre(np.log(one).tolist()) for one in good]
        return Repeats.around_mean(middles) if len(middles) > 1 else None
    values = [math.log(value) for one in rounds for value in one if _is_time(value)]
    if len(values) > 1:
        return Repeats.around_median(values)
    median, interval, count = (
        row.get(f"time.{name}") for name in ("cold_ms.median", "cold_ms.interval", "rounds")
    )
    if not isinstance(interval, list) or not median or not median > 0 or not count or count < 2:
        return None
    if not all(map(_is_time, interval)):
        return None
    error = math.log(interval[1] / interval[0]) / 2 / _Z95
    return Repeats(math.log(median), error**2 * count, int(count))


def rounds_of(row: Mapping[str, Any]) -> list[list[float]]:
    """The median cold time of each round, launch by launch."""
    launches = row.get("time.launches")
    if isinstance(launches, list):
        return [one["rounds_ms"] for one in launches if one.get("rounds_ms")]
    samples, count = row.get("time.cold_ms.samples"), row.get("time.rounds")
    if not isinstance(samples, list) or not count or len(samples) % int(count):
        return []
    return [np.median(np.reshape(samples, (int(count), -1)), axis=1).tolist()]


Pairs = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


def _times(pairs: Pairs, floor: float, threshold: float) -> list[dict[str, Any]]:
    timed = {key: pair for key, pair in pairs.items() if _both_ok(pair) and _has_time(pair)}
    several = {
        key for key, pair in timed.items() if all(repeats_of(row, "launches") for row in pair)
    }
    rows = []
    for over in ("launches", "rounds"):
        part = {
            key: (x, y)
            for key, (first, second) in timed.items()
            if (key in several) == (over == "launches")
            and (x := repeats_of(first, over))
            and (y := repeats_of(second, over))
        }
        # Corrected for all of them, whatever their intervals are over.
        level = 1 - (1 - LEVEL) * len(part) / max(1, len(timed))
        found = differences(
            [x for x, _ in part.values()],
            [y for _, y in part.values()],
            level=level,
            least=[_rounding(timed[key]) for key in part],
        )
        for key, value, half, shared in zip(
            part, found.value, found.half_width, found.shared.tolist(), strict=True
        ):
            first, second = timed[key]
            times = [row["time.cold_ms.median"] for row in (first, second)]
            margin = max(floor, math.log1p(_TICK_MS / min(times)))
            rows.append(
                _row(key, first, "time", times[0], times[1])
                | {
                    "ratio": math.exp(value),
                    "low": math.exp(value - half),
                    "high": math.exp(value + half),
                    "margin": math.expm1(margin),
                    "over": over,
                    "shared": shared,
                    "verdict": time_verdict(value, half, margin, math.log1p(threshold)),
                }
            )
    for key in timed.keys() - {row["case_key"] for row in rows}:
        times = [row["time.cold_ms.median"] for row in timed[key]]
        rows.append(
            _row(key, timed[key][0], "time", *times) | {"over": "nothing", "verdict": UNCLEAR}
        )
    return sorted(rows, key=lambda row: list(timed).index(row["case_key"]))


def time_verdict(value: float, half: float, margin: float, threshold: float) -> str:
    """The verdict on a logarithm of a ratio with half its interval; all in the same unit."""
    if value - half > margin:
        return SLOWER
    if value + half < -margin:
        return FASTER
    return SAME if abs(value) + half <= max(margin, threshold) else UNCLEAR


def _memories(pairs: Pairs) -> list[dict[str, Any]]:
    rows = []
    for key, pair in pairs.items():
        values = [_number(row, "memory.peak_bytes") for row in pair]
        if not _both_ok(pair) or any(value is None for value in values):
            continue
        one, other = (float(value or 0.0) for value in values)
        row = _row(key, pair[0], "memory", one, other)
        verdict = SAME if abs(other - one) <= _GRAIN_BYTES else MORE if other > one else LESS
        rows.append(row | {"margin": _GRAIN_BYTES / max(one, 1.0), "verdict": verdict})
    return rows


def _errors(pairs: Pairs) -> list[dict[str, Any]]:
    """Equal inputs give equal errors, but for rounding (the dtype error) and for sampled rows."""
    rows = []
    for key, pair in pairs.items():
        values = [_number(row, "fidelity.output_error.mean") for row in pair]
        if not _both_ok(pair) or any(value is None for value in values):
            continue
        one, other = (float(value or 0.0) for value in values)
        rounding = max(_number(row, "fidelity.dtype_error") or 0.0 for row in pair)
        sampling = math.hypot(*(_half(row.get("fidelity.rows.interval")) for row in pair))
        row = _row(key, pair[0], "error", one, other)
        if one > 0:
            spread = [(other - sampling) / one, (other + sampling) / one]
            row |= {"low": spread[0], "high": spread[1], "margin": rounding / one}
        row["over"] = "sampled rows" if sampling else "all rows"
        change = abs(other - one)
        if change <= rounding:
            verdict = SAME
        elif change <= rounding + sampling:
            verdict = UNCLEAR
        else:
            verdict = MORE if other > one else LESS
        rows.append(row | {"verdict": verdict})
    return rows


def _failures(pairs: Pairs) -> list[dict[str, Any]]:
    """What was ok and is not: it fails, unless it was only skipped."""
    return [
        _row(key, a, "status", math.nan, math.nan)
        | {"over": f"{b['status']}: {b['reason']}", "verdict": FAILS}
        for key, (a, b) in pairs.items()
        if a["status"] == "ok" and b["status"] in _FAILED
    ]


def _row(key: str, row: Mapping[str, Any], quantity: str, a: float, b: float) -> dict[str, Any]:
    ratio = b / a if a > 0 else math.nan
    empty = {"low": ratio, "high": ratio, "margin": math.nan, "over": "one value", "shared": False}
    return {
        "case_key": key, "quantity": quantity, **_name(row),
        "a": a, "b": b, "ratio": ratio, **empty,
    }  # fmt: skip


def _name(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {new: row.get(old) for new, old in _NAMED.items()}
    return {
        name: "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
        for name, value in found.items()
    }


def _both_ok(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    return all(row["status"] == "ok" for row in pair)


def _has_time(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> bool:
    return all((_number(row, "time.cold_ms.median") or 0.0) > 0 for row in pair)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _rounding(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> float:
    """The variance of a logarithm of a time that the clock rounds, evenly within its last tick."""
    least = min(row["time.cold_ms.median"] for row in pair)
    return float((_CLOCK_MS / least) ** 2 / 12)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return float(value)


def _half(interval: object) -> float:
    if not isinstance(interval, list) or len(interval) != 2 or None in interval:
        return 0.0
    return (float(interval[1]) - float(interval[0])) / 2
