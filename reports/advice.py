"""What to use: `advise` weighs a run under a length and a budget; `as_text` says it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from attnbench import BadInput
from attnbench.records import finite
from reports.frame.change import rows_of
from reports.frame.choice import (
    BEYOND,
    NEVER,
    WITHIN,
    Crossing,
    candidates,
    crossing,
    recommended,
    within_budget,
)
from reports.frame.tidy import SHAPE, setting_text, settings
from reports.frame.tradeoff import staircase
from reports.run import Run, read
from reports.text import (
    bytes_text,
    joined,
    ms_text,
    ratio_text,
    size_text,
    three_places,
    two_digits,
)

_KEPT = [
    *("asked", "pattern", "ran", "ms", "ms_low", "ms_high", "peak_bytes", "saved_bytes"),
    *("speedup", "speedup_low", "speedup_high", "dense", "error", "error_length", "error_layers"),
    *("worst_layer", "refused", "on_frontier"),
]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What was asked, all candidates, the chosen one, and from where each pays."""

    run: Path
    length: int
    one: str
    max_error: float | None
    max_bytes: float | None
    setting: str
    machine: str
    source: str
    frame: pd.DataFrame
    choice: dict[str, Any] | None
    crossings: dict[str, Crossing]
    remarks: tuple[str, ...]


def advise(
    folder: Path,
    *,
    length: int,
    one: str = "fwd",
    max_error: float | None = None,
    max_bytes: float | None = None,
    source: str | None = None,
) -> Advice:
    """The patterns worth using at one length under a budget, from what a run measured.

    Args:
        folder: a run folder with times and errors.
        length: tokens; times must have been measured there.
        one: the pass, such as fwd.
        max_error: the relative error of the output that is allowed; only full attention if None.
        max_bytes: peak memory above the inputs.
        source: of the errors; what was captured from a model, where the run has that, if None.

    Raises:
        BadInput: the run has no time at this length, or no error at or below it.
    """
    run = read(folder)
    cost, others = _setting(run, length, one)
    chosen, sources = _source(run, cost, length, source)
    frame = candidates(cost, run.fidelity, length=length, one=one, source=chosen)
    frame = within_budget(frame, max_error=max_error, max_bytes=max_bytes)
    best = recommended(frame, max_error)
    told = [*staircase(frame).asked, *([] if best is None else [str(best.asked)])]
    remarks = []
    if others:
        remarks.append(f"the run has {others} more settings with this length; this one has most")
    if len(sources) > 1:
        rest = joined(one for one in sources if one != chosen)
        remarks.append(f"errors on {rest} are there too: --source asks for them")
    return Advice(
        run=folder,
        length=length,
        one=one,
        max_error=max_error,
        max_bytes=max_bytes,
        setting=setting_text(cost),
        machine=str(cost.machine.iloc[0]),
        source=chosen,
        frame=frame,
        choice=None if best is None else {str(key): value for key, value in best.items()},
        crossings={asked: crossing(cost, asked, one) for asked in dict.fromkeys(told)},
        remarks=tuple(remarks),
    )


def as_text(found: Advice) -> str:
    """For people."""
    parts = [
        f"{found.one} at {size_text(found.length)}, {found.setting}, on {found.machine}; "
        f"{_budget(found)}",
        _recommended(found),
    ]
    steps = staircase(found.frame)
    if len(steps):
        parts += ["On the frontier (nothing within the budget is both faster and closer):"]
        parts += [_table(found, steps)]
    out = found.frame[found.frame.refused.isin(["memory", "error"])]
    if len(out):
        named = joined(f"{name} ({_over(out, name)})" for name in sorted(set(out.refused)))
        parts.append(f"Over the budget: {named}.")
    unknown = found.frame[found.frame.refused.eq("error unknown")]
    if len(unknown):
        parts.append(f"Without a known error, so not considered: {joined(unknown.asked)}.")
    parts += [*(f"Note: {remark}." for remark in found.remarks), _where(found)]
    return "\n\n".join(parts)


def as_document(found: Advice) -> dict[str, Any]:
    """For programs; null where there is no number."""
    frame = found.frame.reindex(columns=_KEPT)
    choice = None if found.choice is None else {key: found.choice.get(key) for key in _KEPT}
    document = {
        "schema": 1,
        "run": str(found.run),
        "length": found.length,
        "pass": found.one,
        "max_error": found.max_error,
        "max_bytes": found.max_bytes,
        "setting": found.setting,
        "machine": found.machine,
        "error_source": found.source,
        "recommended": choice,
        "why": _recommended(found),
        "candidates": [_plain(row) for row in rows_of(frame)],
        "crossovers": {asked: vars(one) for asked, one in found.crossings.items()},
        "remarks": list(found.remarks),
    }
    if choice is not None:
        document["recommended"] = _plain(choice)
    cleaned: dict[str, Any] = finite(document)
    return cleaned


def crossing_text(one: Crossing) -> str:
    """From which length on it pays, in words."""
    longest = size_text(one.longest)
    if one.kind == WITHIN and one.length is not None:
        low = "below the measured range" if one.low is None else _tokens(one.low)
        high = f"beyond {longest}" if one.high is None else _tokens(one.high)
        return f"from about {_tokens(one.length)} on ({low} to {high})"
    if one.kind == "below":
        return f"at every measured length ({size_text(one.shortest)} to {longest})"
    if one.kind == BEYOND and one.length is not None:
        return (
            f"beyond the measured range: not up to {longest}; "
            f"its last slope leads to about {_tokens(one.length)}"
        )
    return f"never up to {longest}, nor coming closer" if one.kind == NEVER else "not measured"


