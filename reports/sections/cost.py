"""What patterns cost: time, speed-up and memory over length, one set of figures a setting."""

import math
from functools import partial

import pandas as pd

from attnbench.records import read
from reports.chart import Chart, Table
from reports.figures import latency, memory, speedup
from reports.figures.lines import each_line
from reports.frame.clocks import CLOCKS, in_words, overtaking
from reports.frame.frontier import frontier_frame
from reports.frame.scaling import crossovers, exponents
from reports.frame.tidy import each_row, setting_text
from reports.frame.tradeoff import thinned
from reports.html import escape, paragraph
from reports.run import Run
from reports.sections import Section, one_length, roofline
from reports.sections.shared import (
    PASS_WORDS,
    cost_settings,
    lengths_text,
    main_pass,
    missing_text,
    setting_caption,
    setting_heading,
    several_lengths,
)
from reports.tables import memory as memory_table
from reports.tables import plain
from reports.tables import times as times_table
from reports.text import (
    TIMES,
    bytes_text,
    joined,
    ms_text,
    ratio_text,
    size_text,
    three_places,
)


def sections(run: Run) -> list[Section]:
    """Cost, memory, and how near to the roof."""
    found = [part for part in cost_settings(run) if (part.status == "ok").any()]
    longest = _frontier(run)
    if not found:
        no_time = paragraph("This run has no times: no cost case ended well.", "empty")
        no_space = paragraph("This run has no memory: no cost case ended well.", "empty")
        return [
            Section(key="cost", title="Cost", blocks=(no_time,)),
            Section(key="memory", title="Memory", blocks=(*longest,) or (no_space,)),
            roofline.section(run),
        ]
    cost: list[str | Chart | Table] = [_contents(found)]
    space: list[str | Chart | Table] = []
    for index, part in enumerate(found):
        tail = f"-{index + 1}" if index else ""
        heading = setting_heading(part, f"setting-{index + 1}") if len(found) > 1 else ""
        if several_lengths(part):
            cost += [heading, *_cost(run, part, tail)]
            space += [setting_heading(part) if heading else "", *_memory(run, part, tail)]
        else:
            cost += [heading, one_length.chart(run, part, tail)]
    if not all(map(several_lengths, found)):
        space.append(paragraph("The memory of a setting of one length is in its table under Cost."))
    return [
        Section(key="cost", title="Cost", blocks=tuple(cost)),
        Section(key="memory", title="Memory", blocks=(*space, *longest)),
        roofline.section(run),
    ]


def _contents(found: list[pd.DataFrame]) -> str:
    """Links to the settings, where there are several."""
    if len(found) < 2:
        return ""
    links = []
    for index, part in enumerate(found, start=1):
        good = part[part.status.eq("ok")]
        size = f"{lengths_text(list(good.length))} tokens, {len(good)} cases"
        said = f"{escape(setting_text(part))}</a>: {escape(size)}"
        links.append(f'<li><a href="#setting-{index}">{said}</li>')
    lead = paragraph("Shapes, dtypes and devices are never mixed in one figure. There are "
                     f"{len(found)} settings:")  # fmt: skip
    return f'{lead}<ul class="contents">{"".join(links)}</ul>'


def _cost(run: Run, part: pd.DataFrame, tail: str) -> list[str | Chart | Table]:
    passes = [one for one in PASS_WORDS if ((part["pass"] == one) & (part.status == "ok")).any()]
    shown = thinned(part[part["pass"].isin(passes)])
    slopes = exponents(part)
    blocks: list[str | Chart | Table] = []
    crossed = crossovers(part)
    faster = speedup.rows_shown(shown)
    if len(faster):
        blocks.append(_speedup(run, shown, faster, crossed, tail))
    else:
        blocks.append(paragraph("No speed-ups: no dense SDPA row and another pattern were timed "
                                "together.", "empty"))  # fmt: skip
    overtaken = overtaking(part)
    if len(faster):
        blocks.append(_overtaking(overtaken, tail))
    blocks.append(_latency(run, shown, slopes, tail))
    for one in passes:
        title = f"Median time a call, {PASS_WORDS[one]}"
        blocks.append(times_table(part, one, f"times-{one}{tail}", title))
    same = run.windows[run.windows.group.isin(part.group)]
    if len(same):
        blocks.append(_windows(same, tail))
    return blocks


