"""What patterns do to a language model: perplexity, retrieval, and which layers it hurts."""

from functools import partial
from typing import Any

import pandas as pd

from attnbench.excerpts import COPIED, FILLER
from attnbench.records import read
from reports.chart import Chart, Table
from reports.figures import evaluation as figures
from reports.frame.evaluation import evaluation_frame, failed_frame, single, whole
from reports.frame.names import labels
from reports.html import escape, paragraph
from reports.run import Run
from reports.sections import Section
from reports.sections.shared import device_text
from reports.tables import plain
from reports.text import bytes_text, joined, ms_text, size_text, three, three_places

_NAMED = {
    "length": "length", "line": "patterns", "keys_per_query": "keys a query",
    "perplexity": "perplexity", "perplexity_low": "low", "perplexity_high": "high",
    "against_rival": "loss to window + sinks", "against_rival_low": "its low",
    "against_rival_high": "its high", "kl": "KL to full", "agreement": "same top token",
    "later_half": "loss, later half", "second_copy": "loss, second copy", "ms": "prefill",
    "peak_bytes": "peak memory", "kv_bytes": "key-value bytes", "excerpts": "excerpts",
}  # fmt: skip
_PLACES = (
    *("keys a query", "perplexity", "low", "high", "loss to window + sinks", "its low"),
    *("its high", "KL to full", "same top token", "loss, later half", "loss, second copy"),
)
_FORMATS: dict[str, object] = {
    **dict.fromkeys(_PLACES, three_places),
    "length": lambda n: size_text(int(n)), "prefill": ms_text,
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
        blocks += _part(run, _lined(part), tail)
    if len(failed):
        blocks.append(Table(key="evaluation-failures", title="Without a result", frame=failed))
    return [Section(key="model", title="In a model", blocks=tuple(blocks))]


def _part(run: Run, part: pd.DataFrame, tail: str) -> list[str | Chart | Table]:
    every, alone = whole(part), single(part)
    if len(every) == 0:
        return [paragraph("No schedule was evaluated whole.", "empty")]
    table = plain(
        f"perplexity{tail}", "What the model loses", _ordered(every), _NAMED, _FORMATS
    )  # fmt: skip
    blocks: list[str | Chart | Table] = [_chart(run, every, table, tail), table]
    if len(alone):
        blocks.append(_layers(run, alone, tail))
    return blocks


def _chart(run: Run, rows: pd.DataFrame, table: Table, tail: str) -> Chart:
    lengths = sorted(rows.length.unique())
    last = rows[rows.length.eq(lengths[-1])]
    wide, narrow = figures.heights(rows)
    copied = f"{COPIED} tokens, {FILLER} others, and the same {COPIED} again"
    return Chart(
        key=f"model{tail}",
        title="Perplexity and retrieval",
        conclusion=f"At {size_text(int(lengths[-1]))} tokens: {_said(last)}.",
        how="Low is good. At equal keys a pattern earns its place where it lies below window + "
        "sinks; a loss on the second copy as high as the window's says that it does not find again "
        "what it has read.",
        caption="Keys a query: mean over layers. Perplexity: the exponential of the mean loss over "
        "excerpts; bars: 95 % bootstrap intervals of the difference to full attention, excerpt by "
        f"excerpt. Second copy: {copied}; {_setting(run, rows)}. Prefill: the whole "
        "model, one excerpt, wall time.",
        table=table,
        draw=partial(figures.draw, frame=rows),
        wide_height=wide,
        narrow_height=narrow,
    )


def _said(rows: pd.DataFrame) -> str:
    """Perplexities in words, and how each does against the window at its keys."""
    said = []
    for _, row in _ordered(rows).iterrows():
        text = f"{row.line} {three(row.perplexity)}"
        if row.rival and row.against_rival == row.against_rival and row.asked != row.rival:
            low, high = row.against_rival_low, row.against_rival_high
            verdict = "better than" if high < 0 else "worse than" if low > 0 else "level with"
            text += f" ({verdict} window + sinks at equal keys)"
        said.append(text)
    return joined(said)


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
