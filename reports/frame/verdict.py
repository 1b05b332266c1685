"""The numbers of the verdict: who overtakes dense attention, who is fastest within an error."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.frame.scaling import crossovers, is_dense
from reports.frame.tradeoff import SINKS, fastest_within

LIMITS = (0.1, 0.2, 0.4)
CLOSE = LIMITS[-1]  # a larger output error is called far: an output of zeros has 1


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """How many patterns are closer than window + sinks, and of how many."""

    equal_ms: int
    of_ms: int
    equal_keys: int
    of_keys: int


def overtakes(cost: pd.DataFrame, one: str, joined: pd.DataFrame) -> pd.DataFrame:
    """The crossovers of one pass that count: native, ranked, not quadratic, the earliest first.

    Where errors are known, patterns that are no closer than an output of zeros do not count.
    `at` is the crossover, or a pattern's shortest length where it is faster from there on; it is
    set only where the whole interval at the longest length says faster, and `unclear` where that
    interval holds 1.
    """
    if len(joined):
        closest = joined.groupby("asked").error.min()
        cost = cost[~cost.asked.isin(closest.index[closest.ge(1)])]
    rows = crossovers(cost[cost["pass"].eq(one) & cost.ranked])
    if len(rows) == 0:
        return rows
    rows = rows[~rows.simulated & ~rows.quadratic & ~rows.asked.str.startswith("uniform")]
    low = rows.slowest_at_longest.fillna(rows.speedup_at_longest)
    high = rows.fastest_at_longest.fillna(rows.speedup_at_longest)
    at = rows.crossover.where(rows.crossover.notna(), rows.shortest.astype(float)).where(low.gt(1))
    unclear = low.le(1) & high.ge(1)
    return rows.assign(at=at, unclear=unclear).sort_values(["at", "asked"], kind="stable")


def with_errors(found: pd.DataFrame, joined: pd.DataFrame) -> pd.DataFrame:
    """`overtakes` with `error` and `error_length`: at the longest length of each one's errors.

    Without those that have no error, the closest first.
    """
    known = joined.sort_values("length", kind="stable").drop_duplicates("asked", keep="last")
    known = known.set_index("asked")[["error", "length"]]
    known = known.rename(columns={"length": "error_length"})
    rows = found.join(known, on="asked")
    return rows[rows.error.notna()].sort_values(["error", "asked"], kind="stable")


def worth_it(found: pd.DataFrame) -> pd.DataFrame:
    """Of `with_errors` those ahead of dense that no other one beats in error, start and gain.

    One is beaten by another that is at least as close, overtakes no later and gains no less at
    a length no shorter, and is better in one of these.
    """
    ahead = found[found["at"].notna()]
    kept = []
    for one in ahead.itertuples():
        beaten = ahead[
            ahead.error.le(one.error) & ahead["at"].le(one.at) & ahead.longest.ge(one.longest)
            & ahead.speedup_at_longest.ge(one.speedup_at_longest) & (ahead.index != one.Index)
        ]  # fmt: skip
        kept.append(len(beaten) == 0)
    return ahead[kept]


def noise(cost: pd.DataFrame) -> float:
    """Half the width of the median case's 95 % interval, as a share of its median."""
    return float(((cost.ms_high - cost.ms_low) / cost.ms / 2).median())


def fastest_dense(cost: pd.DataFrame, one: str) -> pd.DataFrame:
    """The fastest dense SDPA row at each length of one pass."""
    rows = cost[cost["pass"].eq(one) & is_dense(cost) & cost.ms.notna()]
    return rows.sort_values("ms", kind="stable").drop_duplicates("length").sort_values("length")


def choices(joined: pd.DataFrame, limits: tuple[float, ...] = LIMITS) -> pd.DataFrame:
    """For each length the fastest pattern whose error is within each limit, dense itself too."""
    kept = ["length", "limit", "asked", "line", "ms", "error", "worst_layer", "speedup", "dense"]
    rows = []
    for _, part in joined.groupby("length", sort=True):
        for limit in limits:
            best = fastest_within(part, limit)
            if best is not None:
                rows.append(
                    {
                        "length": int(part.length.iloc[0]), "limit": limit, "asked": best.asked,
                        "line": best.line, "ms": best.ms, "error": best.error,
                        "worst_layer": best.worst_layer, "speedup": best.speedup,
                        "dense": best["name"] == "full",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=kept)


def rivals(joined: pd.DataFrame) -> Rivals:
    """How patterns fare against window + sinks at the longest length of a trade-off.

    Quadratic patterns do not count: they show what is possible, not what is fast.
    """
    use = joined[joined.length.eq(joined.length.max()) & joined.ranked & ~joined.quadratic]
    use = use[~use.name.isin([SINKS, "full", "uniform"])]
    ms, keys = use[use.sinks_at_ms.notna()], use[use.sinks_at_keys.notna()]
    return Rivals(
        equal_ms=int((ms.error < ms.sinks_at_ms).sum()),
        of_ms=len(ms),
        equal_keys=int((keys.error < keys.sinks_at_keys).sum()),
        of_keys=len(keys),
    )


def heads_of(fidelity: pd.DataFrame) -> int:
    """How many heads an error is a mean over, at most."""
    counts = [len(one) for one in fidelity.error_per_head if isinstance(one, list)]
    return int(np.max(counts)) if counts else 0