def _overtaking(found: pd.DataFrame, tail: str) -> Table:
    """From which length on each pattern is ahead of dense, by each clock."""
    named = {"line": "pattern", "pass": "pass"}
    for name in CLOCKS.values():
        named |= {name: f"{name} from", f"x {name}": f"{TIMES} {name}"}
    known = [key for key in named if found[key].notna().any()]
    title = "From how many tokens on it is faster than the fastest dense kernel, by each clock"
    return plain(f"crossovers{tail}", title, found, {key: named[key] for key in known}, {})


def _windows(same: pd.DataFrame, tail: str) -> Table:
    """The windows timed for having as many keys a query as a pattern of their group."""
    named = {
        "pass": "pass", "length": "length", "asked": "window", "keys_per_query": "keys a query",
        "ms": "time", "status": "status",
    }  # fmt: skip
    title = "Windows with as many keys a query as patterns beside them"
    order = same.sort_values(["pass", "length", "keys_per_query"], kind="stable")
    return plain(f"windows{tail}", title, order, named, {
        "length": lambda n: size_text(int(n)), "keys a query": three_places, "time": ms_text,
    })  # fmt: skip


def _latency(run: Run, shown: pd.DataFrame, slopes: pd.DataFrame, tail: str) -> Chart:
    panels = shown["pass"].nunique()
    wide, narrow = latency.heights(panels, latency.entries(shown))
    known = slopes[slopes.exponent.notna() & slopes["pass"].eq(main_pass(shown))]
    steep, flat = (
        known.sort_values("exponent").iloc[[-1, 0]].to_dict("records") if len(known) else ({}, {})
    )
    said = (
        f"Time grows as length to the power {steep['exponent']:.2f} for {steep['label']} and "
        f"{flat['exponent']:.2f} for {flat['label']}."
        if steep
        else "Too few lengths to fit how time grows."
    )
    table = plain(f"latency{tail}", "Fitted exponents", slopes, {
        "label": "pattern", "backend": "backend", "pass": "pass", "exponent": "exponent",
        "low": "low", "high": "high", "shortest": "from", "longest": "to", "why": "why none",
    }, {
        **dict.fromkeys(("exponent", "low", "high"), lambda x: f"{x:.2f}"),
        **dict.fromkeys(("from", "to"), lambda n: size_text(int(n))),
    })  # fmt: skip
    return Chart(
        key=f"latency{tail}",
        title="Time over length",
        conclusion=said,
        how="Both axes are logarithmic, so a straight line is a power law: as steep as “∝\u00a0L” "
        "doubles with the length, as steep as “∝\u00a0L²” quadruples.",
        caption="Median and band from the 20th to the 80th percentile; exponents with 95 % "
        "intervals from least squares on logarithms, beyond the flat start where launching is what "
        "is timed. "
        f"{_waited(shown)}Crosses: the first length that failed. "
        f"Of window + sinks the smallest and the largest "
        f"window. {setting_caption(run, shown)}",
        missing=missing_text(shown),
        table=table,
        draw=partial(latency.draw, frame=shown, exponents=slopes),
        wide_height=wide,
        narrow_height=narrow,
    )


def _waited(shown: pd.DataFrame) -> str:
    """What the open rings mean, where there are any."""
    if not (shown.status.eq("ok") & shown.host.ne("")).any():
        return ""
    return ("Open rings: times that include waits for Python, so they say more than the device "
            "needs; they take no part in speed-ups. ")  # fmt: skip


