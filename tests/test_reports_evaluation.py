"""The report of evaluations: the numbers of the records, drawn and listed, and nothing mixed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from report_run import make

import reports
from attnbench.records import read
from attnbench.statistics import mean_interval
from reports.figures import evaluation as figures
from reports.frame.copies import in_step
from reports.frame.evaluation import evaluation_frame, failed_frame, single, whole
from reports.run import read as read_run
from reports.sections.evaluation import sections
from reports.style import house

COMBINER = "combiner-fixed[block=64,summary=variational]"
MIXED = "0-1:full,2-:local[window=64]"
FULL = [2.0, 2.5, 3.0, 2.5]
ABOVE = {
    "full": [0.0, 0.0, 0.0, 0.0], "sinks[window=100]": [0.20, 0.24, 0.18, 0.22],
    COMBINER: [0.10, 0.15, 0.09, 0.12], MIXED: [0.2, 0.25, 0.17, 0.23], "uniform": [6.0] * 4,
}  # fmt: skip
RIVALS = {COMBINER: "sinks[window=100]", MIXED: "sinks[window=100]"}


def listed(values: list[float]) -> dict[str, Any]:
    return {"per_excerpt": values, **mean_interval(values)}


def record(asked: str, length: int = 1024, layer: int | None = None, **changes: Any) -> Any:
    above = [x * length / 1024 for x in ABOVE[asked]]
    if layer is not None:
        above = [x / (layer + 2) for x in above]
    rival = RIVALS.get(asked) if layer is None else None
    evaluation = {
        "loss": listed([a + b for a, b in zip(FULL, above, strict=True)]),
        "loss_above_full": mean_interval(above),
        "later_half_loss": listed([a + b for a, b in zip(FULL, above, strict=True)]),
        "kl_to_full": listed(above), "top1_agreement": listed([1 - x / 10 for x in above]),
        "second_copy_loss": None if layer is not None else listed([x * 8 for x in above]),
        "layer_error": {"per_layer": [0.25, 0.75], "mean": 0.5} if rival else None,
        "rival": None if rival is None else
        {"asked": rival, "keys_per_query": 100.0, "off": 0.001, "matched": True}, "notes": {},
    }  # fmt: skip
    case = {
        "asked": asked, "pattern": asked, "backend": "auto", "causal": True, "length": length,
        "heads": 9, "kv_heads": 3, "dim": 64, "dtype": "float32", "device": "cpu",
        "source": "tiny-model", "seed": 0, "text": "0123456789ab", "excerpts": 4, "layers": 4,
        "layer": layer,
    }  # fmt: skip
    timing = {"median": 30.0, "p20": 29.0, "p80": 31.0, "interval": [29.5, 30.5], "n": 4}
    found = {
        "schema": 1, "kind": "evaluation", "case_key": f"{asked}-{length}-{layer}",
        "group": "tiny", "role": "asked", "case": case, "status": "ok", "reason": None,
        "implementation": None, "time": {"prefill_ms": timing}, "memory": {"peak_bytes": 1 << 20},
        "fidelity": None, "evaluation": evaluation, "guards": {}, "version": "v", "machine": "m1",
        "cost": {"flops": 1, "scored_pairs": 1, "keys_per_query": 100.0, "kv_bytes": 1 << 10},
    }  # fmt: skip
    return found | changes


RECORDS = [
    *(record(asked, length) for asked in ABOVE for length in (1024, 2048)),
    *(record(COMBINER, layer=layer) for layer in range(4)),
]
FAILED = {"status": "oom", "reason": "out of memory: 3 GiB", "evaluation": None}


def written(folder: Path, records: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    info = {"command": [], "evaluations": [{"model": "tiny-model", "weights": "Q4_1"}]}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "machine.json").write_text(json.dumps({"m1": {"cpu": "A processor"}}))
    return folder


def test_the_frame_holds_the_records_numbers():
    frame = evaluation_frame(RECORDS)
    assert len(whole(frame)) == 10
    assert list(single(frame).layer) == [0, 1, 2, 3]
    every = whole(frame)
    row = every[every.asked.eq(COMBINER) & every.length.eq(1024)].iloc[0]
    assert row.perplexity == pytest.approx(math.exp(2.5 + 0.115))
    interval = mean_interval(ABOVE[COMBINER])["interval"]
    assert row.perplexity_low == pytest.approx(math.exp(2.5 + interval[0]))
    assert row.perplexity_high == pytest.approx(math.exp(2.5 + interval[1]))
    assert row.second_copy == pytest.approx(8 * 0.115)
    assert (row.ms, row.peak_bytes, row.kv_bytes) == (30.0, 1 << 20, 1 << 10)


def test_the_window_at_equal_keys_is_compared_excerpt_by_excerpt():
    frame = whole(evaluation_frame(RECORDS))
    row = frame[frame.asked.eq(COMBINER) & frame.length.eq(1024)].iloc[0]
    pairs = zip(ABOVE[COMBINER], ABOVE["sinks[window=100]"], strict=True)
    expected = mean_interval([a - b for a, b in pairs])
    assert row.against_rival == pytest.approx(expected["mean"])
    assert [row.against_rival_low, row.against_rival_high] == pytest.approx(expected["interval"])
    alone = evaluation_frame([record(COMBINER), record("sinks[window=100]", 2048)])
    assert alone.against_rival.isna().all()  # nothing of the same excerpts to compare with


def test_the_section_says_who_wins_and_lists_what_failed(tmp_path: Path):
    failed = record(MIXED, 2048, layer=2, **FAILED)
    run = read_run(written(tmp_path, [*RECORDS, failed]))
    (section,) = sections(run)
    chart, table, longer, _, layers, failures = section.blocks
    assert "At 1k tokens: full 12.2" in chart.conclusion
    assert "combiner-fixed 13.7 (better than window + sinks at equal keys)" in chart.conclusion
    assert "combiner-fixed 15.3 (better than window + sinks at equal keys)" in longer.conclusion
    assert f"{MIXED} 18.6 (level with window + sinks at equal keys)" in longer.conclusion
    assert "tiny-model (Q4_1 weights), float32, excerpts: 4 of 1k tokens" in chart.caption
    assert len(table.frame) == 5
    assert "off the wanted keys" not in table.frame
    assert "layer 0" in layers.conclusion
    assert failures.frame.iloc[0].reason == "out of memory: 3 GiB"
    assert len(failed_frame(read(tmp_path))) == 1


def test_of_many_schedules_the_closest_are_named_and_the_others_counted(tmp_path: Path):
    made = []
    for number in range(8):
        one = json.loads(json.dumps(record(COMBINER)).replace("block=64", f"block={number + 1}"))
        loss = [x + number / 10 for x in one["evaluation"]["loss"]["per_excerpt"]]
        one["evaluation"]["loss"] = listed(loss)
        one["evaluation"]["loss_above_full"] = mean_interval(
            [a - b for a, b in zip(loss, FULL, strict=True)]
        )
        one["evaluation"]["keys"] = {"wanted": 90.0, "off": 1 / 9, "matched": False}
        made.append(one)
    run = read_run(written(tmp_path, [record("full"), record("sinks[window=100]"), *made]))
    chart, table = sections(run)[0].blocks
    assert "block 4" in chart.conclusion
    assert "block 5" not in chart.conclusion
    assert "of 8 that stand beside window + sinks at equal keys, 1 are better" in chart.conclusion
    off = table.frame["off the wanted keys"]
    assert table.text("off the wanted keys", off[off.notna()].iloc[0]) == "+11.1 %"


def test_the_figure_has_a_line_for_every_schedule():
    from matplotlib.figure import Figure

    every = whole(evaluation_frame(RECORDS)).assign(line=lambda x: x.asked)
    frame = every[every.length.eq(1024)]
    rows = frame.sort_values("perplexity").reset_index(drop=True)
    for width, height in zip((6.75, 3.25), figures.heights(frame), strict=True):
        with house():
            figure = Figure(figsize=(width, height))
            figures.draw(figure, frame)
        panels = [axes.get_title(loc="left") for axes in figure.axes]
        assert panels[0] == "perplexity"
        assert len(panels) == (4 if width > 5 else 2)
        first = figure.axes[0]
        drawn = {
            line.get_gid(): (float(line.get_xdata()[0]), round(float(line.get_ydata()[0])))
            for line in first.lines
            if line.get_gid()
        }
        near = rows[rows.asked.ne("uniform")]
        points = {
            f"series:{row.asked}@auto": (pytest.approx(row.perplexity), y)
            for y, row in near.iterrows()
        }
        window = float(rows[rows.asked.eq("sinks[window=100]")].perplexity.iloc[0])
        rivals = {
            f"rival:{row.asked}@auto": (pytest.approx(window), y)
            for y, row in near.iterrows()
            if row.rival
        }
        assert drawn == points | rivals
        told = [text.get_text() for text in first.texts]
        assert any("▸" in text for text in told)  # the uniform map lies beyond
        assert "full" in told


def test_a_long_name_loses_its_middle():
    assert figures.shortened("0-1:full", 8) == "0-1:full"
    assert figures.shortened("0123456789", 7) == "012…789"


def test_a_run_of_evaluations_alone_has_a_page(tmp_path: Path):
    page = reports.write(written(tmp_path, RECORDS)).read_text(encoding="utf-8")
    assert 'id="model"' in page
    assert "Perplexity and retrieval at 2k" in page
    for name in ("figures/model-1k.svg", "figures/model-layers.svg", "tables/perplexity-2k.md"):
        assert (tmp_path / name).exists()
    said = (tmp_path / "tables" / "perplexity-1k.csv").read_text()
    assert f"{math.exp(2.5)}"[:8] in said


def test_the_first_screen_of_such_a_run_says_who_is_better_at_equal_keys(tmp_path: Path):
    page = reports.write(written(tmp_path, RECORDS)).read_text(encoding="utf-8")
    first = page[page.index('id="verdict"') : page.index('id="model"')]
    assert "1k tokens: full attention has perplexity 12.2" in first
    assert "better: combiner-fixed (13.7)" in first
    assert "level with it: 0-1:full,2-:local[window=64] (15.1); 0 of 2 are worse." in first
    assert "is found best by combiner-fixed: a loss of 0.92 on the second copy" in first
    assert "This run has no" not in page
    assert "14 evaluations" in page


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("combiner-axial-rowmajor[columns=64,sink=4]", True),
        ("strided[stride=80]", True),
        ("axial[columns=202]", False),
        ("sinks[window=64]", False),
    ],
)
def test_columns_that_divide_the_distance_of_the_copies_are_told(asked: str, told: bool):
    assert in_step(asked) == told


def test_a_run_without_evaluations_has_no_such_section(tmp_path: Path):
    small = [("full", "auto", 2.0, 0.020, 0, 0.0008)]
    run = read_run(make(tmp_path, patterns=small, lengths=(1024,), captured=(), maps=0))
    assert sections(run) == []


def test_two_models_are_not_mixed(tmp_path: Path):
    other = [json.loads(json.dumps(one).replace("tiny-model", "other-model")) for one in RECORDS]
    for one in other:
        one["case_key"] += "-other"
    (section,) = sections(read_run(written(tmp_path, [*RECORDS, *other])))
    headings = [one for one in section.blocks if isinstance(one, str)]
    assert [name in text for text, name in zip(headings, ("other", "tiny"), strict=True)] == [
        True, True,
    ]  # fmt: skip
