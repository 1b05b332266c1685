"""Records to two tidy frames, cost and fidelity: one row a case, short column names, units in them.

A *setting* is all that a line in a figure must share: causality, batch, heads, head width, dtype,
device, machine and source. Figures are drawn for one setting each and refuse to mix them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from attnbench import PATTERNS
from reports.frame.marks import fired, marked_lines
from reports.frame.names import by_number, labels, name_of

SHAPE = ["causal", "batch", "heads", "kv_heads", "dim", "dtype", "device", "machine", "source"]

_CASE = {
    name: f"case.{name}"
    for name in (
        *("asked", "pattern", "backend", "causal", "length", "heads", "kv_heads", "dim", "dtype"),
        *("device", "source", "seed"),
    )
}
_BOTH = {
    **_CASE,
    "case_key": "case_key",
    "group": "group",
    "role": "role",
    "status": "status",
    "reason": "reason",
    "ran": "implementation.backend",
    "implementation": "implementation.kind",
    "keys_per_query": "cost.keys_per_query",
    "scored_pairs": "cost.scored_pairs",
    "machine": "machine",
}
COST = {
    **_BOTH,
    "pass": "case.pass",
    "batch": "case.batch",
    "ms": "time.cold_ms.median",
    "p20_ms": "time.cold_ms.p20",
    "p80_ms": "time.cold_ms.p80",
    "samples": "time.cold_ms.n",
    "graph_ms": "time.graph_ms.median",
    "wall_ms": "time.eager_wall_ms.median",
    "first_call_ms": "time.first_call_ms",
    "rounds": "time.rounds",
    "stopped": "time.stopped",
    "host": "time.notes.host",
    "paired_speedup": "time.ratio_to_dense.median",
    "paired_dense": "time.ratio_to_dense.dense",
    "peak_bytes": "memory.peak_bytes",
    "saved_bytes": "memory.saved_bytes",
    "reserved_bytes": "memory.reserved_bytes",
    "memory_how": "memory.how",
    "flops": "cost.flops",
    "bytes": "cost.bytes",
    "computed_pairs": "time.roof.computed_pairs",
    "roof_share": "time.roof.share",
    "roof_bound": "time.roof.bound",
}
_COST_INTERVALS = {
    "ms": "time.cold_ms.interval",
    "paired_speedup": "time.ratio_to_dense.interval",
}
_MAP = "fidelity.map."
FIDELITY = {
    **_BOTH,
    "layer": "case.layer",
    "error": "fidelity.output_error.mean",
    "error_per_head": "fidelity.output_error.per_head",
    "later_half_error": "fidelity.output_error_later_half.mean",
    "projected_error": "fidelity.output_error_projected.mean",
    "row_p50": "fidelity.row_error.p50",
    "row_p95": "fidelity.row_error.p95",
    "row_p99": "fidelity.row_error.p99",
    "row_worst": "fidelity.row_error.worst",
    "by_quantile": "fidelity.row_error.by_quantile",
    "position_edges": "fidelity.row_error.by_position.edges",
    "position_p50": "fidelity.row_error.by_position.p50",
    "position_p95": "fidelity.row_error.by_position.p95",
    "kernel_error": "fidelity.kernel_error",
    "dtype_error": "fidelity.dtype_error",
    "own_reference_error": "fidelity.own_reference_error",
    "total_variation": _MAP + "total_variation.mean",
    "total_variation_p95": _MAP + "total_variation.p95",
    "kl": _MAP + "kl.mean",
    "dropped_mass": _MAP + "dropped_mass",
    "recall_8": _MAP + "recall.8",
    "recall_64": _MAP + "recall.64",
    "entropy": _MAP + "entropy",
    "full_entropy": _MAP + "full_entropy",
    "edges": _MAP + "mass_by_distance.edges",
    "full_mass": _MAP + "mass_by_distance.full",
    "effective_mass": _MAP + "mass_by_distance.effective",
    "negative_share": _MAP + "negative_share",
    "leakage": _MAP + "leakage",
    "linearity": _MAP + "linearity",
    "dq_error": "fidelity.gradient_error.dq.mean",
    "dk_error": "fidelity.gradient_error.dk.mean",
    "dv_error": "fidelity.gradient_error.dv.mean",
    "exact_rows": "fidelity.rows.exact",
    "sampled_rows": "fidelity.rows.sampled",
    "uniform_error": "fidelity.baselines.uniform",
    "sinks_asked": "fidelity.baselines.sinks.asked",
    "sinks_error": "fidelity.baselines.sinks.error",
}
_FIDELITY_INTERVALS = {"error": "fidelity.rows.interval"}
_TEXT = {
    *("asked", "pattern", "backend", "dtype", "device", "source", "case_key", "group", "status"),
    *(
        "reason",
        "role",
        "ran",
        "implementation",
        "machine",
        "pass",
        "stopped",
        "paired_dense",
        "host",
    ),
    *("memory_how", "sinks_asked", "host", "roof_bound"),
}
_LISTS = {
    *("error_per_head", "by_quantile", "edges", "full_mass", "effective_mass"),
    *("position_edges", "position_p50", "position_p95"),
}
_WHOLE = ["length", "heads", "kv_heads", "dim", "batch"]


def cost_frame(records: pd.DataFrame) -> pd.DataFrame:
    """The cost cases that were asked for, and the dense rows; times are NaN unless a case is ok."""
    return _tidy(records, "cost", COST, _COST_INTERVALS)


def window_frame(records: pd.DataFrame) -> pd.DataFrame:
    """The windows that were timed beside each group for having as many keys as its patterns.

    They differ from length to length, so that they are no lines, and nobody asked for them.
    """
    if "role" not in records:
        return cost_frame(records.iloc[:0])
    return _tidy(records, "cost", COST, _COST_INTERVALS, windows=True)


def fidelity_frame(records: pd.DataFrame) -> pd.DataFrame:
    """The fidelity cases, one row a layer of a captured source."""
    return _tidy(records, "fidelity", FIDELITY, _FIDELITY_INTERVALS)


def facts(name: str) -> Mapping[str, Any]:
    """What the registry says of a pattern; a name that it does not know is never ranked."""
    found = PATTERNS.get(name)
    aim = found.aim if found is not None else "unknown"
    return {
        "aim": aim,
        "quadratic": bool(found is not None and found.quadratic),
        "ranked": aim in ("exact", "subset", "approximates"),
    }


def each_row(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, whose fields have the types that the columns have."""
    yield from frame.itertuples()