def _setting(run: Run, length: int, one: str) -> tuple[pd.DataFrame, int]:
    good = run.cost[run.cost.status.eq("ok") & run.cost.ms.notna() & run.cost["pass"].eq(one)]
    if len(good) == 0:
        passes = joined(sorted(set(run.cost["pass"][run.cost.ms.notna()]))) or "none"
        raise BadInput(f"{run.folder} has no times of pass {one!r}; it has {passes}")
    here = good[good.length.eq(length)]
    if len(here) == 0:
        lengths = ", ".join(size_text(int(n)) for n in sorted(set(good.length)))
        raise BadInput(
            f"{run.folder} has no times of {one} at length {size_text(length)}; it has "
            f"{lengths}: run --length {size_text(length)} --extend --out {run.folder} adds it"
        )
    first, *rest = settings(here)
    shape = first.iloc[0]
    return run.cost[(run.cost[SHAPE] == shape[SHAPE]).all(axis=1)], len(rest)


def _source(
    run: Run, cost: pd.DataFrame, length: int, asked: str | None
) -> tuple[str, tuple[str, ...]]:
    causal, dtype = cost.causal.iloc[0], cost["dtype"].iloc[0]
    judged = run.fidelity[run.fidelity.status.eq("ok") & run.fidelity.error.notna()]
    judged = judged[judged.causal.eq(causal) & judged["dtype"].eq(dtype)]
    below = judged[judged.length.le(length)]
    sources = tuple(sorted(set(below.source), key=lambda x: (not x.startswith("captured"), x)))
    if asked is not None and asked not in sources:
        raise BadInput(
            f"{run.folder} has no errors on source {asked!r} at or below {size_text(length)}; "
            f"it has {joined(sources) or 'none'}"
        )
    if not sources:
        raise BadInput(
            f"{run.folder} has no {dtype} errors at or below length {size_text(length)}: "
            f"run --source captured --extend --out {run.folder} measures some"
        )
    return asked or sources[0], sources


def _budget(found: Advice) -> str:
    error = "no error allowed" if found.max_error is None else f"error at most {found.max_error:g}"
    memory = "any memory" if found.max_bytes is None else f"at most {bytes_text(found.max_bytes)}"
    return f"{error}, {memory}"


def _recommended(found: Advice) -> str:
    row = found.choice
    if row is None:
        return "Recommended: nothing. No pattern of this run fits into the budget."
    dense = row["name"] == "full"
    if dense and found.max_error is None:
        why = (
            "no error was allowed, and this is the fastest full attention here; "
            "--max-error X allows some"
        )
    elif dense:
        why = "within this budget nothing is clearly faster than full attention itself"
    else:
        why = f"the fastest within the budget, {_gain(row)}"
    used = f"{row['asked']} ({row['ran']}): {ms_text(row['ms'])}, {bytes_text(row['peak_bytes'])}"
    lines = [f"Recommended: {used}, {_error(found, row)}.", f"Why: {why}."]
    if not dense and row["asked"] in found.crossings:
        lines.append(f"Faster than dense: {crossing_text(found.crossings[row['asked']])}.")
    return "\n".join(lines)


def _gain(row: dict[str, Any]) -> str:
    if math.isnan(row["speedup"]):
        return "with no dense row to compare it with"
    low, high = ratio_text(row["speedup_low"]), ratio_text(row["speedup_high"])
    return f"{ratio_text(row['speedup'])} ({low} to {high}) as fast as {row['dense']}"


def _error(found: Advice, row: dict[str, Any]) -> str:
    told = f"error {three_places(row['error'])} measured at {size_text(row['error_length'])}"
    return told if row["error_length"] == found.length else f"{told}, not at this length"


def _table(found: Advice, steps: pd.DataFrame) -> str:
    rows = [
        [
            row["asked"], row["ran"], ms_text(row["ms"]), bytes_text(row["peak_bytes"]),
            three_places(row["error"]), size_text(row["error_length"]), int(row["error_layers"]),
            "" if math.isnan(row["speedup"]) else ratio_text(row["speedup"]),
            "" if row["name"] == "full" else crossing_text(found.crossings[row["asked"]]),
        ]
        for row in rows_of(steps)
    ]  # fmt: skip
    head = ["pattern", "ran", "time", "memory", "error", "measured at", "layers", "x dense"]
    return tabulate(rows, [*head, "faster than dense"], tablefmt="simple", disable_numparse=True)


def _over(out: pd.DataFrame, name: str) -> str:
    part = out[out.refused.eq(name)].sort_values("ms", kind="stable")
    shown = joined(part.asked.head(3))
    return f"{len(part)} patterns, the fastest {shown}"


def _where(found: Advice) -> str:
    lengths = sorted({int(n) for n in found.frame.error_length.dropna()})
    named = joined(size_text(n) for n in lengths)
    told = f"Errors are those on {found.source} at {named}, means over heads and layers."
    if lengths and lengths[-1] < found.length:
        told += f" No error was measured at {size_text(found.length)}; it may be another there."
    return told


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers of numpy as Python's."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}


def _tokens(length: float) -> str:
    return f"{two_digits(length):,.0f}"
