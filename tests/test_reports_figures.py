"""Figures are asked what they show: their artists are read, no image is compared."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report_run import make

from attnbench.mapfile import load_map
from reports.figures import (
    distance,
    error_cost,
    error_length,
    gallery,
    headline,
    heads,
    labels,
    latency,
    memory,
    parents,
    recall,
    rows,
    speedup,
    triptych,
)
from reports.frame import scaling, spread, tradeoff
from reports.frame.maps import view
from reports.frame.masks import tile
from reports.frame.parents import parents as parent_pairs
from reports.frame.tidy import settings
from reports.run import Run, read
from reports.style import NARROW, SIMULATED, WIDE, house, look


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read(make(tmp_path_factory.mktemp("run"), maps=1))


@pytest.fixture(scope="module")
def cost(run: Run) -> pd.DataFrame:
    return scaling.with_speedup(settings(run.cost)[0])


@pytest.fixture(scope="module")
def weighed(run: Run, cost: pd.DataFrame) -> pd.DataFrame:
    found = tradeoff.tradeoff(cost[cost["pass"] == "fwd"], run.fidelity)
    return found[found.fidelity_source == "captured"]


def canvas(width: float = WIDE, height: float = 5) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def line(axes: Axes, gid: str) -> Line2D:
    found = [one for one in axes.lines if one.get_gid() == gid]
    assert len(found) == 1, f"{gid} is drawn {len(found)} times"
    return found[0]


def written(figure: Figure) -> str:
    """All text of a figure, a line an artist."""
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def test_latency_shows_medians_bands_exponents_and_ends(cost: pd.DataFrame):
    figure = canvas()
    with house():
        latency.draw(figure, cost, scaling.exponents(cost))
    forward, both = figure.axes
    assert forward.get_xscale() == forward.get_yscale() == "log"
    drawn = line(forward, "series:fixed[block=64]@auto")
    here = cost[cost.asked.eq("fixed[block=64]") & cost["pass"].eq("fwd")].sort_values("length")
    assert drawn.get_xdata().tolist() == here.length.tolist()
    assert drawn.get_ydata().tolist() == here.ms.tolist()
    assert to_hex(drawn.get_color()) == to_hex(look("fixed[block=64]").colour)
    assert drawn.get_marker() == look("fixed").marker
    band = next(one for one in forward.collections if one.get_gid() == "band:fixed[block=64]@auto")
    assert band.get_paths()[0].contains_point((4096, here.ms.iloc[2] * 1.001))
    end = line(forward, "end:full@eager")
    assert end.get_xdata().tolist() == [16384]
    assert "oom" in written(figure)
    assert "1.23 ±0.07" in written(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["forward", "forward + backward"]
    assert not [one for one in both.lines if one.get_gid() == "series:combiner-mixture@auto"]


def test_the_labels_at_the_ends_do_not_overlap(cost: pd.DataFrame):
    figure = canvas(height=latency.heights(2, latency.entries(cost))[0])
    with house():
        latency.draw(figure, cost, scaling.exponents(cost))
        figure.canvas.draw()
    texts = [t for t in figure.axes[0].texts if t.get_text() in set(cost.line)]
    boxes = sorted((t.get_window_extent() for t in texts), key=lambda box: box.y0)
    assert len(boxes) > 15
    assert all(a.y1 <= b.y0 + 1.5 for a, b in itertools.pairwise(boxes))


def test_a_narrow_figure_lists_its_lines_below(cost: pd.DataFrame):
    figure = canvas(NARROW, 9)
    with house():
        latency.draw(figure, cost, scaling.exponents(cost))
    (legend,) = figure.legends
    assert "combiner-axial-vertical" in [text.get_text() for text in legend.get_texts()]


def test_a_simulated_pattern_is_dashed_and_says_so(cost: pd.DataFrame):
    figure = canvas()
    with house():
        latency.draw(figure, cost, scaling.exponents(cost))
    drawn = line(figure.axes[0], "series:block-topk[block=64]@auto")
    assert drawn.is_dashed()
    assert look("block-topk", simulated=True).dash == SIMULATED
    assert "block-topk (simulated)" in written(figure)


def test_memory_is_in_bytes_over_length(cost: pd.DataFrame):
    figure = canvas()
    with house():
        memory.draw(figure, cost, scaling.exponents(cost, "peak_bytes"))
    here = cost[cost.asked.eq("strided") & cost["pass"].eq("fwd") & cost.ms.notna()]
    drawn = line(figure.axes[0], "series:strided@auto")
    assert sorted(drawn.get_ydata().tolist()) == sorted(here.peak_bytes.tolist())
    assert figure.axes[0].get_yscale() == "log"


def test_speed_up_has_parity_and_rings_where_dense_is_passed(cost: pd.DataFrame):
    figure, crossed = canvas(), scaling.crossovers(cost)
    with house():
        speedup.draw(figure, cost, crossed)
    axes = figure.axes[0]
    assert [1, 1] in [list(one.get_ydata()) for one in axes.lines]
    row = crossed[crossed.asked.eq("strided") & crossed["pass"].eq("fwd")].iloc[0]
    ring = line(axes, "crossover:strided@auto")
    assert ring.get_xdata().tolist() == [row.crossover]
    gids = {one.get_gid() for one in axes.lines}
    assert "series:oracle-topk[keys=64]@auto" not in gids
    assert not any(str(gid).startswith("series:full") for gid in gids)


def test_the_headline_shows_the_frontier_the_curve_and_the_rivals(weighed: pd.DataFrame):
    shown = tradeoff.at_fixed_block(weighed, "64")
    shown = shown[shown.length.isin([4096, 8192])]
    figure = canvas(height=7)
    with house():
        headline.draw(figure, shown)
    first, second, *below = figure.axes
    assert first.get_title(loc="left") == "4k tokens"
    assert first.get_ylim() == second.get_ylim()
    part = shown[shown.length == 8192]
    stairs = tradeoff.staircase(part)
    step = line(second, "frontier")
    assert step.get_drawstyle() == "steps-post"
    assert step.get_xdata()[1:-1].tolist() == stairs.ms.tolist()
    assert len(line(second, "curve:sinks").get_xdata()) == 5
    assert line(second, "series:performer@auto").get_markerfacecolor() == "#ffffff"
    assert "above: retention" in written(figure)
    asked = "combiner-axial-rowmajor"
    row = part[part.asked == asked].iloc[0]
    assert line(below[1], f"rival:{asked}").get_xdata().tolist() == [row.error]
    assert line(below[1], f"equal-keys:{asked}").get_xdata().tolist() == [row.sinks_at_keys]
    assert "performer" not in [text.get_text() for text in below[0].get_yticklabels()]


def test_error_cost_is_shown_in_time_and_in_keys(weighed: pd.DataFrame):
    figure = canvas(height=8)
    with house():
        error_cost.draw(figure, weighed)
    assert len(figure.axes) == 6
    time, keys = figure.axes[:2]
    row = weighed[weighed.asked.eq("strided") & weighed.length.eq(2048)].iloc[0]
    assert line(time, "series:strided@auto").get_xdata().tolist() == [row.ms]
    assert line(keys, "series:strided@auto").get_xdata().tolist() == [row.keys_per_query]
    assert not [one for one in keys.lines if one.get_gid() == "frontier"]


def test_errors_over_length_have_a_panel_a_source(run: Run):
    errors = tradeoff.over_layers(run.fidelity)
    figure = canvas(height=8)
    with house():
        error_length.draw(figure, errors)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["captured", "structured"]
    row = errors[errors.asked.eq("local[window=128]") & errors.source.eq("captured")]
    drawn = line(figure.axes[0], "series:local[window=128]@auto")
    assert drawn.get_ydata().tolist() == row.sort_values("length").error.tolist()


def test_parents_are_paired_with_their_combiners(run: Run):
    here = tradeoff.over_layers(spread.at_one_place(run.fidelity))
    pairs = parent_pairs(here)
    figure = canvas(height=2.5)
    with house():
        parents.draw(figure, pairs)
    row = pairs[pairs.asked == "combiner-logsparse"].iloc[0]
    axes = figure.axes[0]
    assert line(axes, "series:combiner-logsparse").get_xdata().tolist() == [row.error]
    assert line(axes, "parent:combiner-logsparse").get_xdata().tolist() == [row.parent_error]
    assert line(axes, "parent:combiner-logsparse").get_color() == look("logsparse").colour


def test_rows_show_every_quantile(run: Run):
    here = spread.at_one_place(run.fidelity)
    quantiles, positions = spread.row_quantiles(here), spread.row_positions(here)
    figure = canvas(height=rows.heights(quantiles, positions)[0])
    with house():
        rows.draw(figure, quantiles, positions)
    shares, places = figure.axes
    drawn = line(shares, "series:strided@auto")
    wanted = quantiles[quantiles.asked == "strided"].by_quantile.iloc[0]
    assert drawn.get_xdata().tolist() == pytest.approx(np.clip(wanted, rows.FLOOR, None))
    assert drawn.get_ydata().tolist() == list(range(101))
    assert shares.get_xscale() == "log"
    row = positions[positions.asked == "strided"].iloc[0]
    bad = line(places, "series:strided@auto")
    assert np.isnan(bad.get_ydata()[0])  # no row was compared there
    assert bad.get_ydata()[1:].tolist() == pytest.approx(row.p95[1:])
    assert all(
        low <= x <= high
        for low, x, high in zip(row.edges[:-1], bad.get_xdata(), row.edges[1:], strict=True)
    )


def test_records_without_positions_have_the_shares_alone(run: Run):
    old = spread.at_one_place(run.fidelity).assign(position_edges=None)
    positions = spread.row_positions(old)
    assert len(positions) == 0
    quantiles = spread.row_quantiles(old)
    figure = canvas(height=rows.heights(quantiles, positions)[0])
    with house():
        rows.draw(figure, quantiles, positions)
    assert len(figure.axes) == 1
    order = [text.get_text() for text in figure.axes[0].texts if text.get_text() in
             set(quantiles.line)]  # fmt: skip
    by_p95 = quantiles.assign(p95=quantiles.by_quantile.map(lambda one: one[95]))
    assert order[0] == by_p95.sort_values("p95").line.iloc[0]
    assert len(order) == len(quantiles)


def test_recall_lists_the_best_first_with_three_marks_each(run: Run):
    found = spread.kept(spread.at_one_place(run.fidelity))
    figure = canvas(height=recall.height(len(found), False))
    with house():
        recall.draw(figure, found)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == found.line.tolist()[::-1]
    row = found[found.asked == "strided"].iloc[0]
    assert line(axes, "series:strided@auto").get_xdata().tolist() == [row.recall_64]
    assert line(axes, "top8:strided@auto").get_xdata().tolist() == [row.recall_8]
    assert line(axes, "mass:strided@auto").get_xdata().tolist() == [row.kept_mass]
    assert line(axes, "band:strided@auto").get_xdata().tolist() == [
        row.recall_64_low, row.recall_64_high,
    ]  # fmt: skip
    here = spread.at_one_place(run.fidelity)
    here = here[here.asked == "strided"]
    assert row.kept_mass == pytest.approx(1 - here.dropped_mass.mean())
    assert (row.recall_64_low, row.recall_64_high) == (here.recall_64.min(), here.recall_64.max())
    assert f"{row.entropy:.2f} ({row.full_entropy:.2f})" in written(figure)


def test_heads_share_one_scale_and_mark_the_worst(run: Run):
    cells = spread.with_heads(spread.at_one_place(run.fidelity))
    figure = canvas(height=8)
    with house():
        heads.draw(figure, cells)
    images = [image for axes in figure.axes for image in axes.images]
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    best = cells.groupby("asked").error.mean().idxmin()
    part = cells[cells.asked == best]
    assert images[0].get_array().shape == (part.layer.nunique(), 9)


def test_mass_by_distance_lies_over_that_of_full_attention(run: Run):
    spreads = spread.mass_by_distance(spread.at_one_place(run.fidelity)).head(2)
    figure = canvas(height=2)
    with house():
        distance.draw(figure, spreads)
    row = spreads.iloc[0]
    axes = figure.axes[0]
    drawn = line(axes, f"series:{row.asked}")
    assert drawn.get_ydata()[1:-1].tolist() == row.effective
    bars = axes.patches
    ends = [bars[0].get_x(), bars[-1].get_x() + bars[-1].get_width()]
    assert drawn.get_xdata()[[0, -1]].tolist() == pytest.approx(ends)
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(row.full)


def test_the_gallery_paints_direct_keys_dark_and_regions_in_tints():
    tiles = [tile("local"), tile("combiner-fixed")]
    painted = gallery.paint(tiles[1].cells, "combiner-fixed")
    assert to_hex(painted[15, 15]) == look("combiner-fixed").ink
    assert to_hex(painted[15, 0]) == gallery.TINTS[0]
    assert to_hex(painted[0, 15]) == gallery.BLANK
    figure = canvas(height=2)
    with house():
        gallery.draw(figure, tiles)
    assert "43 % · 3.6 keys" in written(figure)


def test_a_triptych_shares_limits_and_centres_the_difference(run: Run):
    found = view(load_map(run.maps[0]))
    figure = canvas(height=triptych.height(False))
    with house():
        triptych.draw(figure, found, 0, "total variation 0.1")
    full, ours, signed, absolute = (
        image for axes in figure.axes for image in axes.images if image.get_gid() == "map"
    )
    assert (full.norm.vmin, full.norm.vmax) == (ours.norm.vmin, ours.norm.vmax)
    assert (full.norm.vmin, full.norm.vmax) == (absolute.norm.vmin, absolute.norm.vmax)
    assert signed.norm.vmin == -signed.norm.vmax
    assert isinstance(full.norm, mpl.colors.LogNorm)
    hidden = found.visible == 0
    assert np.ma.getmaskarray(np.ma.masked_invalid(full.get_array()))[hidden].all()
    assert "total variation 0.1" in written(figure)


def test_a_figure_refuses_a_frame_that_mixes_settings(cost: pd.DataFrame):
    mixed = pd.concat([cost, cost.assign(dtype="float16")])
    with pytest.raises(ValueError, match="cannot mix dtype"):
        latency.draw(canvas(), mixed, scaling.exponents(cost))


@pytest.mark.parametrize(
    ("wanted", "placed"),
    [
        ([5.0], [5.0]),
        ([1.0, 1.0], [0.5, 1.5]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([9.8, 9.9, 5.0], [9.0, 10.0, 5.0]),
    ],
)
def test_labels_move_as_little_as_they_can(wanted, placed):
    assert labels.spread(wanted, 1.0, 0.0, 10.0) == pytest.approx(placed)


def test_labels_shrink_their_gaps_where_there_is_no_room():
    assert labels.spread([1, 1, 1, 1, 1], 1.0, 0.0, 2.0) == pytest.approx([0, 0.5, 1, 1.5, 2])
