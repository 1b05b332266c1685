"""Where each pattern overtakes dense attention by each clock: cold, CUDA graph and eager wall time.

Cold time is what the device works on one call, graph time what it works when nothing is launched
anew, and eager wall time what a Python caller waits: at short lengths the three disagree.
"""

import pandas as pd

from reports.frame.names import by_number
from reports.frame.scaling import BELOW, NEVER, UNKNOWN, crossover, is_dense
from reports.frame.tradeoff import ORDER
from reports.text import ratio_text, size_text

CLOCKS = {"ms": "cold", "graph_ms": "graph", "wall_ms": "eager wall"}
"""The columns of a cost frame that hold the median of each clock, and what it is called."""


def overtaking(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a line (asked, backend, pass) of one setting with speed-ups; dense rows left out.

    For each clock the column of its name says from which length on the line is faster than the
    fastest dense kernel by the same clock, and `x CLOCK` how many times at the longest length where
    both were timed by it; None where they never were.
    """
    frame = frame.assign(**{f"x {name}": _ratio(frame, key) for key, name in CLOCKS.items()})
    lines = frame[~frame.name.eq("full") & frame.status.eq("ok")]
    rows = []
    for (_, _, one), same in lines.groupby(["asked", "backend", "pass"], sort=True):
        part = same.drop_duplicates("length").sort_values("length", kind="stable")
        row = {key: part[key].iloc[0] for key in ("asked", "backend", "line")} | {"pass": one}
        for name in CLOCKS.values():
            row |= _said(part, name)
        rows.append(row)
    rows.sort(key=lambda row: (ORDER.index(row["pass"]), by_number(row["line"])))
    return pd.DataFrame(rows)


def _ratio(frame: pd.DataFrame, clock: str) -> pd.Series:
    """How many times as fast as the fastest dense kernel of the same group, by one clock."""
    if clock == "ms":
        return frame.speedup  # paired round by round
    dense = frame[is_dense(frame)].groupby("group")[clock].min()
    best = dense.reindex(frame.group).to_numpy(dtype=float)
    return pd.Series(best / frame[clock].to_numpy(dtype=float), index=frame.index)


def _said(part: pd.DataFrame, clock: str) -> dict[str, str | None]:
    known = part[part[f"x {clock}"].notna()]
    lengths, ratios = known.length.to_numpy(), known[f"x {clock}"].to_numpy(dtype=float)
    found = crossover(lengths, ratios)
    if found.said == UNKNOWN:
        return {clock: None, f"x {clock}": None}
    ends = (int(lengths[0]), int(lengths[-1]))
    times = f"{ratio_text(ratios[-1])} at {size_text(ends[1])}"
    return {clock: in_words(found.said, *ends), f"x {clock}": times}


def in_words(said: str, shortest: int, longest: int) -> str:
    """A crossover that is no number, with the length up to which that is known: before 4k."""
    words = {BELOW: f"before {size_text(shortest)}", NEVER: f"not by {size_text(longest)}"}
    return words.get(said, said)
