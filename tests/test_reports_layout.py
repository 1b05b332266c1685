"""Nothing in a figure covers anything else, leaves the page, or takes room it does not need."""

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_run import PATTERNS, make

from attnbench.mapfile import load_map
from reports.figures import error_cost, error_length, heads, labels, speedup, triptych
from reports.figures.axes import above, bytes_axis, length_axis, ms_axis
from reports.frame import scaling, tradeoff
from reports.frame.maps import view
from reports.frame.tidy import settings
from reports.run import Run, read
from reports.sections.command import split
from reports.style import NARROW, WIDE, house, look


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    some = [one for one in PATTERNS if not one[0].startswith(("sinks[window=5", "sinks[window=2"))]
    return read(make(tmp_path_factory.mktemp("run"), patterns=some, maps=1, layers=(0, 5)))


def drawn(draw, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    with house():
        draw(figure)
        figure.canvas.draw()
    return figure


def box_of(artist: mpl.artist.Artist):
    return artist.get_window_extent()


def texts(figure: Figure) -> list[mpl.text.Text]:
    return [
        one for one in figure.findobj(mpl.text.Text) if one.get_text().strip() and one.get_visible()
    ]


def test_what_lies_above_the_axes_is_said_outside_them(run: Run):
    cost = scaling.with_speedup(settings(run.cost)[0])
    found = tradeoff.tradeoff(cost[cost["pass"].eq("fwd")], run.fidelity)
    found = found[found.fidelity_source.eq("captured")]
    found = found[found.error.lt(1.2) | found.asked.eq("strided")].copy()
    found.loc[found.asked.eq("strided"), "error"] = 2.5
    figure = drawn(lambda one: error_cost.draw(one, found), WIDE, 8)
    for axes in figure.axes:
        assert "strided 2.5" in axes.get_title(loc="right")
        assert not [one for one in axes.texts if "above" in one.get_text()]


@pytest.mark.parametrize("names", [["logsparse 1.6"], ["a-long-name 1.6"] * 9, ["b 2"] * 2])
@pytest.mark.parametrize("width", [1.2, 3.0, 6.0])
def test_a_remark_has_as_many_names_as_there_is_room_for(names: list[str], width: float):
    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        axes.set_title("4k", loc="left")
        above(axes, names)

    figure = drawn(draw, width, 2)
    axes = figure.axes[0]
    said = axes.get_title(loc="right")
    assert said.startswith("above: ")
    if width == 6.0:
        assert names[0] in said
    if width > 2:
        title = next(one for one in texts(figure) if one.get_text() == said)
        assert box_of(title).x0 > box_of(next(t for t in texts(figure) if t.get_text() == "4k")).x1


def one_length(errors: pd.DataFrame, sources: tuple[str, ...]) -> pd.DataFrame:
    longest = errors[errors.length.eq(errors.length.max())]
    return pd.concat([errors, *(longest.assign(source=one) for one in sources)])


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_sources_of_one_length_share_rows_instead_of_panels(run: Run, width: float):
    errors = tradeoff.over_layers(run.fidelity)
    errors = errors[errors.source.eq("captured")]
    alone = error_length.heights(errors)
    mixed = one_length(errors, ("heavy-hitter", "local-decay", "needle"))
    mixed.loc[mixed.asked.eq("logsparse") & mixed.source.eq("needle"), "error"] = 3.44
    heights = error_length.heights(mixed)
    assert heights[0] < 2.5 * alone[0], "a panel a source would take four times the first"
    figure = drawn(lambda one: error_length.draw(one, mixed), width, heights[width == NARROW])
    titles = [axes.get_title(loc="left").replace("\n", ", ") for axes in figure.axes]
    assert titles[:3] == [f"{one}, 8k tokens" for one in ("heavy-hitter", "local-decay", "needle")]
    needle = figure.axes[2]
    assert any(one.get_text() == "3.4 \u25b8" for one in needle.texts)
    names = [one.get_text().replace("\n", " ") for one in figure.axes[0].get_yticklabels()]
    assert len(names) == errors[errors.length.eq(8192)].asked.nunique()
    for axes in figure.axes[:3]:
        at = {str(line.get_gid()): line for line in axes.lines}
        source = axes.get_title(loc="left").replace("\n", ",").partition(",")[0]
        for row in mixed[mixed.source.eq(source)].itertuples():
            if row.error <= 1.5:
                mark = at[f"series:{row.asked}@auto"]
                assert mark.get_xdata()[0] == row.error
                assert names[int(mark.get_ydata()[0])] == row.line
    inside = figure.bbox
    for text in texts(figure):
        assert inside.x0 <= box_of(text).x0
        assert box_of(text).x1 <= inside.x1


def test_a_run_of_single_lengths_has_no_empty_panel(run: Run):
    errors = tradeoff.over_layers(run.fidelity)
    errors = errors[errors.length.eq(8192)]
    figure = drawn(
        lambda one: error_length.draw(one, errors), WIDE, error_length.heights(errors)[0]
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "captured, 8k tokens", "structured, 8k tokens",
    ]  # fmt: skip


def test_lines_that_end_early_are_listed_with_their_marks(run: Run):
    cost = scaling.with_speedup(settings(run.cost)[0])
    early = cost.asked.isin(["logsparse", "axial"]) & cost.length.gt(1024)
    cost = cost[~early & cost["pass"].eq("fwd")]
    crossed = scaling.crossovers(cost)
    figure = drawn(lambda one: speedup.draw(one, cost, crossed), WIDE, 4)
    assert "timed at few lengths" in {one.get_text() for one in texts(figure)}
    for asked in ("logsparse", "axial"):
        parts = [one for one in figure.axes[0].lines if one.get_gid() == f"label:{asked}@auto"]
        assert [one.get_label() for one in parts] == ["_key"], "a mark, and no leader"
        said = [one for one in figure.axes[0].texts if one.get_gid() == f"label:{asked}@auto"]
        assert [one.get_text().endswith("at 1k") for one in said] == [False, True]


def test_listed_lines_and_labels_keep_out_of_each_others_way():
    def made(names: str, y: float) -> list[labels.Label]:
        return [labels.Label(x=1, y=y, text=one, look=look(one), key=one) for one in names]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.1, 0.5, 0.8))
        labels.end_labels(axes, made("abcdefgh", 0), made("ijklm", 0.5))

    figure = drawn(draw, WIDE, 2.5)
    heights = {one.get_text(): one.get_position()[1] for one in figure.axes[0].texts}
    assert len(heights) == 8 + 5 + 1
    places = sorted(heights, key=heights.__getitem__)
    assert places[5] == "timed at few lengths"
    assert sorted(places[:5]) == list("ijklm")
    assert min(heights[b] - heights[a] for a, b in pairwise(places)) > 0.1  # inches: 7 points