def _speedup(
    run: Run, shown: pd.DataFrame, faster: pd.DataFrame, crossed: pd.DataFrame, tail: str
) -> Chart:
    lines = [(text, drawn) for text, drawn, _ in each_line(faster)]
    wide, narrow = latency.heights(faster["pass"].nunique(), lines)
    one = main_pass(shown)
    best = crossed[crossed["pass"].eq(one) & ~crossed.simulated & ~crossed.quadratic]
    best = best[best.speedup_at_longest.notna()]
    best = best.sort_values("speedup_at_longest", ascending=False).head(3)
    said = joined(
        f"{row.label} {ratio_text(row.speedup_at_longest)} ("
        f"{'' if math.isnan(row.crossover) else 'from '}"
        f"{in_words(row.said, row.shortest, row.longest)})"
        for row in each_row(best)
    )
    dense = joined(sorted({str(x) for x in faster.dense if x}))
    dashed = " Short dashes: simulated with a dense mask." if faster.simulated.any() else ""
    words = [in_words(row.said, row.shortest, row.longest) for row in each_row(crossed)]
    table = plain(f"speedup{tail}", "Speed-up and crossover", crossed.assign(said=words), {
        "label": "pattern", "backend": "backend", "pass": "pass", "said": "faster than dense from",
        "low": "low", "high": "high", "longest": "longest",
        "speedup_at_longest": "\u00d7 at the longest",
    }, {
        **dict.fromkeys(("low", "high"), lambda n: f"{n:,.0f}"),
        "longest": lambda n: size_text(int(n)), "\u00d7 at the longest": ratio_text,
    })  # fmt: skip
    return Chart(
        key=f"speedup{tail}",
        title="Speed-up over the fastest dense kernel",
        conclusion=f"At the longest length, {PASS_WORDS[one]}: {said}."
        if said
        else f"No speed-up of a native pattern is known, {PASS_WORDS[one]}.",
        how="Above the black line a pattern is faster than full attention; a ring marks the length "
        "where it crosses for good.",
        caption=f"Dense: the fastest installed at each length ({dense}). Bands: 95 % intervals of "
        f"the ratio. Crossovers by interpolation on logarithms. Quadratic patterns are left "
        f"out.{dashed} "
        f"{setting_caption(run, shown)}",
        table=table,
        draw=partial(speedup.draw, frame=shown, crossings=crossed),
        wide_height=wide,
        narrow_height=narrow,
    )


def _memory(run: Run, part: pd.DataFrame, tail: str) -> list[str | Chart | Table]:
    known = part[part.peak_bytes.gt(0)]
    if len(known) == 0:
        return [paragraph("No memory was measured.", "empty")]
    passes = [one for one in PASS_WORDS if (known["pass"] == one).any()]
    shown = thinned(part[part["pass"].isin(passes)])
    slopes = exponents(part, "peak_bytes")
    wide, narrow = latency.heights(len(passes), latency.entries(shown))
    longest = known[known.length.eq(known.length.max()) & known["pass"].eq(passes[0])]
    least, most = longest.sort_values("peak_bytes").iloc[[0, -1]].to_dict("records")
    how = joined(sorted(set(known.memory_how) - {""}))
    written = [
        memory_table(
            part, one, f"memory-{one}{tail}", f"Peak memory above the inputs, {PASS_WORDS[one]}"
        )
        for one in passes
    ]
    chart = Chart(
        key=f"memory{tail}",
        title="Peak memory over length",
        conclusion=f"At {size_text(least['length'])} the least is {least['line']} with "
        f"{bytes_text(least['peak_bytes'])} and the most {most['line']} with "
        f"{bytes_text(most['peak_bytes'])}.",
        how="Lower is better; a line as steep as “∝\u00a0L²” keeps all pairs and will run out of "
        "memory.",
        caption=f"Peak above the inputs ({how or 'allocator'}), "
        f"in a pass of its own. {setting_caption(run, shown)}",
        table=written[0],
        draw=partial(memory.draw, frame=shown, exponents=slopes),
        wide_height=wide,
        narrow_height=narrow,
    )
    return [chart, *written]


def _frontier(run: Run) -> list[str | Chart | Table]:
    """The longest lengths that fit into memory, where `frontier` looked for them."""
    frame = frontier_frame(read(run.folder))
    if len(frame) == 0:
        return []
    several = [name for name in ("dtype", "heads", "dim", "batch", "causal", "memory_bytes")
               if frame[name].nunique() > 1]  # fmt: skip
    named = {
        "label": "pattern", "ran": "backend", "pass": "pass", **{name: name for name in several},
        "longest": "longest that fits", "predicted": "predicted", "held_bytes": "held there",
        "ends": "what ends it",
    }  # fmt: skip
    first = frame.iloc[0]
    memory = "" if "memory_bytes" in several else f" in {bytes_text(first.memory_bytes)}"
    title = f"The longest length that fits{memory}"
    table = plain("frontier", title, frame, named, {
        **dict.fromkeys(("longest that fits", "predicted"), lambda n: size_text(int(n))),
        **dict.fromkeys(("held there", "memory_bytes"), bytes_text),
    })  # fmt: skip
    heads = str(first.heads) if first.heads == first.kv_heads else f"{first.heads}/{first.kv_heads}"
    shape = f"{heads} heads of {first.dim}, {first['dtype']} on {first.device}, batch {first.batch}"
    return [
        paragraph(
            f"Inputs and everything that a call holds at its peak, {shape}; lengths are within 6 "
            "% of each other. Predicted: where inputs, outputs and gradients alone would fill "
            "the memory, so that what is measured is at most that.",
        ),
        table,
    ]
