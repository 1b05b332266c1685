"""A run over many shapes: a figure a setting, none mixed, and one length is one row a pattern."""

import json

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_run import PATTERNS, make

from reports.chart import Chart
from reports.frame.tidy import mixed, setting_text
from reports.run import Run, read
from reports.sections import cost
from reports.style import NARROW, WIDE, house

SOME = [one for one in PATTERNS if one[0].startswith(("full", "local", "combiner-fixed"))]
SHAPES = [
    {"dim": 96}, {"dim": 128}, {"batch": 4}, {"heads": 32, "kv_heads": 8}, {"causal": False},
    {"dtype": "float16"}, {"device": "cpu"}, {"batch": 4, "dim": 128}, {"heads": 8, "kv_heads": 8},
    {"dtype": "float32"}, {"batch": 16},
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One setting over four lengths, and eleven more: ten at 4k, and one (D = 96) at two."""
    lengths = (1024, 2048, 4096, 8192)
    folder = make(tmp_path_factory.mktemp("run"), patterns=SOME, lengths=lengths, captured=())
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    more = []
    for number, shape in enumerate(SHAPES):
        for one in lines:
            if one["case"]["length"] == 4096 or (number == 0 and one["case"]["length"] == 8192):
                own = {"case_key": f"{one['case_key']}{number}", "group": f"{one['group']}{number}"}
                more.append({**one, **own, "case": one["case"] | shape})
    path.write_text("".join(json.dumps(one) + "\n" for one in [*lines, *more]))
    return read(folder)


@pytest.fixture(scope="module")
def charts(run: Run) -> dict[str, Chart]:
    return {
        block.key: block
        for section in cost.sections(run)
        for block in section.blocks
        if isinstance(block, Chart)
    }


def frame_of(chart: Chart):
    drawn = chart.draw.keywords
    return drawn["rows" if "rows" in drawn else "frame"]


def test_no_figure_mixes_shapes_and_no_setting_is_left_out(run: Run, charts: dict[str, Chart]):
    frames = {key: frame_of(chart) for key, chart in charts.items()}
    assert [key for key, frame in frames.items() if mixed(frame)] == []
    assert len({setting_text(frame) for frame in frames.values()}) == 1 + len(SHAPES)


def test_a_setting_with_one_length_is_one_figure_and_others_have_lines(charts: dict[str, Chart]):
    kinds: dict[str, set[int]] = {}
    for key, chart in charts.items():
        kinds.setdefault(key.partition("-")[0], set()).add(frame_of(chart).length.nunique())
    assert kinds == {"speedup": {2, 4}, "latency": {2, 4}, "memory": {2, 4}, "roofline": {2, 4},
                     "times": {1}}  # fmt: skip
    assert sum(key.startswith("times") for key in charts) == 10


def test_the_settings_are_listed_with_links_to_their_headings(run: Run):
    blocks = [one for one in cost.sections(run)[0].blocks if isinstance(one, str)]
    page = "".join(blocks)
    for number in range(1, 2 + len(SHAPES)):
        assert page.count(f'href="#setting-{number}"') == page.count(f"id=setting-{number}>") == 1


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_one_length_puts_the_fastest_at_the_top_beside_the_dense_line(charts, width: float):
    chart = charts["times-4"]
    frame = frame_of(chart)
    figure = Figure(figsize=(width, chart.wide_height if width == WIDE else chart.narrow_height))
    FigureCanvasAgg(figure)
    with house():
        chart.draw(figure)
    assert len(figure.axes) == 2
    for axes, one in zip(figure.axes, ("fwd", "fwdbwd"), strict=True):
        rows = frame[frame["pass"].eq(one)]
        marks = {str(line.get_gid()): line for line in axes.lines}
        for row in rows.itertuples():
            assert marks[f"series:{row.asked}@{row.backend}"].get_xdata()[0] == row.ms
        dense = rows[rows.name.eq("full") & rows.backend.ne("eager")].ms.min()
        assert marks["dense"].get_xdata()[0] == dense
        labelled = axes if width == NARROW else figure.axes[0]  # side by side they share names
        names = [tick.get_text().replace("\n", " ") for tick in labelled.get_yticklabels()]
        forward = frame[frame["pass"].eq("fwd")].sort_values("ms", ascending=False)
        assert names == list(forward.line)
        for name, tick in zip(names, axes.get_yticks(), strict=True):
            row = rows[rows.line.eq(name)].iloc[0]
            at = marks[f"series:{row.asked}@{row.backend}"].get_ydata()[0]
            assert at == tick, "a label belongs to the mark at its height"


def test_a_remark_above_the_axes_never_reaches_the_title(charts: dict[str, Chart]):
    for key in ("speedup", "speedup-2"):
        figure = Figure(figsize=(NARROW, charts[key].narrow_height))
        canvas = FigureCanvasAgg(figure)
        with house():
            charts[key].draw(figure)
        for axes in figure.axes:
            found = {
                text.get_text(): text.get_window_extent(canvas.get_renderer())
                for text in axes.findobj(mpl.text.Text)
                if text.get_text() in (axes.get_title(loc="left"), axes.get_title(loc="right"))
                and text.get_text()
            }
            left, right = sorted(found.values(), key=lambda box: box.x0)
            assert left.x1 < right.x0
