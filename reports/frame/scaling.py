"""How cost grows with length: speed-up over dense, where it passes 1, and the fitted exponent."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

NEVER = "never"
BELOW = "below the measured range"
UNKNOWN = "not measured"

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; beyond, 1.96 + 2.5 / freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

FLAT = math.sqrt(2.0)
"""Doubling the length must cost at least this much more; below it, overhead is what is timed."""


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """The slope of log cost over log length, with a 95 % interval, over these lengths."""

    value: float
    low: float
    high: float
    points: int
    shortest: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """From which length on a pattern is faster than dense; `said` where there is no such number."""

    length: float | None
    low: float | None
    high: float | None
    said: str


def fit_exponent(lengths: np.ndarray, costs: np.ndarray) -> Exponent | None:
    """Ordinary least squares on the logarithms; None below three points."""
    use = np.isfinite(costs) & (costs > 0)
    x, y = np.log(lengths[use].astype(float)), np.log(costs[use])
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    left = y - y.mean() - slope * centred
    freedom = len(x) - 2
    error = math.sqrt(float(left @ left) / freedom / spread)
    half = error * (_T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom)
    used = lengths[use]
    return Exponent(
        value=slope,
        low=slope - half,
        high=slope + half,
        points=len(x),
        shortest=int(used.min()),
        longest=int(used.max()),
    )


def above_floor(lengths: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Which points lie beyond the flat start, where launching costs more than computing.

    The flat start ends at the first length from which the cost grows faster than the square root.
    """
    keep = np.ones(len(lengths), dtype=bool)
    for index in range(len(lengths) - 1):
        doublings = math.log2(lengths[index + 1] / lengths[index])
        if costs[index + 1] / costs[index] >= FLAT**doublings:
            break
        keep[index] = False
    return keep


def exponents(frame: pd.DataFrame, value: str = "ms") -> pd.DataFrame:
    """One row a line (asked, backend, pass) of one setting: its exponent, or NaN with a reason."""
    rows = []
    for (asked, backend, one), part in frame.groupby(["asked", "backend", "pass"], sort=True):
        good = part[part[value].gt(0)].drop_duplicates("length").sort_values("length")
        lengths, costs = good.length.to_numpy(), good[value].to_numpy(dtype=float)
        keep = above_floor(lengths, costs)
        fit = fit_exponent(lengths[keep], costs[keep])
        row = {"asked": asked, "backend": backend, "pass": one, "label": part.label.iloc[0]}
        row |= {"left_out": int((~keep).sum())}
        if fit is None:
            few = f"{int(keep.sum())} of {len(keep)} lengths above the floor: three are needed"
            rows.append(row | {"exponent": math.nan, "low": math.nan, "high": math.nan, "why": few})
        else:
            said = {"exponent": fit.value, "low": fit.low, "high": fit.high, "why": ""}
            rows.append(row | said | {"shortest": fit.shortest, "longest": fit.longest})
    return pd.DataFrame(rows)


def is_dense(frame: pd.DataFrame) -> pd.Series:
    """Which rows are a dense SDPA kernel: what every speed-up is measured against."""
    fused = frame.ran.str.startswith("sdpa") | frame.backend.str.startswith("sdpa")
    return frame.name.eq("full") & fused & ~frame.simulated


