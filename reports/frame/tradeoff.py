"""Cost beside error: the join, the frontier, and window + sinks at equal keys and equal time."""

import math

import numpy as np
import pandas as pd

from reports.frame.layers import on_common_layers
from reports.frame.names import parameters_of
from reports.frame.tidy import SHAPE

SINKS = "sinks"  # the window with sinks: what a cheap pattern has to beat
ORDER = ("fwd", "fwdbwd", "bwd")
"""The passes, in the order in which they are shown."""

_MEAN = [
    *("error", "projected_error", "later_half_error", "dtype_error", "total_variation", "kl"),
    *("recall_8", "recall_64", "dropped_mass", "row_p50", "row_p95", "row_p99", "uniform_error"),
    *("sinks_error", "keys_per_query", "entropy", "full_entropy", "kernel_error"),
]
_LINE = ["asked", "backend", "causal", "length", "heads", "kv_heads", "dim", "dtype", "device"]
_SAME = ["name", "label", "line", "aim", "ranked", "quadratic", "simulated", "sinks_asked"]


def over_layers(fidelity: pd.DataFrame) -> pd.DataFrame:
    """One row a (pattern, source, length): means over layers, and the best and worst layer."""
    good = on_common_layers(fidelity[fidelity.status.eq("ok") & fidelity.error.notna()])
    keys = [*_LINE, "source"]
    if len(good) == 0:
        extra = ["best_layer", "worst_layer", "layers", "layer_set"]
        return pd.DataFrame(columns=[*keys, *_SAME, *_MEAN, *extra])
    groups = good.groupby(keys, dropna=False, sort=True)
    means = groups[_MEAN].mean()
    means["layer_set"] = groups.layer.agg(lambda one: ", ".join(sorted({str(x) for x in one})))
    layers = groups.error.agg(["min", "max", "count"])
    layers.columns = pd.Index(["best_layer", "worst_layer", "layers"])
    return means.join(layers).join(groups[_SAME].first()).reset_index()


def tradeoff(cost: pd.DataFrame, fidelity: pd.DataFrame) -> pd.DataFrame:
    """Times joined with errors by asked pattern, causality, dtype and length.

    Of several backends of a pattern the fastest one counts, and a native one before a simulated.
    Rows are one a (setting, pass, pattern, length, source); `on_frontier` and the comparison with
    window + sinks are filled in within each (setting, pass, length, source).
    """
    timed = cost[cost.status.eq("ok") & cost.ms.notna()]
    timed = timed.sort_values(["simulated", "ms"], kind="stable")
    timed = timed.drop_duplicates([*SHAPE, "pass", "asked", "length"])
    erred = over_layers(fidelity).drop_duplicates(["asked", "causal", "dtype", "length", "source"])
    wanted = [*_MEAN, "best_layer", "worst_layer", "layers", "sinks_asked"]
    erred = erred[["asked", "causal", "dtype", "length", "source", *wanted]]
    erred = erred.rename(columns={"source": "fidelity_source"})
    joined = timed.drop(columns=["keys_per_query"]).merge(
        erred, on=["asked", "causal", "dtype", "length"], how="inner"
    )
    groups = [*SHAPE, "pass", "length", "fidelity_source"]
    if len(joined) == 0:
        extra = ["on_frontier", "sinks_at_keys", "sinks_at_ms", "sinks_keys_how"]
        return joined.reindex(columns=[*joined.columns, *extra])
    parts = [
        _with_sinks(part.assign(on_frontier=on_frontier(part)))
        for _, part in joined.groupby(groups, dropna=False, sort=True)
    ]
    return pd.concat(parts, ignore_index=True)


def eligible(frame: pd.DataFrame) -> pd.Series:
    """Which rows may stand on a frontier of speed.

    Not simulated ones, not patterns whose distance is no error, not the uniform map, which is a
    baseline, and not patterns that take quadratic time only to show what is possible.
    """
    bound = frame.quadratic & ~frame.name.eq("full")
    return ~frame.simulated & frame.ranked & ~bound & ~frame.name.eq("uniform")


def on_frontier(frame: pd.DataFrame) -> pd.Series:
    """Whether nothing eligible is both as fast and as close: the Pareto frontier of ms and error.

    An error of 1 is what an output of zeros has: what is not closer than that is on no frontier.
    """
    use = frame[eligible(frame) & frame.error.lt(1) & frame.ms.notna()]
    use = use.sort_values(["ms", "error"], kind="stable")
    best = use.error.cummin().shift(fill_value=math.inf)
    return pd.Series(frame.index.isin(use.index[use.error < best]), index=frame.index)


