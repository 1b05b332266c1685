"""What several sections say or count: the main setting, the passes, what is missing."""

from collections.abc import Sequence

import pandas as pd

from attnbench.qkv import read_header
from attnbench.sources import SAMPLE
from reports.frame.names import by_number
from reports.frame.scaling import with_speedup
from reports.frame.spread import best_source
from reports.frame.tidy import setting_text, settings
from reports.frame.tradeoff import ORDER, tradeoff
from reports.html import escape
from reports.run import Run
from reports.text import joined, size_text

PASS_WORDS = {"fwd": "forward", "bwd": "backward", "fwdbwd": "forward + backward"}


def cost_settings(run: Run) -> list[pd.DataFrame]:
    """The timed settings, speed-ups filled in, the one with most results first."""
    return [with_speedup(part) for part in settings(run.cost)]


def main_pass(frame: pd.DataFrame) -> str:
    """The pass to judge by: forward where it was timed."""
    good = set(frame["pass"][frame.status == "ok"])
    return next((one for one in ORDER if one in good), ORDER[0])


def weighed(run: Run) -> pd.DataFrame:
    """The trade-off of the main setting and pass on the best source; empty where none joins."""
    found = weighed_by_source(run)
    return found[0][1] if found else pd.DataFrame()


def weighed_by_source(run: Run) -> list[tuple[str, pd.DataFrame]]:
    """(source, trade-off) of the main setting and pass, the best source first, then by name."""
    for part in cost_settings(run):
        rows = tradeoff(part[part["pass"] == main_pass(part)], run.fidelity)
        rows = rows[rows.error.notna()]
        if len(rows):
            best = best_source(rows.assign(source=rows.fidelity_source))
            others = sorted(set(rows.fidelity_source) - {best})
            return [(one, rows[rows.fidelity_source == one]) for one in (best, *others)]
    return []


def source_text(source: str, causal: bool = True) -> str:
    """Where q, k and v come from, with the precision of the model's weights."""
    if source == "captured":
        header = read_header(SAMPLE[causal])
        weights = f", {header.weights} weights" if header.weights else ""
        return f"q, k, v captured from {header.model}{weights}"
    if source.startswith("captured:"):
        return f"q, k, v captured in {source.removeprefix('captured:')}"
    return f"synthetic q, k, v ({source})"


def device_text(run: Run, machine: str) -> str:
    """The GPU's or the processor's name."""
    facts = run.machines.get(machine, {})
    return str(facts.get("gpu") or facts.get("cpu") or machine or "an unknown machine")


def missing_text(frame: pd.DataFrame, limit: int = 6) -> str:
    """The cases of a frame without a result, with their reasons, as one sentence; '' if none."""
    failed = frame[frame.status.ne("ok")]
    said = []
    for (status, reason), part in failed.groupby(["status", "reason"], sort=True):
        where: dict[str, list[str]] = {}
        for line, same in part.groupby("line", sort=True):
            lengths = joined(size_text(n) for n in sorted(set(same.length)))
            where.setdefault(lengths, []).append(str(line))
        named = "; ".join(
            f"{joined(sorted(lines, key=by_number))} at {lengths}"
            for lengths, lines in where.items()
        )
        said.append(f"{named} ({status}: {reason})")
    if not said:
        return ""
    said.sort(key=by_number)
    more = f"; {len(said) - limit} more reasons under Failures" if len(said) > limit else ""
    return f"Missing: {'; '.join(said[:limit])}{more}."


def lengths_text(lengths: Sequence[int]) -> str:
    """1k to 16k."""
    found = sorted({int(n) for n in lengths})
    ends = f"{size_text(found[0])} to {size_text(found[-1])}" if len(found) > 1 else ""
    return ends or size_text(found[0])


def several_lengths(part: pd.DataFrame) -> bool:
    """Whether a setting was timed at more than one length, so that there are lines to draw."""
    return bool(part.length[part.status.eq("ok")].nunique() > 1)


def setting_heading(part: pd.DataFrame, key: str = "") -> str:
    """What stands above the figures of one setting; `key` is what links lead to."""
    return f'<h3 class="setting"{f" id={key}" if key else ""}>{escape(setting_text(part))}</h3>'


def setting_caption(run: Run, frame: pd.DataFrame) -> str:
    """The settings of a cost figure in one sentence."""
    first = frame.iloc[0]
    return f"{device_text(run, first.machine)}; {setting_text(frame)}; {first.source} input."
