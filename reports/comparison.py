"""Two runs beside each other: what changed, what is only in one, and whether that is a regression.

`compare` reads them; `as_text`, `as_markdown` and `as_document` tell of it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from attnbench import BadInput, load
from attnbench.records import RUN, finite, read_document
from reports.frame.change import (
    FAILS,
    FASTER,
    LESS,
    LEVEL,
    MORE,
    SAME,
    SLOWER,
    UNCLEAR,
    aa_floor,
    changes,
    only_in,
    regressions,
    rows_of,
)
from reports.frame.moderated import FEWEST
from reports.text import bytes_text, joined, ms_text, size_text, three_places

SCHEMA = 1
ORDER = (FAILS, SLOWER, MORE, FASTER, LESS, UNCLEAR, SAME)
_COUNTED = {
    "time": (SAME, FASTER, SLOWER, UNCLEAR),
    "memory": (SAME, LESS, MORE),
    "error": (SAME, LESS, MORE, UNCLEAR),
    "status": (FAILS,),
}
_FORMS: Mapping[str, Callable[[float], str]] = {
    "time": ms_text,
    "memory": bytes_text,
    "error": three_places,
    "status": str,
}
_MOST = 40  # rows of a table in text


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found; `changes` and `worse` have one row a case and quantity."""

    a: Path
    b: Path
    threshold: float
    changes: pd.DataFrame
    worse: pd.DataFrame
    only_a: pd.DataFrame
    only_b: pd.DataFrame
    floors: tuple[float | None, float | None]
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where something is worse by more than the threshold, or fails now."""
        return int(len(self.worse) > 0)


def compare(a: Path, b: Path, *, threshold: float = 0.05) -> Comparison:
    """Compare run `b` with run `a`, which came before it.

    Args:
        a: a run folder, or a thinned copy of one.
        b: another.
        threshold: the relative change for the worse that counts as a regression.

    Raises:
        BadInput: a folder holds no run, or the two have no case in common.
    """
    one, other = load(a), load(b)
    for folder, frame in ((a, one), (b, other)):
        if len(frame) == 0:
            raise BadInput(f"{folder} holds no records: measure something first")
    if not set(one.case_key) & set(other.case_key):
        raise BadInput(
            f"{a} and {b} have no case in common: compare runs of the same patterns, lengths, "
            "shapes, dtype and device"
        )
    found = changes(one, other, threshold=threshold)
    floors = (aa_floor(one), aa_floor(other))
    return Comparison(
        a=a,
        b=b,
        threshold=threshold,
        changes=found,
        worse=regressions(found, threshold),
        only_a=only_in(one, other),
        only_b=only_in(other, one),
        floors=floors,
        remarks=tuple(_remarks(a, b, found, floors)),
    )


def counts(found: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many cases of each quantity have each verdict."""
    return {
        quantity: {
            verdict: int((found.quantity.eq(quantity) & found.verdict.eq(verdict)).sum())
            for verdict in verdicts
        }
        for quantity, verdicts in _COUNTED.items()
    }


def as_text(found: Comparison) -> str:
    """For a terminal: the remarks, the counts, and everything that is not the same."""
    return "\n\n".join(_parts(found, tablefmt="simple", most=_MOST, heading="{}", bullet=""))


def as_markdown(found: Comparison) -> str:
    """For a pull request: the same, whole."""
    parts = _parts(found, tablefmt="github", most=None, heading="### {}", bullet="- ")
    return "\n\n".join([f"## {_title(found)}", *parts[1:]]) + "\n"


def as_document(found: Comparison) -> dict[str, Any]:
    """For programs: every case with its numbers; null where there is none."""
    document = {
        "schema": SCHEMA,
        "a": str(found.a),
        "b": str(found.b),
        "threshold": found.threshold,
        "level": LEVEL,
        "floors": {"a": found.floors[0], "b": found.floors[1]},
        "remarks": list(found.remarks),
        "counts": counts(found.changes),
        "regressions": found.worse.case_key.tolist(),
        "exit_code": found.exit_code,
        "cases": rows_of(found.changes),
        "only_a": rows_of(found.only_a),
        "only_b": rows_of(found.only_b),
    }
    cleaned: dict[str, Any] = finite(document)
    return cleaned


def _parts(
    found: Comparison, *, tablefmt: str, most: int | None, heading: str, bullet: str
) -> list[str]:
    rows = [
        [quantity, *(by.get(name, "") for name in ORDER)]
        for quantity, by in counts(found.changes).items()
        if sum(by.values())
    ]
    parts = [_title(found)]
    if found.remarks:
        parts.append("\n".join(f"{bullet}{remark}" for remark in found.remarks))
    parts.append(sentence(found))
    parts.append(tabulate(rows, ["", *ORDER], tablefmt=tablefmt))
    told = found.changes[~found.changes.verdict.eq(SAME)]
    for title, part in (
        ("Regressions", found.worse),
        ("Other changes", told[~told.index.isin(found.worse.index) & ~told.verdict.eq(UNCLEAR)]),
        ("Unclear", told[told.verdict.eq(UNCLEAR)]),
    ):
        if len(part):
            parts += [heading.format(title), _table(part, tablefmt, most)]
    for folder, part in ((found.a, found.only_a), (found.b, found.only_b)):
        if len(part):
            parts += [heading.format(f"Only in {folder}"), _only(part, most, bullet)]
    return parts


