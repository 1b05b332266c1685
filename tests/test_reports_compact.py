"""Fewer bytes, the same drawing: what a browser would compute from each part stays."""

import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.chart import Chart
from reports.compact import _path, compact
from reports.render import inline_svg, render
from reports.style import house
from reports.tables import plain

DRAWN = (
    '<defs><path id="k--m1" d="M 0 0 \nL -3 0 \n" style="stroke: #5f6670"/>'
    '<clipPath id="k--p1"><path d="M 1.50 2.00 L 3.00 2.00 L 3.00 9.25 z"/></clipPath></defs>'
    '<g id="k--figure_1"><g id="k--line2d_1"><use href="#k--m1" x="1" style="fill: #5f6670"/></g>'
    '<g id="k--series:fixed[block=64]@auto--2"><path d="M 1 2 L 3.10 2" clip-path="url(#k--p1)" '
    'style="stroke: #111"/></g><g><path d="M 1 2 L 3.10 4" clip-path="url(#k--p1)" '
    'style="stroke: #111"/></g></g>'
)


def test_names_that_are_used_or_tagged_stay_and_others_go():
    found = compact(DRAWN, "k")
    names = re.findall(r' id="([^"]*)"', found)
    assert names == ["k--0", "k--1", "k--series:fixed[block=64]@auto--2"]
    assert re.findall(r'(?:url\(#|href="#)([^")]*)', found.partition("</style>")[2]) == ["k--0"]
    assert "clip-path: url(#k--1)" in found
    assert found.count("<g") == found.count("</g>") == 1


def test_a_look_that_is_used_twice_is_written_once():
    found = compact(DRAWN, "k")
    rules, drawn = found.split("</style>")
    assert rules == "<style>.drawn-k .a{stroke: #111; clip-path: url(#k--1)}"
    assert drawn.count('class="a"') == 2
    assert drawn.count("style=") == 2  # of what is there once


@pytest.mark.parametrize(
    ("said", "shorter"),
    [
        ("M 1.50 2.00 \nL 3.00 2.00 \nL 3.00 9.25 \nz", "M1.5 2H3V9.25z"),
        ("M 10 20 L 10 20.10", "M10 20V20.1"),
        ("M 0 1.8 C 0.47 1.8 0.93 1.61 1.27 1.27 z", "M0 1.8C0.47 1.8 0.93 1.61 1.27 1.27z"),
        ("M 1 2 L 3 4 M 3 4 L 5 4", "M1 2L3 4M3 4H5"),
    ],
)
def test_a_path_keeps_its_points(said, shorter):
    assert _path(said) == shorter


def test_a_long_path_keeps_its_points_to_a_tenth_of_a_point():
    points = [(1.234 * i, 50 + (i % 7) * 1.111) for i in range(100)]
    said = _path("M " + " L ".join(f"{x:.2f} {y:.2f}" for x, y in points))
    x = y = 0.0
    found = []
    for sign, numbers in re.findall(r"([MLHV])([-\d. ]+)", said):
        given = [float(one) for one in numbers.split()]
        x, y = (
            (given[0], y) if sign == "H" else (x, given[0]) if sign == "V" else (given[0], given[1])
        )
        found.append((x, y))
    assert len(found) == len(points)
    assert np.abs(np.array(found) - np.array(points)).max() < 0.06


def test_covers_lie_over_the_panels_of_an_image(tmp_path):
    def draw(figure: Figure) -> None:
        for place, name in enumerate(("local", "sinks")):
            axes = figure.add_axes((0.1 + 0.45 * place, 0.2, 0.35, 0.6))
            axes.set_gid(f"panel:{name}")
        figure.add_axes((0.1, 0.02, 0.3, 0.05))  # a bar, which belongs to none

    chart = Chart(
        key="two", title="Two", conclusion="two panels", how="look", caption="none", kind="image",
        table=plain("two", "Two", pd.DataFrame({"a": [1]}), {"a": "a"}, {}), draw=draw,
        wide_height=2, narrow_height=2,
    )  # fmt: skip
    covers = re.findall(
        r'data-part="([^"]*)" style="left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%',
        render(chart, tmp_path).wide,
    )
    assert [one[0] for one in covers] == ["panel:local", "panel:sinks"]
    for place, (_, left, top, width, height) in enumerate(covers):
        at = 10 + 45 * place
        assert at - 10 < float(left) <= at
        assert float(left) + float(width) >= at + 35
        assert float(top) <= 20
        assert float(top) + float(height) >= 80


def test_an_inline_drawing_is_smaller_and_still_says_what_it_shows():
    with house():
        figure = Figure(figsize=(3, 2))
        FigureCanvasAgg(figure)
        figure.subplots().plot([1, 2], [3, 4], gid="series:local@auto")
        held = BytesIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    text = held.getvalue().decode()
    found = inline_svg(text, "one", "what it says")
    assert len(found) < 0.7 * len(text)
    assert found.startswith('<svg class="picture drawn-one"')
    assert 'id="one--series:local@auto"' in found
