"""Figures as functions: they take Axes and return them, draw nowhere else, and refuse mixtures."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.image import imread
from report_run import make

import reports
from attnbench import BadInput
from attnbench.mapfile import load_map
from attnbench.preview import GAP, SIDE, pixels
from reports import comparison, plots
from reports.figures import triptych
from reports.notebook import Report

Draw = Callable[[Report, Axes | None], Axes]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = make(tmp_path_factory.mktemp("run"), lengths=(1024, 2048, 4096), captured=(2048, 4096))
    return reports.open(folder)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    pyplot.close("all")
    yield
    pyplot.close("all")


DRAWN: dict[str, tuple[Draw, str]] = {
    "latency": (lambda r, ax: r.latency(ax=ax), "series:strided@auto"),
    "memory": (lambda r, ax: r.memory(ax=ax, pass_="fwdbwd"), "series:strided@auto"),
    "speedup": (lambda r, ax: r.speedup(ax=ax), "series:strided@auto"),
    "roofline": (lambda r, ax: r.roofline(ax=ax), "ceiling:matmul"),
    "error_cost": (lambda r, ax: r.error_cost(ax=ax), "frontier"),
    "error_length": (lambda r, ax: r.error_length(ax=ax), "series:strided@auto"),
    "row_errors": (lambda r, ax: r.row_errors(ax=ax), "series:strided@auto"),
    "row_positions": (lambda r, ax: r.row_positions(ax=ax), "series:strided@auto"),
    "recall": (lambda r, ax: r.recall(ax=ax), "top8:strided@auto"),
    "parents": (lambda r, ax: r.parents(ax=ax), "series:combiner-logsparse"),
    "mass": (lambda r, ax: r.mass_by_distance("strided", ax=ax), "series:strided"),
    "profile": (lambda r, ax: plots.profile(r.map(), 900, ax=ax), "full"),
}
IMAGES: dict[str, Draw] = {
    "heads": lambda r, ax: r.heads("strided", ax=ax),
    "full": lambda r, ax: plots.full(r.map(), ax=ax),
    "effective": lambda r, ax: plots.effective(r.map(), head=1, ax=ax),
    "difference": lambda r, ax: plots.difference(r.map(), ax=ax),
    "absolute": lambda r, ax: plots.difference(r.map(), absolute=True, ax=ax),
    "mask": lambda r, ax: plots.mask("combiner-fixed", ax=ax),
}
EVERY: dict[str, Draw] = {name: draw for name, (draw, _) in DRAWN.items()} | IMAGES


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_function_draws_into_the_axes_it_is_given_and_nowhere_else(report: Report, name: str):
    figure, (mine, other) = pyplot.subplots(1, 2)
    before = len(figure.texts), len(figure.axes)
    assert EVERY[name](report, mine) is mine
    assert mine.has_data()
    assert not other.has_data()
    assert (len(figure.texts), len(figure.axes)) == before
    assert pyplot.get_fignums() == [figure.number]
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("name", sorted(EVERY))
def test_without_axes_it_makes_a_figure(report: Report, name: str):
    axes = EVERY[name](report, None)
    assert len(pyplot.get_fignums()) == 1
    assert axes.figure is pyplot.gcf()
    assert axes.has_data()


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_the_lines_are_those_of_the_report(report: Report, name: str):
    draw, gid = DRAWN[name]
    _, mine = pyplot.subplots()
    assert gid in {one.get_gid() for one in draw(report, mine).lines}


def test_lines_are_named_in_a_legend_of_given_axes(report: Report):
    _, mine = pyplot.subplots()
    legend = report.latency(ax=mine).get_legend()
    assert legend is not None
    assert "strided" in [text.get_text() for text in legend.get_texts()]
    alone = report.latency()
    assert alone.get_legend() is None
    assert "strided" in [text.get_text() for text in alone.texts]


def test_settings_that_differ_are_refused(report: Report):
    cost = report.cost
    mixture = pd.concat([cost, cost.assign(dtype="float16")])
    for draw in (plots.latency, plots.memory, plots.speedup, plots.roofline):
        with pytest.raises(BadInput, match="cannot mix dtype"):
            draw(mixture)
    with pytest.raises(BadInput, match="cannot mix heads"):
        plots.error_cost(pd.concat([cost, cost.assign(heads=8)]), report.fidelity)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda r: r.latency(pass_="bwd"), "no timed case of pass 'bwd'"),
        (lambda r: r.latency(setting=3), "1 settings"),
        (lambda r: r.heads("nosuch"), "no 'nosuch' there"),
        (lambda r: r.recall(source="nosuch"), "no errors on nosuch"),
        (lambda r: r.error_cost(length=77), "at 77 tokens"),
        (lambda r: r.error_cost(by="keys"), "by must be one of"),
        (lambda r: r.map(9), "2 stored maps"),
        (lambda r: plots.full(r.map(), head=5), "2 heads, got head 5"),
        (lambda r: plots.profile(r.map(), -1), "the rows 0 to"),
        (lambda _: plots.mask("nosuch"), "no pattern 'nosuch'"),
    ],
)
def test_what_is_not_there_is_said(report: Report, draw: Callable[[Report], object], said: str):
    with pytest.raises(BadInput, match=said):
        draw(report)


def test_a_triptych_returns_its_four_axes(report: Report):
    found = plots.triptych(report.map())
    assert found[0].get_title(loc="left") == "full attention"
    assert len(found) == 4
    mine = pyplot.figure(figsize=(6.75, triptych.height(False)))
    assert all(axes.figure is mine for axes in plots.triptych(report.map(), figure=mine))


def test_panes_of_one_map_share_their_limits(report: Report):
    limits = [
        (axes.images[-1].norm.vmin, axes.images[-1].norm.vmax)
        for axes in (plots.full(report.map()), plots.effective(report.map()))
    ]
    assert limits[0] == limits[1]


def test_what_changed_is_drawn_for_one_pattern(report: Report, tmp_path: Path):
    other = make(tmp_path, lengths=(1024, 2048, 4096), captured=(2048, 4096), maps=0)
    found = comparison.compare(report.run.folder, other)
    _, mine = pyplot.subplots()
    assert plots.change(found.changes, "strided", ax=mine) is mine
    assert len([one for one in mine.lines if str(one.get_gid()).startswith("case:")]) == 3
    with pytest.raises(BadInput, match="facets of memory"):
        plots.change(found.changes, "strided", quantity="memory", facet=7)


def test_opening_a_run_writes_nothing_before_its_page_is_asked_for(tmp_path: Path):
    run = make(tmp_path / "run", lengths=(1024, 2048), captured=(), maps=0)
    before = sorted(run.iterdir())
    opened = reports.open(run)
    opened.latency()
    assert sorted(run.iterdir()) == before
    assert opened.page.is_file()
    assert "iframe" in opened._repr_html_()


def test_a_map_shows_itself(report: Report):
    found = report.map()
    picture = imread(io.BytesIO(found._repr_png_()))
    assert picture.shape[1] == 3 * SIDE + 2 * GAP
    assert picture.shape[0] == 2 * SIDE + GAP
    assert found._repr_png_() == found._repr_png_()
    shown = found._repr_html_()
    assert "data:image/png;base64," in shown
    assert "total variation of the first" in shown


def test_the_picture_of_a_map_tells_hidden_empty_and_heavy_apart(report: Report):
    found = load_map(report.maps[0])
    drawn, size = pixels(found), SIDE // len(found.visible)
    assert drawn[0, SIDE - 1].tolist() == [236, 239, 242]  # the future of the first query
    empty = np.argwhere((found.effective[0] == 0) & (found.visible > 0))
    row, column = empty[0] if len(empty) else (0, 0)
    if len(empty):
        where = (row * size, SIDE + GAP + column * size)
        assert drawn[where].tolist() == [255, 255, 255]
    heaviest = np.unravel_index(found.full[0].argmax(), found.full[0].shape)
    lightest = np.where(found.visible > 0, found.full[0], np.inf).argmin()
    light = np.unravel_index(lightest, found.full[0].shape)
    bright, dark = (drawn[r * size, c * size].sum() for r, c in (heaviest, light))
    assert bright > dark


def test_hostile_names_are_text_in_a_map(report: Report):
    found = report.map()
    found.meta["case"] = {"asked": "<script>x</script>", "source": "<b>"}
    assert "<script>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()
