"""A setting that was timed at one length: a row a pattern, where a line would be a dot."""

from functools import partial

import pandas as pd

from reports.chart import Chart
from reports.figures import one_length as figure
from reports.frame.tidy import each_row
from reports.run import Run
from reports.sections.shared import PASS_WORDS, main_pass, missing_text, setting_caption
from reports.tables import plain
from reports.text import bytes_text, joined, ms_text, ratio_text, size_text


def chart(run: Run, part: pd.DataFrame, tail: str) -> Chart:
    """Times, speed-ups and memory of one setting that has one length; `tail` ends its key."""
    good = part[part.status.eq("ok") & part.ms.gt(0)]
    size = size_text(int(good.length.iloc[0]))
    one = main_pass(good)
    best = good[good["pass"].eq(one) & good.name.ne("full") & ~good.simulated & ~good.quadratic]
    best = best[best.speedup.notna()].sort_values("speedup", ascending=False, kind="stable")
    said = joined(f"{row.line} {ratio_text(row.speedup)}" for row in each_row(best.head(3)))
    wide, narrow = figure.heights(good)
    named = {
        "line": "pattern", "pass": "pass", "ms": "time", "p20_ms": "20 %", "p80_ms": "80 %",
        "graph_ms": "graph", "wall_ms": "eager wall", "speedup": "\u00d7 dense",
        "speedup_low": "low", "speedup_high": "high", "peak_bytes": "peak memory",
    }  # fmt: skip
    order = good.sort_values(["pass", "ms"], kind="stable")
    return Chart(
        key=f"times{tail}",
        title=f"Time at {size} tokens",
        conclusion=f"Over the fastest dense kernel, {PASS_WORDS[one]}: {said}."
        if said
        else f"No speed-up of a native pattern is known, {PASS_WORDS[one]}.",
        how="Left is fast; the black line is the fastest dense kernel, and what stands on the "
        "tinted ground is ahead of it, so many times as the number at the right says.",
        caption=f"Medians, thin lines from the 20th to the 80th percentile. This setting has one "
        f"length, so nothing is said of how it grows. {setting_caption(run, good)}",
        missing=missing_text(part),
        table=plain(f"times{tail}", f"Times and memory at {size}", order, named, {
            **dict.fromkeys(("time", "20 %", "80 %", "graph", "eager wall"), ms_text),
            **dict.fromkeys(("\u00d7 dense", "low", "high"), ratio_text),
            "peak memory": bytes_text,
        }),
        draw=partial(figure.draw, frame=good),
        wide_height=wide,
        narrow_height=narrow,
    )  # fmt: skip
