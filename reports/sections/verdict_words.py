"""The verdict in words: what to use when, what each error buys, and what the numbers rest on.

Speed alone says nothing here: a window of a few keys beats every dense kernel and is as far from
full attention as an output of zeros. So wherever errors are known, they stand beside the gain.
"""

import re

import pandas as pd

from reports.frame.spread import at_one_place
from reports.frame.tidy import each_row
from reports.frame.tradeoff import over_layers, staircase
from reports.frame.verdict import (
    CLOSE,
    fastest_dense,
    heads_of,
    noise,
    overtakes,
    rivals,
    with_errors,
    worth_it,
)
from reports.html import escape
from reports.run import Run
from reports.sections.shared import (
    PASS_WORDS,
    cost_settings,
    device_text,
    lengths_text,
    main_pass,
    source_text,
)
from reports.text import TIMES, joined, ms_text, ratio_text, size_text, three, two_digits

NOISY = 0.1  # beyond it the first screen says so
MOST = 3  # patterns that one sentence names


def markup(run: Run, rows: pd.DataFrame) -> str:
    """A list: the advice, what each error buys, the least error for a time, what it rests on.

    `rows` is the trade-off of the main setting on the best source; empty where none joins.
    """
    items = [*_speed(run, rows), *_stairs(rows), *_rivals(rows), *_closest(run, rows)]
    fine = f'<li class="fine">{escape(" ".join(_trust(run, rows)))}</li>'
    return '<ul class="verdict">' + "".join(f"<li>{one}</li>" for one in items) + fine + "</ul>"


def _speed(run: Run, rows: pd.DataFrame) -> list[str]:
    parts = [part for part in cost_settings(run) if (part.status == "ok").any()]
    if not parts:
        return ["This run has no times: it can say how close patterns are, not which is faster."]
    frame, one = parts[0], main_pass(parts[0])
    dense = fastest_dense(frame, one)
    if len(dense) == 0:
        return ["No dense SDPA row was timed, so there is nothing to compute a speed-up over."]
    last = dense.iloc[-1]
    fact = f"{last.line}: {ms_text(last.ms)} at {size_text(last.length)}, {PASS_WORDS[one]}"
    others = frame[frame["pass"].eq(one) & frame.name.ne("full") & frame.ms.notna()]
    if len(others) == 0:
        text = f"Only dense attention has a time ({fact}), so this run cannot say what is faster."
        return [escape(text)]
    span = lengths_text(list(others.length))
    found = overtakes(frame, one, rows)
    known = with_errors(found, rows) if len(rows) and len(found) else found.iloc[:0]
    if len(known) == 0:
        return [escape(_alone(found, fact, span)), *_unclear(found), *_uncompared(found)]
    near = known[known.error.le(CLOSE)]
    return [
        escape(_advice(near, span)),
        *_bought(known),
        *_behind(near),
        *_unclear(near),
        *_uncompared(near),
    ]


def _alone(found: pd.DataFrame, fact: str, span: str) -> str:
    """Which is faster, where no error is known."""
    ahead = found[found["at"].notna()] if len(found) else found
    if len(found) and found.longest.eq(0).all():
        return f"No pattern could be compared with dense attention by speed ({fact})."
    if len(ahead) == 0:
        return (f"Use full attention: from {span} nothing measured here is faster than the fastest "
                f"dense kernel ({fact}).")  # fmt: skip
    early = ahead[
        ahead["at"].eq(ahead["at"].min())
    ]  # of equally early ones that with the most gain
    first = early.sort_values(["longest", "speedup_at_longest"], ascending=False).iloc[0]
    longest = int(ahead.longest.max())
    best = ahead[ahead.longest.eq(longest)].sort_values("speedup_at_longest", ascending=False)
    gains = joined(f"{_named(row.label)} {_ratio(row.speedup_at_longest)}"
                   for row in each_row(best.head(MOST)))  # fmt: skip
    return (
        f"By speed alone, for no errors join these times: {_named(first.label)} beats the fastest "
        f"dense kernel {_from(first)}; at {size_text(longest)}: {gains} ({fact})."
    )