def sentence(found: Comparison) -> str:
    """How many regressions there are, in one sentence."""
    number = len(found.worse)
    said = f"{number} regression{'s' if number != 1 else ''}" if number else "no regression"
    return f"{said} beyond {_percent(found.threshold)}."


def _title(found: Comparison) -> str:
    return f"{found.b} against {found.a}"


def _table(part: pd.DataFrame, tablefmt: str, most: int | None) -> str:
    order = {verdict: index for index, verdict in enumerate(ORDER)}
    change = part.ratio.fillna(1).map(lambda ratio: abs(math.log(ratio)) if ratio > 0 else 0.0)
    part = part.assign(place=part.verdict.map(order), change=change)
    part = part.sort_values(["place", "change"], ascending=[True, False], kind="stable")
    rows = []
    for row in rows_of(part.head(most or len(part))):
        form = _FORMS[row["quantity"]]
        a, b = ("" if math.isnan(row[side]) else form(row[side]) for side in ("a", "b"))
        rows.append(
            [row["verdict"], row["quantity"], case_text(row), a, b, _change(row), row["over"]]
        )
    head = ["verdict", "of", "case", "a", "b", "change", "over"]
    text = tabulate(rows, head, tablefmt=tablefmt, disable_numparse=True)
    return text + (f"\n... and {len(part) - len(rows)} more" if len(rows) < len(part) else "")


def case_text(row: dict[str, Any]) -> str:
    """A case in few words: the pattern, the backend, the pass or the source, the length."""
    what = row["pass"] or " ".join(
        [row["source"], *([f"layer {row['layer']}"] if row["layer"] != "" else [])]
    )
    backend = "" if row["backend"] == "auto" else f"@{row['backend']}"
    return f"{row['asked']}{backend} {what} {size_text(row['length'])} {row['dtype']}"


def _change(row: dict[str, Any]) -> str:
    if math.isnan(row["ratio"]):
        return ""
    told = f"{100 * (row['ratio'] - 1):+.1f} %"
    if math.isnan(row["low"]) or row["low"] == row["high"]:
        return told
    return f"{told} ({100 * (row['low'] - 1):+.1f} to {100 * (row['high'] - 1):+.1f})"


def _only(part: pd.DataFrame, most: int | None, bullet: str) -> str:
    lines = [f"{bullet}{case_text(row)}" for row in rows_of(part)]
    rest = len(lines) - (most or len(lines))
    return "\n".join([*lines[:most], *([f"... and {rest} more"] if rest > 0 else [])])


def _remarks(
    a: Path, b: Path, found: pd.DataFrame, floors: tuple[float | None, float | None]
) -> list[str]:
    said = []
    before, after = (read_document(run, RUN) or {} for run in (a, b))
    machines = [str(run.get("machine", "unknown")) for run in (before, after)]
    if machines[0] != machines[1]:
        said.append(
            f"DIFFERENT MACHINES: {a} was measured on {machines[0]}, {b} on {machines[1]}; "
            "a change of time may be theirs"
        )
    versions = [str(run.get("version", "unknown")) for run in (before, after)]
    same = "both" if versions[0] == versions[1] else "from"
    said.append(f"code: {same} {versions[0]}" + ("" if same == "both" else f" to {versions[1]}"))
    timed = found[found.quantity.eq("time")]
    rounds = int(timed.over.eq("rounds").sum())
    if rounds:
        what = "the" if rounds == len(timed) else f"{rounds} of the {len(timed)}"
        said.append(
            f"intervals of {what} times are over the rounds of one launch, so drift between "
            "launches is not in them: measure both with --launches 3"
        )
    bare = int(timed.over.eq("nothing").sum())
    if bare:
        said.append(f"{bare} of the {len(timed)} times have no two finite repeats in both runs, so "
                    f"no interval: {UNCLEAR}")  # fmt: skip
    for over in ("launches", "rounds"):
        said += _on_variances(timed[timed.over.eq(over)], over)
    told = [
        f"{run} {'recorded none' if floor is None else _percent(math.expm1(floor))}"
        for run, floor in zip((a, b), floors, strict=True)
    ]
    if len(timed):
        said.append(
            f"intervals hold together with {_percent(LEVEL)} ({len(timed)} times); no change of "
            f"time below the A/A floor ({joined(told)}) or 1 microsecond is called one"
        )
    return said


def _on_variances(timed: pd.DataFrame, over: str) -> list[str]:
    """How the intervals over launches, or over rounds, came by their variances."""
    shared = int(timed.shared.sum())
    rest = len(timed) - shared
    if len(timed) == 0:
        return []
    if not shared:
        few = f" (fewer than {FEWEST} cases share none)" if rest < FEWEST else ""
        return [f"variances between {over} are each case's own{few}"]
    wild = f"; {rest} far beyond the others' {'keeps its' if rest == 1 else 'keep their'} own"
    return [f"variances between {over} are shared by {shared} cases" + (wild if rest else "")]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
