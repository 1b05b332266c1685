"""The roofline: rates and intensities by hand, ceilings from machine.json, and what is drawn."""

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from report_run import PATTERNS, make
from test_reports_figures import canvas, line, written

from reports import render
from reports.chart import Chart
from reports.figures import roofline as figure
from reports.frame.roofline import OLDER, Roof, roof, roofline, shown_length
from reports.frame.tidy import settings
from reports.run import Run, read
from reports.sections import BySource, fidelity
from reports.sections.roofline import roofs_of, section
from reports.style import NARROW, WIDE, house

KNOWN = {"copy_bytes_per_s": 1e12, "matmul_flops_per_s": {"float32": 1e13}, "exp_per_s": 1e10}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read(make(tmp_path_factory.mktemp("run"), lengths=(2048, 4096), captured=(), maps=0))


@pytest.fixture(scope="module")
def rows(run: Run) -> pd.DataFrame:
    return roofline(settings(run.cost)[0])


def one(rows: pd.DataFrame, asked: str, pass_: str = "fwd") -> pd.Series:
    return rows[rows.asked.eq(asked) & rows["pass"].eq(pass_) & rows.length.eq(4096)].iloc[0]


def test_a_rate_is_the_definitions_work_over_the_time(rows: pd.DataFrame):
    forward, both = one(rows, "strided"), one(rows, "strided", "fwdbwd")
    assert forward.rate == pytest.approx(forward.flops / (forward.ms / 1e3))
    assert forward.intensity == pytest.approx(forward.flops / forward.bytes)
    assert both.rate == pytest.approx(3.5 * both.flops / (both.ms / 1e3))
    assert both.intensity == pytest.approx(3.5 * both.flops / (3 * both.bytes))


def test_computed_pairs_are_another_rate_in_the_same_time(rows: pd.DataFrame):
    row = one(rows, "strided")
    assert row.computed_pairs == 2 * row.scored_pairs
    assert row.computed_ratio == pytest.approx(2)
    assert row.computed_rate == pytest.approx(2 * row.rate)
    assert row.computed_intensity == pytest.approx(2 * row.intensity)
    assert one(rows, "full").isna().computed_rate


@pytest.mark.parametrize(
    ("intensity", "lowest"), [(1.0, 1e12), (9.0, 2.56e12), (1000.0, 2.56e12)]
)  # 64 wide: a pair is 256 FLOPs and one exponential
def test_the_roof_is_the_lowest_ceiling(intensity: float, lowest: float):
    found = roof({"ceilings": KNOWN}, dtype="float32", pass_="fwd", dim=64)
    assert found.at(intensity) == pytest.approx(lowest)
    assert found.ridge == 10
    assert found.why == ""
    back = roof({"ceilings": KNOWN}, dtype="float32", pass_="fwdbwd", dim=64)
    assert back.exp == pytest.approx(2.56e12 * 3.5 / 2)


def test_a_missing_ceiling_is_none_with_its_reason():
    assert roof({}, dtype="float32", pass_="fwd", dim=64) == Roof(
        copy=None, matmul=None, exp=None, why=OLDER
    )
    notes = {"exp_per_s": "no compiler"}
    found = roof(
        {"ceilings": KNOWN | {"exp_per_s": None, "notes": notes}}, dtype="float16", pass_="fwd",
        dim=64,
    )  # fmt: skip
    assert found.at(1.0) is None
    assert found.why == (
        "no ceiling for float16 products: it was not measured; "
        "no ceiling for exponentials: no compiler"
    )


def test_a_ceiling_measured_under_load_is_called_doubtful_and_stays():
    known = {"ceilings": KNOWN | {"spread": {"exp_per_s": 0.6, "float32": 0.02}}}
    found = roof(known, dtype="float32", pass_="fwd", dim=64)
    assert found.exp == pytest.approx(2.56e12)
    assert found.why.startswith("the ceiling of exponentials is doubtful: most of its measurements")


def drawn(rows: pd.DataFrame, roofs: dict[str, Roof]) -> tuple[list[Axes], str]:
    made = canvas(height=figure.heights(rows)[0])
    with house():
        figure.draw(made, rows, roofs)
    return made.axes, written(made)


def test_scored_and_computed_work_are_two_joined_marks_under_the_roof(run: Run, rows: pd.DataFrame):
    axes, text = drawn(rows, roofs_of(run, rows))
    row = one(rows, "strided")
    assert line(axes[0], "series:strided@auto").get_ydata().tolist() == [row.rate]
    assert line(axes[0], "computed:strided@auto").get_ydata().tolist() == [row.computed_rate]
    joined = line(axes[0], "waste:strided@auto")
    assert joined.get_xdata().tolist() == [row.intensity, row.computed_intensity]
    assert line(axes[0], "trail:strided@auto").get_xdata().size == 2
    assert not [one for one in axes[0].lines if one.get_gid() == "computed:full@auto"]
    assert set(line(axes[0], "ceiling:matmul").get_ydata()) == {6.1e14}
    slope = line(axes[0], "ceiling:copy")
    assert slope.get_ydata() == pytest.approx([2.9e12 * x for x in slope.get_xdata()])
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    assert "share of the roof" in text
    assert "no roof" not in text


def test_without_ceilings_the_figure_says_so(run: Run, rows: pd.DataFrame):
    bare = run.only(machines={key: {} for key in run.machines})
    axes, text = drawn(rows, roofs_of(bare, rows))
    assert "no roof: machine.json holds no ceilings" in text
    assert not [one for one in axes[0].lines if str(one.get_gid()).startswith("ceiling")]
    (chart,) = section(bare).blocks
    assert "a new run measures them" in chart.caption


def test_it_compares_where_full_attention_was_timed(rows: pd.DataFrame):
    longer = rows[rows["pass"].eq("fwd") & rows.length.eq(4096)].assign(length=65536)
    without = longer[~longer.name.eq("full")]
    assert shown_length(pd.concat([rows, without])) == 4096
    assert shown_length(pd.concat([rows, longer])) == 65536
    few = longer[longer.name.eq("full")]
    assert shown_length(pd.concat([rows, few])) == 4096  # too few to compare
    assert shown_length(without) == 65536


def test_a_run_without_times_says_so(tmp_path: Path):
    found = section(read(make(tmp_path, lengths=(), captured=(2048,), maps=0)))
    assert "No roofline" in str(found.blocks[0])


@pytest.mark.parametrize("key", ["roofline", "rows", "recall"])
def test_new_figures_fit_a_column_and_have_the_same_bytes_each_time(tmp_path: Path, key: str):
    few = [one for one in PATTERNS if one[0] in ("full", "strided")]
    made = make(tmp_path, lengths=(2048,), captured=(2048,), layers=(0,), patterns=few, maps=0)
    found = read(made)
    blocks = [*section(found).blocks, *fidelity.section(found).blocks]
    blocks += [one for part in blocks if isinstance(part, BySource) for one in part.parts[0][1]]
    (chart,) = [one for one in blocks if isinstance(one, Chart) and one.key == key]
    for width, height in ((WIDE, chart.wide_height), (NARROW, chart.narrow_height)):
        files, again = (render._made(chart, width, height, ("pdf", "svg")).files for _ in "ab")
        assert files == again
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", files["pdf"])
        assert box is not None
        assert float(box[1]) == pytest.approx(72 * width)
        assert b"/FontFile2" in files["pdf"]