def with_speedup(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `speedup`, its interval and `dense`, the row it is over: the fastest dense SDPA one.

    The ratio that was paired round by round is used where the record has it; otherwise the ratio
    of the medians, with the widest interval that the two intervals allow.
    """
    frame = frame.copy()
    dense = frame[is_dense(frame) & frame.ms.notna()].sort_values("ms", kind="stable")
    fastest = dense.drop_duplicates("group").set_index("group")
    best = fastest.reindex(frame.group)
    ms, low, high = (best[key].to_numpy(dtype=float) for key in ("ms", "ms_low", "ms_high"))
    paired = frame.paired_speedup.notna()
    named = (fastest.label + " " + fastest.ran).reindex(frame.group).fillna("").to_numpy()
    frame["dense_ms"] = ms
    frame["speedup"] = frame.paired_speedup.where(paired, ms / frame.ms)
    frame["speedup_low"] = frame.paired_speedup_low.where(paired, low / frame.ms_high)
    frame["speedup_high"] = frame.paired_speedup_high.where(paired, high / frame.ms_low)
    frame["dense"] = frame.paired_dense.where(paired & frame.paired_dense.ne(""), named)
    # What waited for Python says nothing of the device, so it is ahead of or behind nothing.
    speedups = ["speedup", "speedup_low", "speedup_high"]
    if "host" in frame:
        frame.loc[frame.host.ne(""), speedups] = math.nan
    return frame


def crossover(
    lengths: np.ndarray,
    speedups: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> Crossover:
    """Where the speed-up passes 1 for good, by interpolation of its logarithm over log length.

    The interval comes from the same interpolation of the upper and the lower bounds.
    """
    length, said = _passes_one(lengths, speedups)
    if length is None:
        return Crossover(length=None, low=None, high=None, said=said)
    bounds = [
        _passes_one(lengths, curve)[0] if curve is not None and np.isfinite(curve).all() else None
        for curve in (high, low)
    ]
    return Crossover(length=length, low=bounds[0], high=bounds[1], said=said)


def crossovers(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a line (asked, backend, pass) of a frame with speed-ups; dense rows are left out.

    `waited` is true where every time of a line holds waits for Python, so that it has no speed-up.
    """
    rows = []
    bounds_of = ("speedup", "speedup_low", "speedup_high")
    lines = frame[~frame.name.eq("full")].groupby(["asked", "backend", "pass"], sort=True)
    for (asked, backend, one), part in lines:
        good = part[part.speedup.notna()].drop_duplicates("length").sort_values("length")
        bounds = (good.speedup_low.to_numpy(float), good.speedup_high.to_numpy(float))
        found = crossover(good.length.to_numpy(), good.speedup.to_numpy(float), *bounds)
        last = good.iloc[-1] if len(good) else dict.fromkeys(bounds_of, math.nan)
        shortest, longest = (int(good.length.iloc[end]) if len(good) else 0 for end in (0, -1))
        rows.append(
            {
                "asked": asked,
                "backend": backend,
                "pass": one,
                "label": part.label.iloc[0],
                "name": part.name.iloc[0] if isinstance(part.name, pd.Series) else "",
                "crossover": found.length if found.length is not None else math.nan,
                "low": found.low if found.low is not None else math.nan,
                "high": found.high if found.high is not None else math.nan,
                "said": found.said,
                "shortest": shortest,
                "longest": longest,
                "speedup_at_longest": last["speedup"],
                "slowest_at_longest": last["speedup_low"],
                "fastest_at_longest": last["speedup_high"],
                "simulated": bool(part.simulated.any()),
                "quadratic": bool(part.quadratic.any()),
                "waited": _waited(part),
            }
        )
    return pd.DataFrame(rows)


def _waited(part: pd.DataFrame) -> bool:
    timed = part[part.ms.notna()]
    return "host" in timed and len(timed) > 0 and bool(timed.host.ne("").all())


def _passes_one(lengths: np.ndarray, speedups: np.ndarray) -> tuple[float | None, str]:
    use = np.isfinite(speedups) & (speedups > 0)
    x, y = np.log(lengths[use].astype(float)), np.log(speedups[use])
    if len(x) == 0:
        return None, UNKNOWN
    if y[-1] <= 0:
        return None, NEVER
    behind = np.flatnonzero(y <= 0)
    if len(behind) == 0:
        return None, BELOW
    i = int(behind[-1])
    share = -y[i] / (y[i + 1] - y[i])
    length = float(np.exp(x[i] + share * (x[i + 1] - x[i])))
    return length, f"{length:,.0f}"