def _advice(near: pd.DataFrame, span: str) -> str:
    """What to use when, among the patterns that are close enough to full attention."""
    ahead = near[near["at"].notna()].sort_values(["at", "asked"], kind="stable")
    within = f"an output error of {CLOSE:g} or less"
    compared = near[near.longest.gt(0)]
    if len(near) and len(compared) == 0:
        return (f"No pattern with {within} could be compared with full attention by speed, so this "
                f"run cannot say which to use.")  # fmt: skip
    if len(compared) < len(near):
        within += " that could be compared"
    if len(ahead) == 0:
        return f"Use full attention: from {span} no pattern with {within} is faster."
    first = ahead.iloc[0]
    gain = (
        f"{_ratio(first.speedup_at_longest)} at {size_text(first.longest)}, error "
        f"{_error(first.error)} at {size_text(first.error_length)}"
    )
    if pd.isna(first.crossover):
        return f"{_named(first.label)} beats full attention {_from(first)}: {gain}."
    return (
        f"Use full attention below about {two_digits(first['at']):,.0f} tokens: no pattern with "
        f"{within} is faster. Beyond, {_named(first.label)} is: {gain}."
    )


def _bought(known: pd.DataFrame) -> list[str]:
    """The patterns that overtake, closest first, each with what it costs in error."""
    rows = worth_it(known)
    if len(rows) == 0:
        return []
    body = "".join(
        f'<tr{"" if row.error <= CLOSE else " class=far"}><th scope="row">'
        f"{escape(_named(row.label))}</th><td>{_error(row.error)}</td>"
        f"<td>{escape(_start(row))}</td><td>{_ratio(row.speedup_at_longest)} at "
        f"{size_text(row.longest)}</td></tr>"
        for row in each_row(rows)
    )
    head = "".join(f'<th scope="col">{one}</th>' for one in ("pattern", "error", "from", "gain"))
    lengths = joined(size_text(n) for n in sorted(set(rows.error_length)))
    far = f"; grey is above {CLOSE:g}" if rows.error.gt(CLOSE).any() else ""
    note = f"Errors at {lengths} tokens: 0 is full attention, 1 an output of zeros{far}."
    return [
        '<table class="ways"><caption>What overtakes full attention, and at what loss</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<p class="note">{escape(note)}</p>'
    ]


def _behind(near: pd.DataFrame) -> list[str]:
    """How many close ones are not ahead where they were timed, and the closest of them."""
    ahead = near[near["at"].notna()]
    behind = near[near["at"].isna() & ~near.unclear & near.longest.gt(0)]
    if len(ahead):  # what is farther off and slower too is of no use
        behind = behind[behind.error.lt(ahead.error.max())]
    if len(behind) == 0:
        return []
    first, count = behind.iloc[0], len(behind)
    lengths = lengths_text(list(behind.longest))
    closest = (
        f"{_named(first.label)} (error {_error(first.error)}, {_ratio(first.speedup_at_longest)} "
        f"at {size_text(first.longest)})"
    )
    if count == 1:
        return [escape(f"Closer, but slower at the longest length timed: {closest}.")]
    return [
        escape(f"{count} closer patterns are slower at {lengths}, the longest they were timed at; "
               f"the closest is {closest}.")
    ]  # fmt: skip


def _unclear(found: pd.DataFrame) -> list[str]:
    open_ = found[found.unclear] if len(found) else found
    return [escape(f"Too noisy to tell: {joined(open_.label)}.")] if len(open_) else []


def _uncompared(found: pd.DataFrame) -> list[str]:
    """Which have no speed-up at any length: their calls waited for Python, or lack a dense time."""
    if len(found) == 0:
        return []
    never = found[found.longest.eq(0)]
    parts = {
        "the GPU waited for Python in every call": never[never.waited],
        "no usable time of theirs stands beside a dense one": never[~never.waited],
    }
    return [
        escape(f"Not compared by speed, for {why}: {joined(map(_named, rows.label))}.")
        for why, rows in parts.items()
        if len(rows)
    ]


def _stairs(rows: pd.DataFrame) -> list[str]:
    """The least error at each cost."""
    if len(rows) == 0:
        return []
    length = int(rows.length.max())
    steps = [
        f"{_error(row.error)} in {ms_text(row.ms)} ({_named(row.line)})"
        for row in each_row(staircase(rows[rows.length.eq(length)]))
    ]
    if not steps:
        return []
    return [escape(f"Least error for the time, {size_text(length)} tokens: {', '.join(steps)}.")]


