"""What to use at one length under a budget: the candidates, the frontier, and from where it pays.

The error of a candidate comes from the longest fidelity case at or below the length, whose length
stands beside it: it was measured there and nowhere else.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.frame.scaling import BELOW, Crossover, crossover, is_dense, with_speedup
from reports.frame.tradeoff import eligible, on_frontier, over_layers

NEVER, BEYOND, WITHIN, UNKNOWN = "never", "beyond", "within", "unknown"
_SLOPE_POINTS = 3  # the longest lengths, along which a speed-up is followed further
_LEAST_SLOPE = 0.05  # of log speed-up over log length, below which it is not growing


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """From which length on a pattern beats dense: `within` the measured range, or where else.

    `kind` is within, below (faster at every measured length), beyond (it comes closer, so that
    `length` is where its last slope would lead), never (it does not) or unknown.
    """

    kind: str
    length: float | None
    low: float | None
    high: float | None
    shortest: int
    longest: int


def candidates(
    cost: pd.DataFrame, fidelity: pd.DataFrame, *, length: int, one: str, source: str
) -> pd.DataFrame:
    """One row a pattern of one setting that was timed at this length; the fastest backend of each.

    Adds `error`, `error_length`, `error_layers` and `worst_layer` (NaN where there is none).

    Args:
        cost: the cost cases of one setting.
        fidelity: all fidelity cases.
        length: tokens.
        one: the pass.
        source: of the errors.
    """
    rows = with_speedup(cost)
    rows = rows[rows.length.eq(length) & rows["pass"].eq(one) & rows.status.eq("ok")]
    rows = rows[rows.ms.notna()].sort_values(["simulated", "ms"], kind="stable")
    rows = rows.drop_duplicates("asked")
    judged = fidelity[fidelity.length.le(length) & fidelity.source.eq(source)]
    erred = over_layers(judged).sort_values(["length", "backend"], ascending=[False, True])
    erred = erred.drop_duplicates(["asked", "causal", "dtype"]).rename(
        columns={"length": "error_length", "layers": "error_layers"}
    )
    kept = ["error", "error_length", "error_layers", "worst_layer"]
    return rows.merge(
        erred[["asked", "causal", "dtype", *kept]], on=["asked", "causal", "dtype"], how="left"
    ).reset_index(drop=True)


def within_budget(
    frame: pd.DataFrame, *, max_error: float | None, max_bytes: float | None
) -> pd.DataFrame:
    """Add `refused`: why a candidate does not count, empty where it does; and `on_frontier`."""
    refused = pd.Series("", index=frame.index)
    if max_bytes is not None:
        refused = refused.mask(~frame.peak_bytes.le(max_bytes), "memory")
    if max_error is not None:
        refused = refused.mask(frame.error.gt(max_error), "error")
    refused = refused.mask(frame.error.ge(1), "no closer than zeros")
    refused = refused.mask(frame.error.isna(), "error unknown")
    refused = refused.mask(~eligible(frame), "not a fast form of attention's own aim")
    frame = frame.assign(refused=refused)
    use = frame[refused.eq("")]
    return frame.assign(on_frontier=frame.index.isin(use.index[on_frontier(use)]))


def recommended(frame: pd.DataFrame, max_error: float | None) -> pd.Series | None:
    """The fastest within the budget; dense attention itself where nothing is clearly faster.

    Without an allowed error only full attention counts, and None is what nothing fits into.
    """
    use = frame[frame.refused.eq("")].sort_values("ms", kind="stable")
    dense = use[use.name.eq("full")]
    if max_error is None:
        return None if len(dense) == 0 else dense.iloc[0]
    if len(use) == 0:
        return None
    best = use.iloc[0]
    unclear = not best.speedup_low > 1
    return dense.iloc[0] if len(dense) and unclear else best


def crossing(cost: pd.DataFrame, asked: str, one: str) -> Crossing:
    """From which length on a pattern beats the fastest dense kernel; of one setting."""
    rows = with_speedup(cost)
    rows = rows[rows.asked.eq(asked) & rows["pass"].eq(one) & rows.speedup.notna()]
    rows = rows.sort_values(["length", "ms"], kind="stable").drop_duplicates("length")
    lengths = rows.length.to_numpy()
    if len(lengths) == 0:
        return Crossing(kind=UNKNOWN, length=None, low=None, high=None, shortest=0, longest=0)
    middle, low, high = (
        rows[key].to_numpy(float) for key in ("speedup", "speedup_low", "speedup_high")
    )
    found = crossover(lengths, middle, low, high)
    kind, length = WITHIN, found.length
    if length is None and found.said == BELOW:
        kind = "below"
    elif length is None:
        length = _leads_to(lengths, middle)
        kind = NEVER if length is None else BEYOND
    return Crossing(
        kind=kind,
        length=length,
        low=_bound(found, lengths, high),
        high=_bound(found, lengths, low),
        shortest=int(lengths[0]),
        longest=int(lengths[-1]),
    )


def fastest_dense(cost: pd.DataFrame, *, length: int, one: str) -> pd.Series | None:
    """The fastest dense SDPA row of one setting at one length, or None."""
    rows = cost[is_dense(cost) & cost.length.eq(length) & cost["pass"].eq(one) & cost.ms.notna()]
    return None if len(rows) == 0 else rows.sort_values("ms", kind="stable").iloc[0]


def _bound(found: Crossover, lengths: np.ndarray, curve: np.ndarray) -> float | None:
    """Where a bound of the speed-up passes 1; None where it does so outside the measured range."""
    if found.length is None or not np.isfinite(curve).all():
        return None
    return crossover(lengths, curve).length


def _leads_to(lengths: np.ndarray, speedups: np.ndarray) -> float | None:
    """Where the slope of the last points would lead a speed-up below 1 to 1; None if nowhere."""
    use = np.isfinite(speedups) & (speedups > 0)
    x, y = np.log(lengths[use].astype(float))[-_SLOPE_POINTS:], np.log(speedups[use])
    y = y[-_SLOPE_POINTS:]
    if len(x) < 2:
        return None
    slope = float(np.polyfit(x, y, 1)[0])
    if slope < _LEAST_SLOPE or y[-1] <= y[0]:
        return None
    reach = x[-1] - y[-1] / slope
    return float(math.exp(reach)) if reach < x[-1] + math.log(1024) else None