def one_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself, where its rows may share a line.

    Raises:
        ValueError: devices, dtypes or shapes are mixed; draw one figure a setting.
    """
    if names := mixed(frame):
        raise ValueError(f"a line cannot mix {', '.join(names)}: draw one figure a setting")
    return frame


def mixed(frame: pd.DataFrame) -> list[str]:
    """The parts of a setting that differ between the rows."""
    return [key for key in SHAPE if key in frame and frame[key].nunique(dropna=False) > 1]


def settings(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The frame cut into its settings, the one with most results first."""
    if len(frame) == 0:
        return []
    parts = [part for _, part in frame.groupby(SHAPE, dropna=False, sort=True)]
    return sorted(parts, key=lambda part: -int((part.status == "ok").sum()))


def setting_text(frame: pd.DataFrame) -> str:
    """One setting in words: batch 1, 16 heads of 64, bfloat16 on cuda, causal."""
    row = one_setting(frame).iloc[0]
    heads = str(row.heads) if row.heads == row.kv_heads else f"{row.heads}/{row.kv_heads}"
    sight = "causal" if row.causal else "bidirectional"
    return f"batch {row.batch}, {heads} heads of {row.dim}, {row['dtype']} on {row.device}, {sight}"


def _tidy(
    records: pd.DataFrame,
    kind: str,
    columns: Mapping[str, str],
    intervals: Mapping[str, str],
    *,
    windows: bool = False,
) -> pd.DataFrame:
    rows = records[records["kind"] == kind] if len(records) else records
    if "role" in rows:
        own = rows["role"].ne("comparison") | rows["case.asked"].map(name_of).eq("full")
        rows = rows[own if not windows else ~own]
    frame = pd.DataFrame({new: _column(rows, old, new) for new, old in columns.items()})
    for new, old in intervals.items():
        bounds = [_pair(value) for value in rows[old]] if old in rows else []
        bounds = bounds or [(math.nan, math.nan)] * len(rows)
        frame[f"{new}_low"] = [low for low, _ in bounds]
        frame[f"{new}_high"] = [high for _, high in bounds]
    for key in _WHOLE:
        if key in frame:
            frame[key] = frame[key].fillna(1).astype(int)
    frame["causal"] = frame["causal"].eq(True)
    frame["name"] = frame["asked"].map(name_of)
    known = {name: facts(name) for name in frame["name"].unique()}
    for key in ("aim", "quadratic", "ranked"):
        frame[key] = [known[name][key] for name in frame["name"]]
    frame["simulated"] = frame["implementation"].eq("simulated")
    short = labels(list(frame["asked"]))
    frame["label"] = [short[one] for one in frame["asked"]]
    frame["line"] = [
        label if backend in ("auto", "") else f"{label} ({backend})"
        for label, backend in zip(frame["label"], frame["backend"], strict=True)
    ]
    frame["fired"] = fired(rows)
    frame["line"] = marked_lines(frame)
    order = [key for key in ("name", "asked", "backend", "length", "layer") if key in frame]
    return frame.sort_values(
        [*order, "case_key"], kind="stable", key=lambda one: one.map(by_number)
    ).reset_index(drop=True)


def _column(rows: pd.DataFrame, old: str, new: str) -> Any:
    found = rows[old] if old in rows else pd.Series([None] * len(rows), index=rows.index)
    found = found.reset_index(drop=True)
    if new in _LISTS:
        return found.astype(object)
    if new == "layer":
        return found.map(_layer)
    if new in _TEXT:
        return found.astype(object).where(found.notna(), "").map(str)
    return found if new == "causal" else pd.to_numeric(found, errors="coerce")


def _layer(value: Any) -> str:
    """The layer as text; empty where a source has none. Integers that became floats are mended."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pair(value: Any) -> tuple[float, float]:
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = (math.nan if x is None else float(x) for x in value)
        return low, high
    return math.nan, math.nan
