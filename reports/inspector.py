"""Maps by themselves: the triptych, a row's profile and mass by distance, as files and a page."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from attnbench import BadInput
from attnbench.mapfile import Maps, save_map
from reports import tables
from reports.chart import Chart, Table
from reports.explorer import Explorer
from reports.figures import distance, profile
from reports.figures.axes import is_narrow, panel_title
from reports.frame.maps import Map, mass_by_distance, mean_variation, row_profile, view
from reports.frame.names import labels
from reports.html import escape, unfolded
from reports.page import PANES, document, figure_markup, with_panes
from reports.planes import sheet
from reports.render import render
from reports.sections import Section
from reports.sections.maps import MOST, chart_of
from reports.text import size_text, three, three_places


def write_maps(maps: Sequence[Maps], out: Path, *, head: int | None, row: int | None) -> Path:
    """Write the files and the page; see `reports.inspect`."""
    if not maps:
        raise BadInput("expected at least one map to draw, got none")
    found = [view(one) for one in maps]
    index = 0 if head is None else _index(found[0], head)
    at = 3 * found[0].length // 4 if row is None else row
    if not 0 <= at < found[0].length:
        raise BadInput(f"row must lie in [0, {found[0].length}), got {at}")
    keys = _keys(found)
    out.mkdir(parents=True, exist_ok=True)
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for key, one in zip(keys, maps, strict=True):
        save_map(out / f"{key}.npz", one)
    parts = []
    for chart in _charts(found, keys, index, at):
        tables.write(replace(chart.table, key=chart.key), figures)
        parts.append(figure_markup(render(chart, figures)))
    names = labels([one.asked for one in found]) if len(found) > 1 else {}
    panes = Explorer(
        sheets=tuple(
            sheet(key, names.get(one.asked, one.asked), held, rich=True)
            for key, one, held in zip(keys, found, maps, strict=True)
        ),
        head=head,
        row=at,
    )
    opening, closing = unfolded("The same map as figures" if len(found) == 1 else "As figures")
    asked = list(dict.fromkeys(one.asked for one in found))
    title = asked[0] if len(asked) == 1 else f"{len(found)} maps"
    heading = f'<h1 class="map">{escape(title)}</h1>{_files(keys)}'
    body = (
        f'<section id="verdict" class="alone">{heading}{PANES}{opening}{"".join(parts)}{closing}'
        "</section>"
    )
    page = out / "map.html"
    text = document(
        title=f"attnbench: {title}",
        lead=_lead(found, title, index),
        sections=[Section(key="verdict", title=title, blocks=())],
        bodies=[body],
    )
    page.write_text(with_panes(text, panes), encoding="utf-8")
    return page


def _keys(found: Sequence[Map]) -> list[str]:
    """What files are called: `map`, or where there are several, the pattern and the layer."""
    if len(found) == 1:
        return ["map"]
    asked = {one.asked for one in found}
    keys: list[str] = []
    for one in found:
        layer = one.case.get("layer")
        words = ["map", *([one.asked] if len(asked) > 1 else [])]
        words += [] if layer is None else [f"layer {layer}"]
        key = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
        keys.append(key if key not in keys else f"{key}-{len(keys)}")
    return keys


def _charts(found: Sequence[Map], keys: Sequence[str], index: int, row: int) -> list[Chart]:
    """The figures of each map, with the profile of the first one's row."""
    charts = []
    for key, one in list(zip(keys, found, strict=True))[:MOST]:
        head = min(index, len(one.heads) - 1)
        said = f"total variation {three(mean_variation(one, head))}"
        charts.append(chart_of(one, head, one.asked, said, key))
    return [charts[0], _profile(found[0], index, row), *charts[1:]]


def _lead(found: Sequence[Map], title: str, index: int) -> str:
    first = found[0]
    said = f"{title} · {size_text(first.length)} tokens"
    if len(found) > 1:
        return said
    variation = three(mean_variation(first, index))
    return f"{said} · head {first.heads[index]} · total variation {variation}"


def _files(keys: Sequence[str]) -> str:
    """Links to the map files, which hold the numbers themselves."""
    links = " ".join(
        f'<a href="{escape(key)}.npz">{"NPZ" if len(keys) == 1 else escape(f"{key}.npz")}</a>'
        for key in keys
    )
    return f'<p class="links files">The numbers: {links}</p>'


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