def staircase(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows on the frontier, from the fastest to the closest."""
    return frame[frame.on_frontier.astype(bool)].sort_values("ms")


def fastest_within(frame: pd.DataFrame, error: float) -> pd.Series | None:
    """The fastest eligible row whose error is at most this, or None."""
    use = frame[eligible(frame) & frame.error.le(error)].sort_values("ms", kind="stable")
    return None if len(use) == 0 else use.iloc[0]


def sinks_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """The measured window + sinks rows of one (setting, pass, length, source), by keys a query.

    Where several numbers of sinks were measured, the commonest is the curve.
    """
    curve = frame[frame.name.eq(SINKS) & ~frame.simulated]
    if len(curve):
        sink = curve.asked.map(lambda asked: parameters_of(asked).get("sink", "4"))
        curve = curve[sink.eq(sink.mode().iloc[0])]
    return curve.sort_values("keys_per_query", kind="stable")


def thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the windows + sinks between the smallest and the largest: they are one curve."""
    curve = frame[frame.name.eq(SINKS)].groupby("asked").keys_per_query.mean().sort_values()
    return frame[~frame.asked.isin(curve.index[1:-1])]


def at_equal_keys(curve: pd.DataFrame, keys: float) -> float:
    """The error of window + sinks with as many keys a query; NaN outside the measured windows."""
    return _along(curve.keys_per_query.to_numpy(float), curve.error.to_numpy(float), keys)


def at_equal_ms(curve: pd.DataFrame, ms: float) -> float:
    """The error of window + sinks that takes as long; NaN outside the measured windows.

    Windows that are slower than another and no closer are passed over.
    """
    curve = curve.sort_values("ms", kind="stable")
    curve = curve[curve.error < curve.error.cummin().shift(fill_value=math.inf)]
    return _along(curve.ms.to_numpy(float), curve.error.to_numpy(float), ms)


def _along(at: np.ndarray, error: np.ndarray, wanted: float) -> float:
    """Linear in the error over the logarithm of what is spent, between measured points only."""
    if len(at) < 2 or not at[0] <= wanted <= at[-1]:
        return math.nan
    return float(np.interp(math.log(wanted), np.log(at), error))


def _with_sinks(part: pd.DataFrame) -> pd.DataFrame:
    curve = sinks_curve(part)
    others = ~part.name.isin([SINKS, "full"])
    keys = [
        at_equal_keys(curve, x) if ok else math.nan
        for x, ok in _with(part, others, "keys_per_query")
    ]
    ms = [at_equal_ms(curve, x) if ok else math.nan for x, ok in _with(part, others, "ms")]
    keys_series = pd.Series(keys, index=part.index)
    recorded = part.sinks_error.where(others)  # at equal keys on the same inputs
    how = pd.Series("", index=part.index).mask(keys_series.notna(), "interpolated")
    return part.assign(
        sinks_at_keys=recorded.where(recorded.notna(), keys_series),
        sinks_at_ms=ms,
        sinks_keys_how=how.mask(recorded.notna(), "measured"),
    )


def _with(part: pd.DataFrame, chosen: pd.Series, column: str) -> list[tuple[float, bool]]:
    return list(zip(part[column].astype(float), chosen, strict=True))


def fixed_block(frame: pd.DataFrame) -> str | None:
    """The block that most patterns of a frame were asked with; None where none names one."""
    blocks = {asked: parameters_of(asked).get("block") for asked in sorted(frame.asked.unique())}
    names: dict[str, set[str]] = {}
    for asked, block in blocks.items():
        if block is not None:
            names.setdefault(block, set()).add(asked.partition("[")[0])
    if not names:
        return None
    return max(sorted(names), key=lambda block: len(names[block]))


def at_fixed_block(frame: pd.DataFrame, block: str | None) -> pd.DataFrame:
    """The rows with this block, and those of patterns that have none."""
    asked_block = frame.asked.map(lambda asked: parameters_of(asked).get("block"))
    return frame[asked_block.isna() | asked_block.eq(block or "")]


def headline_lengths(frame: pd.DataFrame, wanted: tuple[int, ...] = (4096, 8192)) -> list[int]:
    """4k and 8k where both were captured, otherwise the two longest lengths that were."""
    lengths = sorted(frame.length.unique())
    return [n for n in wanted if n in lengths] if set(wanted) <= set(lengths) else lengths[-2:]
