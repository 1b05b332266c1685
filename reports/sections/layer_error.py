"""How far the error at a layer tells what a swap does to the model, in words."""

import math

import pandas as pd

from reports.frame.copies import in_step
from reports.html import paragraph

FEWEST = 5  # schedules, for a rank correlation to be said
CLOSE = 2.0  # times the perplexity of full attention: what one would choose from


def layer_error_text(rows: pd.DataFrame) -> list[str]:
    """One paragraph on the schedules of one length that were asked for; none for too few.

    Full attention has no such error and is left out, and so are windows that stand beside others.
    """
    asked = rows[rows.role.eq("asked") & rows.layer_error.notna()]
    full = rows[rows.name.eq("full")]
    every = _agreement(asked)
    if not every:
        return []
    said = f"Rank correlation of the error at a layer (Spearman): {every}."
    if len(full):
        known = asked.dropna(subset=["perplexity"])
        close = known[known.perplexity <= CLOSE * float(full.perplexity.iloc[0])]
        among = _agreement(close) if len(close) < len(known) else ""
        if among:
            said += f" Among those with at most {CLOSE:g} times the perplexity of full: {among}."
    return [paragraph(said)]


def rank_correlation(one: pd.Series, other: pd.Series) -> float:
    """Spearman's: Pearson's of the ranks, equal values sharing their mean rank."""
    return float(one.rank().corr(other.rank()))


def _agreement(rows: pd.DataFrame) -> str:
    """With perplexity and with the second copy; empty for too few or where nothing differs."""
    if len(rows) < FEWEST:
        return ""
    told = [not in_step(str(one)) for one in rows.asked]
    reading = rows.dropna(subset=["perplexity"])
    copying = rows[told].dropna(subset=["second_copy"])
    found = []
    for part, column, name in (
        (reading, "perplexity", f"perplexity ({len(reading)} patterns and schedules)"),
        (copying, "second_copy", f"the loss on the second copy ({len(copying)})"),
    ):
        if len(part) < FEWEST:
            continue
        value = rank_correlation(part.layer_error, part[column])
        if math.isfinite(value):
            found.append(f"{value:.2f} with {name}")
    return " and ".join(found)
