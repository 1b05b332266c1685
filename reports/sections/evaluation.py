"""What patterns do to a language model: perplexity, retrieval, and which layers it hurts."""

from functools import partial
from typing import Any

import pandas as pd

from attnbench.excerpts import COPIED, FILLER
from attnbench.records import read
from reports.chart import Chart, Table
from reports.figures import evaluation as figures
from reports.frame.copies import in_step
from reports.frame.evaluation import evaluation_frame, failed_frame, single, whole
from reports.frame.names import labels
from reports.html import escape, paragraph
from reports.run import Run
from reports.sections import Section
from reports.sections.layer_error import layer_error_text
from reports.sections.shared import device_text, lengths_text
from reports.tables import plain
from reports.text import bytes_text, joined, ms_text, size_text, three, three_places

_NAMED_IN_WORDS = 5  # schedules, beside full attention
_NAMED = {
    "length": "length", "line": "patterns", "keys_per_query": "keys a query",
    "keys_off": "off the wanted keys",
    "perplexity": "perplexity", "perplexity_low": "low", "perplexity_high": "high",
    "against_rival": "loss to window + sinks", "against_rival_low": "its low",
    "against_rival_high": "its high", "layer_error": "error at a layer",
    "kl": "KL to full", "agreement": "same top token",
    "later_half": "loss, later half", "second_copy": "loss, second copy", "ms": "prefill",
    "peak_bytes": "peak memory", "kv_bytes": "key-value bytes", "excerpts": "excerpts",
}  # fmt: skip
_PLACES = (
    *("keys a query", "perplexity", "low", "high", "loss to window + sinks", "its low"),
    *(
        "its high",
        "error at a layer",
        "KL to full",
        "same top token",
        "loss, later half",
        "loss, second copy",
    ),
)
_FORMATS: dict[str, object] = {
    **dict.fromkeys(_PLACES, three_places),
    "length": lambda n: size_text(int(n)), "prefill": ms_text,
    "off the wanted keys": lambda off: f"{100 * off:+.1f} %",
    "peak memory": bytes_text, "key-value bytes": bytes_text,
}  # fmt: skip


def sections(run: Run) -> list[Section]:
    """One section with a part for each model and text; none where nothing was evaluated."""
    records = read(run.folder)
    found, failed = evaluation_frame(records), failed_frame(records)
    if len(found) == 0 and len(failed) == 0:
        return []
    blocks: list[str | Chart | Table] = []
    keys = ["source", "text", "dtype", "device", "machine", "seed"]
    parts = [part for _, part in found.groupby(keys, sort=True)] if len(found) else []
    for number, part in enumerate(parts):
        tail = f"-{number + 1}" if number else ""
        if len(parts) > 1:
            blocks.append(f"<h3>{escape(_setting(run, part))}</h3>")
        blocks += _part(run, part, tail)
    if len(failed):
        blocks.append(Table(key="evaluation-failures", title="Without a result", frame=failed))
    return [Section(key="model", title="In a model", blocks=tuple(blocks))]


def lead(run: Run) -> Section:
    """The first screen of a run that holds evaluations alone: what each length says, in words."""
    every = whole(evaluation_frame(read(run.folder)))
    items = []
    for length, rows in every.groupby("length", sort=True):
        for _, part in rows.groupby(["source", "text", "dtype", "device"], sort=True):
            items.append(f"{size_text(int(str(length)))} tokens: {_at_equal_keys(_lined(part))}")
    said = "".join(f"<li>{escape(one)}</li>" for one in items) or "<li>Nothing ended well.</li>"
    return Section(
        key="verdict",
        title="What a pattern does to the model",
        blocks=(f'<ul class="verdict">{said}</ul>',),
    )


def lead_line(run: Run) -> str:
    """The same run in one line under the heading; empty where nothing was evaluated."""
    found = evaluation_frame(read(run.folder))
    if len(found) == 0:
        return ""
    machines = [device_text(run, one) for one in sorted({*found.machine} - {""})[:2]]
    counts = [
        f"{found.name.nunique()} patterns and schedules",
        f"{lengths_text([*map(int, found.length)])} tokens",
    ]
    return " · ".join([*counts, *machines, f"{len(found)} evaluations"])


