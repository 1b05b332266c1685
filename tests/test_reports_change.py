"""The drawn report of two runs: what its figures show, and what its page holds."""

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from report_run import PATTERNS, make
from test_reports_figures import canvas, line, written

import run_bench
from reports import comparison, render
from reports.change_page import charts, sections_of, write_comparison
from reports.figures import change as figure
from reports.frame.change import (
    FASTER,
    LESS,
    MORE,
    SAME,
    SLOWER,
    UNCLEAR,
    facet_text,
    facets,
)
from reports.style import NARROW, WIDE, house

FEW = [one for one in PATTERNS if one[0] in ("full", "strided", "axial", "logsparse")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and one in which strided is slower, axial faster and larger, logsparse farther off."""
    folder = tmp_path_factory.mktemp("two")
    a, b = (
        make(folder / name, lengths=(1024, 4096), captured=(2048,), layers=(0, 5), patterns=FEW,
             maps=0, failures=False)
        for name in "ab"
    )  # fmt: skip
    records = [json.loads(text) for text in (b / "records.jsonl").read_text().splitlines()]
    for record in records:
        asked, time = record["case"]["asked"], record["time"]
        if time:
            factor = {"strided": 1.5, "axial": 0.5}.get(asked, 1.0)
            cold = time["cold_ms"]
            cold["median"] *= factor
            cold["interval"] = [x * factor for x in cold["interval"]]
        if record["memory"] and asked == "axial":
            record["memory"]["peak_bytes"] *= 2
        if record["fidelity"] and asked == "logsparse" and record["case"]["layer"] == 5:
            record["fidelity"]["output_error"]["mean"] *= 1.2
    (b / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return a, b


@pytest.fixture(scope="module")
def found(runs: tuple[Path, Path]) -> comparison.Comparison:
    return comparison.compare(*runs)


def titled(axes: list[Axes], title: str) -> Axes:
    (one,) = [each for each in axes if each.get_title(loc="left") == title]
    return one


def test_a_facet_shares_its_pass_and_its_shape(found: comparison.Comparison):
    parts = facets(found.changes, "time")
    assert [set(part["pass"]) for part in parts] == [{"fwd"}, {"fwdbwd"}]
    assert facet_text(parts[0]) == "fwd, batch 1, 16 heads of 64, bfloat16 on cuda, causal"
    other = found.changes.assign(dtype="float16", case_key="x")
    mixed = facets(pd.concat([found.changes, other]), "time")
    assert all(part["dtype"].nunique() == 1 for part in mixed)
    assert len(mixed) == 4


def test_each_case_is_marked_by_its_verdict_with_its_interval(found: comparison.Comparison):
    part = facets(found.changes, "time")[0]
    made = canvas(height=figure.height(4, False))
    with house():
        figure.draw(made, part, found.threshold)
    axes = titled(made.axes, "strided")
    for row in part[part.asked.eq("strided")].itertuples():
        mark = line(axes, f"case:{row.case_key}")
        assert mark.get_ydata()[0] == pytest.approx(row.ratio)
        assert mark.get_xdata()[0] == row.length
        assert mark.get_marker() == figure.LOOKS[SLOWER][1]
        assert to_hex(mark.get_color()) == figure.LOOKS[SLOWER][0].lower()
    bars = [one for one in axes.lines if one.get_gid() == "interval:strided@auto"]
    wanted = part[part.asked.eq("strided")]
    assert [list(bar.get_ydata()) for bar in bars] == wanted[["low", "high"]].to_numpy().tolist()
    faster = titled(made.axes, "axial").lines
    assert {one.get_label() for one in faster} >= {FASTER}
    assert len({axes.get_ylim() for axes in made.axes}) == 1
    assert re.search(r"SLOWER \(2\)", written(made))


def test_the_most_changed_pattern_comes_first(found: comparison.Comparison):
    lines = [text for text, _ in figure.series(facets(found.changes, "time")[0])]
    assert lines[:2] == ["axial", "strided"]
    assert set(lines[2:]) >= {"full", "logsparse"}


def test_verdicts_are_told_apart_by_marker_alone():
    marks = {verdict: figure.LOOKS[verdict][1:] for verdict in (FASTER, SLOWER, SAME, UNCLEAR)}
    assert len(set(marks.values())) == 4
    assert figure.LOOKS[LESS] == figure.LOOKS[FASTER]
    assert figure.LOOKS[MORE] == figure.LOOKS[SLOWER]


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.0, "0"), (1.25, "+25 %"), (0.8, "\u221220 %"), (2.0, "2\u00d7")]
)
def test_ratios_are_written_as_changes(ratio: float, said: str):
    assert figure.percent_text(ratio) == said


def test_a_change_beyond_the_axis_stands_at_its_edge(found: comparison.Comparison):
    part = facets(found.changes, "time")[0].head(1).assign(ratio=100.0, low=90.0, high=110.0)
    made = canvas()
    with house():
        figure.draw(made, part, found.threshold)
    (axes,) = made.axes
    edge = axes.get_ylim()[1]
    assert edge == pytest.approx(8)
    assert line(axes, f"case:{part.case_key.iloc[0]}").get_ydata().tolist() == pytest.approx([edge])


def test_memory_and_error_are_drawn_only_where_they_changed(found: comparison.Comparison):
    (forward, _) = charts(found, "memory")
    assert set(forward.draw.keywords["part"].asked) == {"axial"}  # type: ignore[attr-defined]
    (error,) = charts(found, "error")
    part = error.draw.keywords["part"]  # type: ignore[attr-defined]
    assert set(part.asked) == {"logsparse"}
    assert set(part.layer) == {5}
    assert "1 of 1 cases changed" in error.conclusion


def test_nothing_changed_is_said(runs: tuple[Path, Path]):
    same = comparison.compare(runs[0], runs[0])
    by_key = {section.key: section for section in sections_of(same)}
    assert "Nothing changed" in str(by_key["memory"].blocks[0])
    assert by_key["verdict"].title == "No regression beyond 5 %"


def test_the_page_holds_everything_and_its_bytes_are_the_same(
    found: comparison.Comparison, tmp_path: Path
):
    page = write_comparison(found, tmp_path / "x")
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    for key in ("change-time", "change-time-2", "change-memory", "change-error"):
        assert f'id="figure-{key}"' in text
        for kind in ("png", "svg", "pdf", "csv"):
            assert (page.parent / "figures" / f"{key}.{kind}").stat().st_size > 0
    assert "regressions beyond 5 %" in text
    again = write_comparison(found, tmp_path / "y")
    assert again.read_bytes() == page.read_bytes()
    for path in (page.parent / "figures").iterdir():
        assert path.read_bytes() == (again.parent / "figures" / path.name).read_bytes()


def test_it_is_drawn_for_one_and_for_two_columns(found: comparison.Comparison):
    (chart, *_) = charts(found, "time")
    for width, height in ((WIDE, chart.wide_height), (NARROW, chart.narrow_height)):
        pdf = render._made(chart, width, height, ("pdf",)).files["pdf"]
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
        assert box is not None
        assert float(box[1]) == pytest.approx(72 * width)
        assert b"/FontFile2" in pdf


def test_the_command_writes_the_page(runs: tuple[Path, Path], tmp_path: Path, capsys):
    code = run_bench.main(["compare", *map(str, runs), "--out", str(tmp_path / "drawn")])
    assert code == 1
    assert f"report: {tmp_path / 'drawn' / 'comparison.html'}" in capsys.readouterr().out
    assert (tmp_path / "drawn" / "comparison.html").is_file()


def test_a_ratio_of_nothing_is_not_drawn(found: comparison.Comparison):
    broken = found.changes.assign(ratio=math.nan)
    assert facets(broken, "time") == []