def _rivals(rows: pd.DataFrame) -> list[str]:
    if len(rows) == 0:
        return []
    found = rivals(rows)
    said = []
    if found.of_ms:
        said.append(f"{found.equal_ms} of {found.of_ms} patterns at equal milliseconds")
    if found.of_keys:
        said.append(f"{found.equal_keys} of {found.of_keys} at equal keys a query")
    at = size_text(int(rows.length.max()))
    text = f"Closer than the simple rival, window + sinks, at {at}: {joined(said)}."
    return [escape(text)] if said else []


def _closest(run: Run, rows: pd.DataFrame) -> list[str]:
    """What can be said of errors where no time joins them."""
    here = over_layers(at_one_place(run.fidelity)) if len(rows) == 0 else rows.iloc[:0]
    use = here[here.ranked.eq(True) & here.name.ne("full")] if len(here) else here
    if len(use) == 0:
        return []
    use = use.sort_values("error", kind="stable").head(MOST)
    best = joined(f"{_named(row.line)} ({three(row.error)})" for row in each_row(use))
    first = use.iloc[0]
    where = f"{size_text(first.length)} tokens, {first.source}"
    return [escape(f"Closest to full attention at {where}: {best}.")]


def _trust(run: Run, rows: pd.DataFrame) -> list[str]:
    said = []
    if len(rows):
        row = rows.iloc[0]
        good = run.fidelity[run.fidelity.source.eq(row.fidelity_source)]
        texts = good.seed.nunique()
        layers = int(rows.layers.max())
        said.append(
            f"Errors: {source_text(row.fidelity_source, bool(row.causal))}; {texts} sample"
            f"{'s' if texts != 1 else ''} {TIMES} {layers} layer{'s' if layers != 1 else ''} "
            f"{TIMES} {heads_of(good)} heads, {lengths_text(list(rows.length))} tokens."
        )
    elif len(run.fidelity) and len(run.cost):
        said.append(
            "No error joins a time: the two need the same pattern, causality, dtype and length."
        )
    elif len(run.fidelity) == 0:
        said.append("This run has no errors: it cannot say how close a pattern is.")
    timed = run.cost[run.cost.status.eq("ok")]
    if len(timed):
        wide = noise(timed)
        noisy = f", noisy: the median interval is \u00b1{100 * wide:.0f} %" if wide > NOISY else ""
        counts = int(timed.samples.median()) if timed.samples.notna().any() else 0
        said.append(
            f"Times: {device_text(run, timed.machine.iloc[0])}, {timed['dtype'].iloc[0]}, medians "
            f"of {counts} samples a case{noisy}{_dense(run)}. The error of a layer is not the "
            f"quality of a model."
        )
    return said


def _dense(run: Run) -> str:
    """What the gains are over."""
    frame = cost_settings(run)[0]
    one = main_pass(frame)
    found = fastest_dense(frame, one)
    if len(found) == 0:
        return ""
    last = found.iloc[-1]
    time = f"{ms_text(last.ms)} at {size_text(last.length)}, {PASS_WORDS[one]}"
    return f"; gains are over the fastest dense kernel ({last.line}: {time})"


def _named(label: str) -> str:
    """With the name that the figures give to the window with sinks."""
    label = re.sub(r"^sinks window (\S+)", r"window \1 + sinks", label)
    return re.sub(r"^sinks\b", "window + sinks", label)


def _ratio(x: float) -> str:
    return ratio_text(two_digits(x))


def _error(x: float) -> str:
    return three(two_digits(x)) if x >= 1e-4 else "0"


def _from(row: pd.Series) -> str:
    if pd.isna(row.crossover):
        return f"already at {size_text(row.shortest)}, the shortest length timed"
    return f"from about {two_digits(row['at']):,.0f} tokens on"


def _start(row: pd.Series) -> str:
    at = f"{two_digits(float(row.at)):,.0f}"  # type: ignore[arg-type]
    return f"\u2264 {size_text(row.shortest)}" if pd.isna(row.crossover) else at
