"""The verdict weighs error and speed: what is fast and far is shown, never recommended."""

import html
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from report_run import make

from reports.frame.verdict import with_errors, worth_it
from reports.run import Run, read
from reports.sections import verdict_words
from reports.sections.shared import weighed

FULL = ("full", "auto", 2.0, 0.020, 0, 0.0008)
FAST_AND_FAR = ("local[window=32]", "auto", 1.0, 0.012, 32, 0.93)
SLOW_AND_CLOSE = ("sinks[window=512,sink=4]", "auto", 1.0, 0.300, 516, 0.05)
USEFUL = ("sinks[window=64,sink=4]", "auto", 1.0, 0.060, 68, 0.24)
LATER_AND_FARTHER = ("strided", "auto", 1.0, 0.120, 100, 0.28)
ZEROS = ("logsparse", "auto", 1.0, 0.010, 11, 1.3)


def run_of(folder: Path, patterns: list[tuple], **changes) -> Run:
    settings = {
        "lengths": (1024, 2048, 4096, 8192), "captured": (1024, 2048), "layers": (0,),
        "passes": ("fwd",), "maps": 0, "failures": False,
    }  # fmt: skip
    return read(make(folder, patterns=patterns, **settings | changes))


def said(run: Run) -> list[str]:
    items = re.findall(r"<li[^>]*>(.*?)</li>", verdict_words.markup(run, weighed(run)), re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", one)).split()) for one in items]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    patterns = [FULL, FAST_AND_FAR, SLOW_AND_CLOSE, USEFUL, LATER_AND_FARTHER, ZEROS]
    return said(run_of(tmp_path_factory.mktemp("run"), patterns))


def test_the_first_to_be_faster_is_not_advised_where_it_is_far(words: list[str]):
    advice = words[0]
    found = re.match(
        r"Use full attention below about ([\d,]+) tokens: no pattern with an output error of 0.4 "
        r"or less is faster. Beyond, window 64 \+ sinks is: ([\d.]+)\u00d7 at 8k, error 0.29 at "
        r"2k\.$",
        advice,
    )
    assert found is not None, advice
    assert 2500 < int(found[1].replace(",", "")) < 3800  # 0.020 (L/1k)^2 meets 0.060 L/1k at 3k
    assert 2.3 < float(found[2]) < 3  # 1.28 over 0.48 ms, with a floor under both


def test_a_table_says_what_each_error_buys(words: list[str]):
    table = next(one for one in words if one.startswith("What overtakes"))
    assert "window 64 + sinks" in table
    assert "local" in table
    assert "strided" not in table  # overtakes later than another that is closer, and gains less
    assert "logsparse" not in table  # no closer than an output of zeros
    assert table.index("sinks") < table.index("local")  # the closest first
    assert "Errors at 2k tokens" in table


def test_a_closer_one_that_never_leads_is_named(words: list[str]):
    (behind,) = [one for one in words if one.startswith("Closer, but slower")]
    assert "window 512 + sinks" in behind


def test_where_nothing_close_is_faster_full_attention_is_the_advice(tmp_path: Path):
    found = said(run_of(tmp_path, [FULL, FAST_AND_FAR, SLOW_AND_CLOSE]))
    assert found[0] == (
        "Use full attention: from 1k to 8k no pattern with an output error of 0.4 or less is "
        "faster."
    )
    assert "local" in found[1]


def test_one_that_is_ahead_from_the_start_says_so(tmp_path: Path):
    ahead = ("sinks[window=64,sink=4]", "auto", 1.0, 0.001, 68, 0.2)
    found = said(run_of(tmp_path, [FULL, ahead], lengths=(4096, 8192), captured=(4096,)))
    assert "beats full attention already at 4k, the shortest length timed" in found[0]
    assert "\u2264 4k" in found[1]


def test_without_errors_speed_is_called_speed(tmp_path: Path):
    found = said(run_of(tmp_path, [FULL, USEFUL], captured=()))
    assert found[0].startswith("By speed alone, for no errors join these times: window + sinks")
    assert "cannot say how close" in found[-1]


def test_of_those_that_are_ahead_from_the_start_the_fastest_is_named(tmp_path: Path):
    slower = ("axial", "auto", 1.0, 0.002, 68, 0.2)
    faster = ("sinks[window=64,sink=4]", "auto", 1.0, 0.001, 68, 0.2)
    found = said(run_of(tmp_path, [FULL, slower, faster], lengths=(4096, 8192), captured=()))
    assert "these times: window + sinks beats the fastest dense kernel already at 4k" in found[0]


def test_what_waits_for_a_wider_interval_is_called_unclear(tmp_path: Path):
    run = make(
        tmp_path, patterns=[FULL, USEFUL], lengths=(1024, 2048), captured=(2048,), layers=(0,),
        passes=("fwd",), maps=0, failures=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "cost" and line["case"]["asked"].startswith("sinks"):
            line["time"]["ratio_to_dense"] |= {"median": 1.02, "interval": [0.97, 1.07]}
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = said(read(run))
    assert "Too noisy to tell: sinks." in found


def waiting(folder: Path, patterns: list[tuple], waited: set[str], **changes) -> Run:
    """A run whose calls of some patterns all waited for Python."""
    settings = {
        "patterns": patterns, "lengths": (2048, 4096), "captured": (2048,), "layers": (0,),
        "passes": ("fwd",), "maps": 0, "failures": False,
    }  # fmt: skip
    run = make(folder, **settings | changes)
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "cost" and line["case"]["asked"] in waited:
            line["time"]["notes"] = {**line["time"].get("notes", {}), "host": "Python took longer"}
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read(run)


def test_what_waited_for_python_everywhere_is_named_and_not_ranked(tmp_path: Path):
    found = said(waiting(tmp_path, [FULL, USEFUL, SLOW_AND_CLOSE], {SLOW_AND_CLOSE[0]}))
    (waited,) = [one for one in found if one.startswith("Not compared by speed")]
    assert "window 512 + sinks" in waited
    assert "that could be compared is faster. Beyond" in found[0]
    assert not any("at 0" in one or "slower" in one for one in found)


def test_where_all_close_ones_waited_nothing_is_said_of_which_is_faster(tmp_path: Path):
    patterns = [FULL, USEFUL, SLOW_AND_CLOSE, FAST_AND_FAR]
    longer = {"lengths": (1024, 2048, 4096, 8192), "captured": (1024, 2048)}
    found = said(waiting(tmp_path, patterns, {USEFUL[0], SLOW_AND_CLOSE[0]}, **longer))
    assert found[0] == (
        "No pattern with an output error of 0.4 or less could be compared with full attention by "
        "speed, so this run cannot say which to use."
    )
    assert "local" in found[1]
    assert sum(one.startswith("Not compared by speed, for the GPU waited") for one in found) == 1


def test_what_waited_is_named_where_no_errors_are_known(tmp_path: Path):
    run = waiting(tmp_path / "some", [FULL, USEFUL, SLOW_AND_CLOSE], {USEFUL[0]}, captured=())
    waits = "Not compared by speed, for the GPU waited for Python in every call: "
    assert f"{waits}window 64 + sinks." in said(run)
    run = waiting(tmp_path / "all", [FULL, USEFUL], {USEFUL[0]}, captured=())
    assert said(run)[0].startswith("No pattern could be compared with dense attention by speed")


def test_a_time_without_a_dense_one_beside_it_has_not_waited(tmp_path: Path):
    waiting(tmp_path, [FULL, USEFUL, SLOW_AND_CLOSE], set())
    path = tmp_path / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "cost" and line["case"]["asked"] == SLOW_AND_CLOSE[0]:
            line["group"] += "-alone"
            line["time"]["ratio_to_dense"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read(tmp_path)
    (told,) = [one for one in said(run) if one.startswith("Not compared by speed")]
    assert told.endswith(
        "for no usable time of theirs stands beside a dense one: window 512 + sinks."
    )


def test_only_what_no_other_one_beats_is_worth_it():
    rows = pd.DataFrame(
        {
            "asked": list("abcd"), "at": [4000.0, 2000.0, 5000.0, None],
            "longest": [8192] * 4, "speedup_at_longest": [3.0, 2.0, 2.5, 0.9],
        }
    )  # fmt: skip
    joined = pd.DataFrame(
        {
            "asked": list("abcda"), "length": [2048, 2048, 2048, 2048, 1024],
            "error": [0.2, 0.5, 0.3, 0.1, 0.9],
        }
    )  # fmt: skip
    known = with_errors(rows, joined)
    assert known.asked.tolist() == ["d", "a", "c", "b"]
    assert known.set_index("asked").error["a"] == 0.2  # of its longest length
    assert worth_it(known).asked.tolist() == ["a", "b"]