def cells(layers: int, heads_: int) -> pd.DataFrame:
    rows = [
        {"asked": asked, "line": asked, "layer": str(layer), "error": 0.1 * (1 + place),
         "error_per_head": [0.1 * (1 + place) + 0.01 * head for head in range(heads_)]}
        for place, asked in enumerate(("full", "local", "combiner-fixed"))
        for layer in range(layers)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_titled_one_layer_are_rows_with_their_numbers():
    one = cells(1, 3)
    assert heads.height(24, 1, narrow=False) < heads.height(24, 4, narrow=False)
    figure = drawn(lambda each: heads.draw(each, one), WIDE, heads.height(3, 1, narrow=False))
    rows = [axes for axes in figure.axes if str(axes.get_gid()).startswith("panel:")]
    assert [axes.get_gid() for axes in rows] == [
        "panel:full",
        "panel:local",
        "panel:combiner-fixed",
    ]
    written = [[text.get_text() for text in axes.texts] for axes in rows]
    assert written[1] == ["0.20", "0.21", "0.22"]
    tops = [axes.get_position().y0 for axes in rows]
    assert tops == sorted(tops, reverse=True)
    many = drawn(lambda each: heads.draw(each, cells(1, 32)), WIDE, 2)
    assert not [axes for axes in many.axes if axes.texts], "32 numbers have no room"


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_triptych_keeps_all_of_its_words_on_the_page(run: Run, width: float):
    found = view(load_map(next(Path(run.folder, "maps").glob("*.npz"))))
    case = {**found.case, "asked": "combiner-axial-horizontal[columns=32]"}
    found = replace(found, meta={**found.meta, "case": case})
    height = triptych.height(width == NARROW)
    figure = drawn(lambda one: triptych.draw(one, found, 0, "TV 0.5 · KL 0.6"), width, height)
    edge = figure.bbox
    for text in texts(figure):
        box = box_of(text)
        assert edge.x0 <= box.x0
        assert box.x1 <= edge.x1
    maps: list[Axes] = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(maps) == 4
    said = {axes.get_title(loc=side) for axes in maps for side in ("left", "right")}
    titled = [one for one in texts(figure) if one.get_text() in said]
    assert len(titled) == 6
    assert not any(box_of(a).overlaps(box_of(b)) for a, b in combinations(titled, 2))
    labels = [axes.xaxis.label for axes in maps]
    titles = [one for one in texts(figure) if one.get_text() in ("difference", "|difference|")]
    assert all(box_of(one).y0 >= edge.y0 for one in labels)
    assert not any(box_of(a).overlaps(box_of(b)) for a in labels for b in titles)


def test_signed_ticks_are_short():
    assert triptych._signed(0.084) == "+0.084"
    assert triptych._signed(-0.0028) == "\u22120.0028"
    assert triptych._signed(0) == "0"
    assert np.all(["e" not in triptych._signed(x) for x in (3e-5, -2e-9, 0.5)])


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ([4096, 16001, 16384, 65536], [4096, 16384, 65536]),
        ([2**n for n in range(10, 17)], [2**n for n in range(10, 17)]),
        ([2**n for n in range(10, 21)], [2**n for n in range(10, 21, 2)]),
        ([1000], [1000]),
    ],
)
def test_names_of_lengths_do_not_touch(lengths: list[int], named: list[int]):
    figure = drawn(lambda one: length_axis(one.add_subplot(), lengths), NARROW, 2)
    assert figure.axes[0].get_xticks().tolist() == named


@pytest.mark.parametrize("axis", [bytes_axis, ms_axis])
def test_an_axis_of_nearly_equal_numbers_has_two_names(axis):
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([1, 2], [1.31e8, 1.32e8])
        axis(axes)

    axes = drawn(draw, NARROW, 2).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= one <= high for one in axes.get_yticks()) >= 2
    assert low < 1.31e8
    assert high > 1.32e8


def test_parts_of_a_matrix_are_told_by_what_differs():
    parts = [{"heads": 16, "lengths": [1024]}, {"heads": 16, "lengths": [2048], "dim": 96}]
    shared, own = split(parts)
    assert shared == {"heads": 16}
    assert own == [{"lengths": [1024], "dim": None}, {"lengths": [2048], "dim": 96}]
