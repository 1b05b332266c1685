"""Records of evaluations to a tidy frame: one row a schedule, length and swapped layer."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from attnbench.statistics import mean_interval
from reports.frame.names import by_number, name_of
from reports.frame.tidy import facts

_CASE = (
    *("asked", "pattern", "backend", "length", "layers", "layer", "excerpts", "source", "text"),
    *("dtype", "device", "seed"),
)
_MEANS = {
    "loss": "loss",
    "above_full": "loss_above_full",
    "later_half": "later_half_loss",
    "kl": "kl_to_full",
    "agreement": "top1_agreement",
    "second_copy": "second_copy_loss",
}


def evaluation_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The evaluations that ended well: means and 95 % intervals, the same ones for any order.

    `against_rival` is the mean of the losses less those of window + 4 sinks at equal keys, excerpt
    by excerpt, with its interval; it is below zero where the schedule is better.
    """
    good = [one for one in records if one["kind"] == "evaluation" and one["status"] == "ok"]
    losses = {_place(one): one["evaluation"]["loss"]["per_excerpt"] for one in good}
    frame = pd.DataFrame([_row(one, losses) for one in good])
    if len(frame) == 0:
        return frame
    return frame.sort_values(
        ["source", "text", "length", "asked", "layer"], key=lambda one: one.map(by_number),
        kind="stable",
    ).reset_index(drop=True)  # fmt: skip


def failed_frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """The evaluations without a result, with their reasons."""
    rows = [
        {
            "status": one["status"], "patterns": one["case"]["asked"],
            "length": one["case"]["length"], "layer": one["case"]["layer"],
            "reason": one["reason"],
        }
        for one in records
        if one["kind"] == "evaluation" and one["status"] != "ok"
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["status", "patterns", "length", "layer", "reason"])


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows where the whole schedule is in the model."""
    return frame[frame.layer.isna()]


def single(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows where one layer is swapped alone."""
    return frame[frame.layer.notna()]


def _row(record: Mapping[str, Any], losses: Mapping[Any, list[float]]) -> dict[str, Any]:
    case, found, time = record["case"], record["evaluation"], record["time"] or {}
    row: dict[str, Any] = {name: case[name] for name in _CASE}
    row["layer"] = math.nan if case["layer"] is None else float(case["layer"])
    # A schedule goes by its own name: what stands before its first bracket.
    row["name"] = name_of(case["asked"]).partition(":")[0]
    row["role"], row["machine"] = record["role"], record["machine"]
    row["ranked"] = facts(row["name"])["aim"] not in ("reshapes", "replaces")
    row["keys_per_query"] = record["cost"]["keys_per_query"]
    row["kv_bytes"], row["flops"] = record["cost"]["kv_bytes"], record["cost"]["flops"]
    prefill = time.get("prefill_ms") or {}
    row["ms"] = prefill.get("median", math.nan)
    row["ms_low"], row["ms_high"] = prefill.get("interval") or (math.nan, math.nan)
    row["peak_bytes"] = (record["memory"] or {}).get("peak_bytes", math.nan)
    for name, key in _MEANS.items():
        _put(row, name, found[key])
    row["perplexity"] = math.exp(row["loss"])
    full = row["loss"] - row["above_full"]  # the paired interval, laid around full's own loss
    for side in ("low", "high"):
        row[f"perplexity_{side}"] = math.exp(full + row[f"above_full_{side}"])
    row["keys_off"] = (found.get("keys") or {}).get("off", math.nan)
    row["layer_error"] = (found.get("layer_error") or {}).get("mean", math.nan)
    rival = found["rival"] or {}
    row["rival"] = rival.get("asked", "")
    row["matched"] = bool(rival.get("matched", True))
    _put(row, "against_rival", _against(record, rival, losses))
    return row


def _against(
    record: Mapping[str, Any], rival: Mapping[str, Any], losses: Mapping[Any, list[float]]
) -> dict[str, Any] | None:
    place = (*_place(record)[:-2], rival.get("asked"), None)
    if place not in losses:
        return None
    theirs = losses[place]
    ours = record["evaluation"]["loss"]["per_excerpt"]
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two evaluations share that read the same excerpts, then the schedule and the layer."""
    case = record["case"]
    same = ("source", "text", "length", "excerpts", "seed", "dtype", "device", "backend")
    return (*(case[name] for name in same), record["machine"], case["asked"], case["layer"])


def _put(row: dict[str, Any], name: str, found: Mapping[str, Any] | None) -> None:
    row[name] = math.nan if found is None else found["mean"]
    bounds = (found or {}).get("interval")
    row[f"{name}_low"], row[f"{name}_high"] = bounds or (row[name], row[name])