def _at_equal_keys(rows: pd.DataFrame) -> str:
    """Full attention, the window that most stand beside, and who is better, level and worse."""
    full = rows[rows.name.eq("full")]
    said = f"full attention has perplexity {three(full.perplexity.iloc[0])}" if len(full) else ""
    judged = rows[rows.against_rival.notna() & rows.asked.ne(rows.rival)]
    judged = judged[~judged.name.isin(("oracle-topk", "uniform"))]  # a bound, and no pattern
    if len(judged) == 0:
        return f"{said or 'no full attention was evaluated'}; no pattern stands beside a window."
    window = rows[rows.asked.eq(judged.rival.mode().iloc[0])]
    if len(window):
        one = window.iloc[0]
        said += f", window + sinks of {three(one.keys_per_query)} keys {three(one.perplexity)}"
    better = _ordered(judged[judged.against_rival_high < 0])
    worse = judged[judged.against_rival_low > 0]
    level = _ordered(judged.drop(better.index).drop(worse.index))
    groups = (("better", better), ("level with it", level))
    named = [f"{word}: {_names(part)}" for word, part in groups if len(part)]
    said += f". Beside a window of as many keys, {'; '.join(named) or 'none is better or level'}"
    said += f"; {len(worse)} of {len(judged)} are worse."
    copying = judged[judged.second_copy.notna() & ~judged.asked.map(in_step)]
    if len(copying) and len(window):
        best = copying.sort_values("second_copy", kind="stable").iloc[0]
        said += (
            f" What it has read before is found best by {best.line}: a loss of "
            f"{three(best.second_copy)} on the second copy, the window's {three(one.second_copy)}."
        )
    return said


def _in_step(rows: pd.DataFrame) -> str:
    found = [str(row.line) for _, row in rows.iterrows() if in_step(str(row.asked))]
    if not found:
        return ""
    return (
        f" The second copy says nothing of {joined(found)}: the {COPIED + FILLER} tokens between "
        "the copies are a multiple of their columns or stride, so that what is to be copied lies "
        "in the query's own column."
    )


def _names(rows: pd.DataFrame) -> str:
    return joined(f"{row.line} ({three(row.perplexity)})" for _, row in rows.head(3).iterrows())


def _part(run: Run, part: pd.DataFrame, tail: str) -> list[str | Chart | Table]:
    every, alone = whole(part), single(part)
    if len(every) == 0:
        return [paragraph("No schedule was evaluated whole.", "empty")]
    blocks: list[str | Chart | Table] = []
    for length, rows in every.groupby("length", sort=True):
        size = size_text(int(str(length)))
        table = plain(
            f"perplexity-{size}{tail}", f"What the model loses at {size}", _ordered(_lined(rows)),
            _told(rows), _FORMATS,
        )  # fmt: skip
        blocks += [_chart(run, _lined(rows), table, size, tail), table, *layer_error_text(rows)]
    if len(alone):
        blocks.append(_layers(run, _lined(alone), tail))
    return blocks


def _told(rows: pd.DataFrame) -> dict[str, str]:
    """The columns of the table: those that some records fill only where one does."""
    some = ("keys_off", "layer_error")
    left = {column for column in some if rows[column].isna().all()}
    return {column: name for column, name in _NAMED.items() if column not in left}


def _chart(run: Run, rows: pd.DataFrame, table: Table, size: str, tail: str) -> Chart:
    wide, narrow = figures.heights(rows)
    copied = f"{COPIED} tokens, {FILLER} others, and the same {COPIED} again"
    return Chart(
        key=f"model-{size}{tail}",
        title=f"Perplexity and retrieval at {size}",
        conclusion=f"At {size} tokens: {_said(rows)}.",
        how="Low is good. The upright stroke in a line is window + sinks with as many keys: a "
        "pattern earns its place where its point lies left of it. A loss on the second copy as "
        "high as the window's says that it does not find again what it has read.",
        caption="Keys: a query, mean over layers. Perplexity: exponential of the mean loss over "
        "excerpts; bars: 95 % bootstrap intervals of the difference to full attention, excerpt by "
        f"excerpt; more than {figures.MOST:g} times that of full is written. KL to full and second "
        f"copy: nats. Second copy: {copied}; {_setting(run, rows)}. Prefill: the whole "
        f"model, one excerpt, wall time.{_in_step(rows)} In a narrow figure c- stands for "
        "combiner-.",
        table=table,
        draw=partial(figures.draw, frame=rows),
        wide_height=wide,
        narrow_height=narrow,
    )


