"""One map by itself: the triptych, a row's profile and mass by distance, as files and a page."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from attnbench import BadInput
from attnbench.mapfile import Maps
from reports import tables
from reports.chart import Chart, Table
from reports.explorer import Explorer, sheet
from reports.figures import distance, profile
from reports.figures.axes import is_narrow, panel_title
from reports.frame.maps import Map, mass_by_distance, mean_variation, row_profile, view
from reports.html import escape, unfolded
from reports.page import PANES, document, figure_markup, with_panes
from reports.render import render
from reports.sections import Section
from reports.sections.maps import chart_of
from reports.text import size_text, three, three_places


def write_map(maps: Maps, out: Path, *, head: int | None, row: int | None) -> Path:
    """Write the files and the page of one head; see `reports.inspect`."""
    found = view(maps)
    index = 0 if head is None else _index(found, head)
    at = 3 * found.length // 4 if row is None else row
    if not 0 <= at < found.length:
        raise BadInput(f"row must lie in [0, {found.length}), got {at}")
    said = f"total variation {three(mean_variation(found, index))}"
    charts = [
        chart_of(found, index, found.asked, said, "map"),
        _profile(found, index, at),
    ]
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    panes = Explorer(sheets=(sheet("map", found.asked, maps, rich=True),), head=head, row=at)
    opening, closing = unfolded("The same map as figures")
    parts = []
    for chart in charts:
        tables.write(replace(chart.table, key=chart.key), figures)
        parts.append(figure_markup(render(chart, figures)))
    section = Section(key="verdict", title=found.asked, blocks=())
    heading = f'<h1 class="map">{escape(found.asked)}</h1>'
    still = f"{opening}{''.join(parts)}{closing}"
    body = f'<section id="verdict" class="alone">{heading}{PANES}{still}</section>'
    page = out / "map.html"
    lead = f"{found.asked} · {size_text(found.length)} tokens · head {found.heads[index]} · {said}"
    text = document(title=f"attnbench: {found.asked}", lead=lead, sections=[section], bodies=[body])
    page.write_text(with_panes(text, panes), encoding="utf-8")
    return page


def _index(found: Map, head: int) -> int:
    if head not in found.heads:
        raise BadInput(f"the map holds the heads {found.heads}, got head {head}")
    return found.heads.index(head)


def _profile(found: Map, head: int, row: int) -> Chart:
    keys, full, ours = row_profile(found, head, row // found.bin_size)
    frame = pd.DataFrame({"key": keys, "full": full, "pattern's": ours})
    top = int(full.argmax())
    first = row // found.bin_size * found.bin_size
    span = (
        f"query {row}"
        if found.bin_size == 1
        else f"queries {first} to {first + found.bin_size - 1}"
    )
    weights = [three_places(float(one[top])) for one in (full, ours)]
    return Chart(
        key="profile",
        title="One row, and mass by distance",
        conclusion=f"Full attention of {span} is largest around key {three(float(keys[top]))}: "
        f"{weights[0]} on average, where the pattern gives {weights[1]}.",
        how="Where the coloured line lies below the grey one the pattern gives a key too little; a "
        "gap means no weight at all.",
        caption=f"{span.capitalize()}, means over bins of {found.bin_size} tokens; mass by "
        f"distance from the pooled map, in steps of no less than a bin.",
        table=Table(
            key="profile", title="The row's weights", frame=frame,
            formats={"key": three, "full": three_places, "pattern's": three_places},
        ),
        draw=partial(_draw, found=found, head=head, row=row),
        wide_height=2.6,
        narrow_height=4.9,
    )  # fmt: skip


def _draw(figure: Figure, found: Map, head: int, row: int) -> None:
    width, height = figure.get_size_inches()
    narrow = is_narrow(figure)
    grid = figure.add_gridspec(
        2 if narrow else 1, 1 if narrow else 2, left=0.6 / width, right=1 - 0.12 / width,
        bottom=0.45 / height, top=1 - 0.3 / height, wspace=0.25, hspace=0.42,
    )  # fmt: skip
    axes = figure.add_subplot(grid[0, 0])
    keys, full, ours = row_profile(found, head, row // found.bin_size)
    profile.draw(axes, keys, full, ours, found.asked, found.length)
    panel_title(axes, f"query {row}")
    below = figure.add_subplot(grid[1, 0] if narrow else grid[0, 1])
    distance.panel(below, *mass_by_distance(found, head), found.asked)
    below.set_xlabel("query \u2212 key (tokens)")
    panel_title(below, "mass by distance")
