"""The summary tables, and how a table becomes Markdown, CSV and LaTeX."""

from pathlib import Path

import pandas as pd
from tabulate import tabulate

from reports.chart import Table
from reports.frame.clocks import in_words
from reports.frame.names import by_number
from reports.frame.scaling import crossovers, exponents
from reports.frame.tidy import each_row
from reports.frame.tradeoff import over_layers
from reports.text import bytes_text, ms_text, ratio_text, size_text, three_places


def write(table: Table, folder: Path) -> tuple[str, ...]:
    """Write a table as .csv with its numbers as they are, and as .md and .tex for people."""
    table.frame.to_csv(folder / f"{table.key}.csv", index=False, lineterminator="\n")
    head = [str(column) for column in table.frame.columns]
    rows = [
        [table.text(column, value) for column, value in zip(head, row, strict=True)]
        for row in table.frame.itertuples(index=False)
    ]
    sides = ["right" if kind.kind in "if" else "left" for kind in table.frame.dtypes]
    if not head:
        return (f"{table.key}.csv",)
    for ending, form in (("md", "github"), ("tex", "latex_booktabs")):
        text = tabulate(rows, head, tablefmt=form, disable_numparse=True, colalign=sides or None)
        (folder / f"{table.key}.{ending}").write_text(text + "\n", encoding="utf-8")
    return tuple(f"{table.key}.{ending}" for ending in ("csv", "md", "tex"))


def times(frame: pd.DataFrame, one: str, key: str, title: str) -> Table:
    """Milliseconds by pattern and length of one setting and pass, exponent and crossover beside."""
    rows = frame[frame["pass"] == one]
    wide, columns = by_length(rows, "ms")
    slopes = exponents(rows).set_index(["asked", "backend"])
    wide["exponent"] = slopes.exponent.reindex(wide.index).to_numpy()
    wide["± exponent"] = ((slopes.high - slopes.low) / 2).reindex(wide.index).to_numpy()
    crossed = crossovers(rows)
    if len(crossed):
        crossed = crossed.set_index(["asked", "backend"]).reindex(wide.index)
        wide["\u00d7 dense"] = crossed.speedup_at_longest.to_numpy()
        wide["faster from"] = [
            "" if pd.isna(row.said) else in_words(row.said, int(row.shortest), int(row.longest))
            for row in each_row(crossed)
        ]
    formats = dict.fromkeys(columns, ms_text) | {
        "exponent": lambda x: f"{x:.2f}", "± exponent": lambda x: f"{x:.2f}",
        "\u00d7 dense": ratio_text,
    }  # fmt: skip
    return Table(key=key, title=title, frame=wide.reset_index(drop=True), formats=formats)


def memory(frame: pd.DataFrame, one: str, key: str, title: str) -> Table:
    """Peak bytes above the inputs by pattern and length."""
    wide, columns = by_length(frame[frame["pass"] == one], "peak_bytes")
    formats = dict.fromkeys(columns, bytes_text)
    return Table(key=key, title=title, frame=wide.reset_index(drop=True), formats=formats)


def by_length(rows: pd.DataFrame, value: str) -> tuple[pd.DataFrame, list[str]]:
    """One row a (pattern, backend), one column a length; a status stands where there is no value.

    The columns are named for people, such as ``4k``; they hold numbers only where all are.
    """
    use = rows[rows[value].notna()]
    wide = use.pivot_table(
        index=["asked", "backend"], columns="length", values=value, aggfunc="first"
    )
    wide = wide.reindex(sorted(wide.columns), axis=1)
    wide.columns = pd.Index([size_text(int(n)) for n in wide.columns])
    columns = list(wide.columns)
    if (wide.stack() % 1 == 0).all():
        wide = wide.astype("Int64")  # a missing cell would turn whole numbers into fractions
    names = rows.drop_duplicates(["asked", "backend"]).set_index(["asked", "backend"])
    wide = wide.loc[[key for key in names.index if key in wide.index]]
    wide.insert(0, "pattern", names.line.reindex(wide.index))
    return wide, columns


def errors(fidelity: pd.DataFrame, key: str, title: str) -> Table:
    """The distances of every pattern at one source and length: means over layers."""
    means = over_layers(fidelity).sort_values("error", kind="stable")
    named = {
        "line": "pattern", "error": "output error", "best_layer": "best layer",
        "worst_layer": "worst layer", "projected_error": "after projection",
        "later_half_error": "later half", "row_p95": "95 % of rows below",
        "total_variation": "total variation", "kl": "KL", "recall_64": "recall of top 64",
        "dropped_mass": "dropped mass", "keys_per_query": "keys a query",
        "dtype_error": "dtype error", "kernel_error": "kernel error",
    }  # fmt: skip
    frame = means[list(named)].rename(columns=named)
    frame = frame.dropna(axis=1, how="all").reset_index(drop=True)
    frame.insert(1, "aim", means.aim.to_numpy())
    formats = {name: three_places for name in frame.columns if name not in ("pattern", "aim")}
    return Table(key=key, title=title, frame=frame, formats=formats)


def failures(failed: pd.DataFrame) -> Table:
    """Every case without a result, with its reason, which lengths and layers may share."""
    keys = ["status", "line", "kind", "pass", "source", "device", "dtype", "reason"]
    failed = failed.reindex(columns=[*keys, "length", "layer"]).astype(object).fillna("")
    rows = []
    for values, part in failed.groupby(keys, sort=True):
        row = dict(zip(keys, values, strict=True))
        lengths = ", ".join(size_text(int(n)) for n in sorted(set(part.length)))
        layers = ", ".join(sorted(set(part.layer) - {""}, key=by_number))
        rows.append(
            {
                "status": row["status"], "pattern": row["line"], "cases": len(part),
                "lengths": lengths, "reason": row["reason"], "kind": row["kind"],
                "pass": row["pass"], "source": row["source"], "layers": layers,
                "on": f"{row['device']} {row['dtype']}",
            }
        )  # fmt: skip
    return Table(key="failures", title="Cases without a result", frame=pd.DataFrame(rows))


def marked(found: pd.DataFrame) -> Table:
    """Every case that a guard marked, with what it says."""
    named = {"line": "pattern", "length": "length", "group": "group", "fired": "guard"}
    frame = found.reindex(columns=list(named)).rename(columns=named)
    formats = {"length": lambda n: size_text(int(n))}
    return Table(key="marked", title="Cases that a guard marked", frame=frame, formats=formats)


def plain(
    key: str, title: str, frame: pd.DataFrame, named: dict[str, str], formats: dict[str, object]
) -> Table:
    """Some columns of a frame under names for people."""
    shown = frame[[name for name in named if name in frame]].rename(columns=named)
    shown = shown.reset_index(drop=True)
    return Table(key=key, title=title, frame=shown, formats=formats)  # type: ignore[arg-type]