def _said(rows: pd.DataFrame) -> str:
    """Full attention, the closest to it, and how many do better than the window at their keys."""
    ordered = _ordered(rows)
    others = ordered[~ordered.name.isin(("full", "uniform"))]
    said = [
        f"{row.line} {three(row.perplexity)}{_verdict(row)}"
        for _, row in pd.concat([ordered[ordered.name.eq("full")], others.head(_NAMED_IN_WORDS)])
        .sort_values("perplexity", kind="stable").iterrows()
    ]  # fmt: skip
    if len(others) <= _NAMED_IN_WORDS:
        return joined(said)
    compared = others[others.against_rival.notna() & others.asked.ne(others.rival)]
    better, worse = (compared.against_rival_high < 0).sum(), (compared.against_rival_low > 0).sum()
    return (
        f"{joined(said)}; of {len(compared)} that stand beside window + sinks at equal keys, "
        f"{better} are better, {len(compared) - better - worse} level and {worse} worse"
    )


def _verdict(row: pd.Series) -> str:
    if not row.rival or row.against_rival != row.against_rival or row.asked == row.rival:
        return ""
    low, high = row.against_rival_low, row.against_rival_high
    verdict = "better than" if high < 0 else "worse than" if low > 0 else "level with"
    return f" ({verdict} window + sinks at equal keys)"


def _layers(run: Run, rows: pd.DataFrame, tail: str) -> Chart:
    worst = rows.sort_values("above_full", ascending=False).iloc[0]
    named = {
        "length": "length", "line": "patterns", "layer": "layer", "above_full": "loss above full",
        "above_full_low": "low", "above_full_high": "high", "kl": "KL to full",
    }  # fmt: skip
    table = plain(
        f"layers{tail}", "One layer at a time", rows.assign(layer=rows.layer.astype(int)), named,
        {
            "length": lambda n: size_text(int(n)),
            **dict.fromkeys(("loss above full", "low", "high", "KL to full"), three_places),
        },
    )  # fmt: skip
    return Chart(
        key=f"model-layers{tail}",
        title="Which layer it hurts",
        conclusion=f"The most is lost in layer {int(worst.layer)} with {worst.line}: "
        f"{three_places(worst.above_full)} nats above full attention.",
        how="Each point is the model with one layer swapped and the others as they were; a high "
        "point is a layer that should keep full attention.",
        caption=f"Mean over {int(rows.excerpts.min())} excerpts, 95 % paired bootstrap intervals; "
        f"{_setting(run, rows)}.",
        table=table,
        draw=partial(figures.draw_layers, frame=rows),
        wide_height=3.0,
        narrow_height=3.4,
    )


def _lined(part: pd.DataFrame) -> pd.DataFrame:
    """With a short label for each schedule; explicit ones keep their whole text."""
    plain_ones = [one for one in part.asked.unique() if ":" not in one]
    short = labels(plain_ones)
    return part.assign(line=[short.get(one, one) for one in part.asked])


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["length", "perplexity"], kind="stable")


def _setting(run: Run, rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    weights = _weights(run.info, first)
    counts = joined(
        f"{part.excerpts.max()} of {size_text(part.length.iloc[0])}"
        for _, part in rows.groupby("length", sort=True)
    )
    return (
        f"{first.source}{weights}, {first['dtype']}, excerpts: {counts} tokens of text "
        f"{first.text}; {device_text(run, first.machine)}"
    )


def _weights(info: dict[str, Any], row: pd.Series) -> str:
    """How the model's weights were stored, where that is known."""
    for one in info.get("evaluations", []):
        if one.get("model") == row.source and one.get("weights"):
            return f" ({one['weights']} weights)"
    return ""
