"""Records of frontiers to a tidy frame: one row a pattern, pass, shape and memory."""

from typing import Any

import pandas as pd

from reports.frame.names import by_number, labels

_SAID = {
    "memory": "memory",
    "time": "time: a longer call was not waited for",
    "length": "none up to here",
}
_CASE = ("asked", "backend", "pass", "batch", "heads", "kv_heads", "dim", "dtype", "device",
         "causal", "memory_bytes")  # fmt: skip


def frontier_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The longest lengths that fit, measured and predicted; NaN where not even the shortest did."""
    rows = [_row(one) for one in records if one["kind"] == "frontier"]
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    short = labels(list(frame.asked))
    frame["label"] = [short[one] for one in frame.asked]
    order = ["dtype", "heads", "dim", "batch", "causal", "memory_bytes", "pass"]
    return frame.sort_values(
        [*order, "longest", "label"],
        ascending=[*[True] * len(order), False, True],
        key=lambda one: one.map(by_number) if one.name == "label" else one,
        kind="stable",
    ).reset_index(drop=True)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    found, case = record["frontier"] or {}, record["case"]
    return {
        **{name: case[name] for name in _CASE},
        "ran": (record["implementation"] or {}).get("backend", ""),
        "longest": found.get("longest"),
        "predicted": found.get("predicted"),
        "held_bytes": found.get("held_bytes"),
        "ends": _SAID[found["limit"]] if found else f"{record['status']}: {record['reason']}",
    }
