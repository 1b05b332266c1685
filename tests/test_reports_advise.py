"""What to use under a budget: the choice, its reasons, and from which length on it pays."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_run import make

import run_bench
from attnbench.typed import memory_bytes
from patterns import BadInput
from reports.advice import advise, as_document, as_text, crossing_text
from reports.frame.choice import crossing, recommended, within_budget


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Times to 16k, errors to 4k on four layers of a captured source."""
    return make(tmp_path_factory.mktemp("run"), captured=(2048, 4096), maps=0)


def test_the_fastest_within_the_error_is_chosen(run: Path):
    found = advise(run, length=8192, max_error=0.35)
    assert found.choice is not None
    inside = found.frame[found.frame.error.le(0.35) & found.frame.refused.eq("")]
    assert found.choice["asked"] == inside.sort_values("ms").asked.iloc[0] != "full"
    assert found.choice["speedup_low"] > 1
    steps = found.frame[found.frame.on_frontier.astype(bool)].sort_values("ms")
    assert steps.error.is_monotonic_decreasing
    assert steps.error.max() <= 0.35


def test_the_error_is_that_of_the_longest_length_below_and_says_so(run: Path):
    found = advise(run, length=8192, max_error=0.35)
    assert set(found.frame.error_length.dropna()) == {4096}
    said = as_text(found)
    assert "measured at 4k, not at this length" in said
    assert "No error was measured at 8k" in said
    assert found.source == "captured"
    exact = as_text(advise(run, length=4096, max_error=0.35))
    assert "not at this length" not in exact
    assert "No error was measured" not in exact
    assert set(advise(run, length=2048, max_error=0.35).frame.error_length.dropna()) == {2048}


def test_without_an_allowed_error_only_full_attention_is_left(run: Path):
    found = advise(run, length=8192)
    assert found.choice is not None
    assert found.choice["asked"] == "full"
    assert "--max-error" in as_text(found)


def test_memory_is_part_of_the_budget(run: Path):
    free = advise(run, length=8192, max_error=0.35)
    assert free.choice is not None
    tight = advise(run, length=8192, max_error=0.35, max_bytes=free.choice["peak_bytes"] - 1)
    assert tight.choice is None or tight.choice["peak_bytes"] < free.choice["peak_bytes"]
    none = advise(run, length=8192, max_error=0.35, max_bytes=1)
    assert none.choice is None
    assert "Recommended: nothing" in as_text(none)
    assert as_document(none)["recommended"] is None


def rows(**columns: list) -> pd.DataFrame:
    size = len(next(iter(columns.values())))
    same = {
        "simulated": False, "ranked": True, "quadratic": False, "peak_bytes": 1.0, "error": 0.1,
        "speedup_low": 2.0,
    }  # fmt: skip
    return pd.DataFrame({**{key: [value] * size for key, value in same.items()}, **columns})


def test_dense_is_chosen_where_nothing_is_clearly_faster():
    frame = rows(
        name=["full", "local"], asked=["full", "local"], ms=[1.0, 0.98], error=[1e-3, 0.1],
        speedup_low=[1.0, 0.99],
    )  # fmt: skip
    seen = within_budget(frame, max_error=0.2, max_bytes=None)
    best = recommended(seen, 0.2)
    assert best is not None
    assert best.asked == "full"
    clear = within_budget(frame.assign(speedup_low=[1.0, 1.01]), max_error=0.2, max_bytes=None)
    best = recommended(clear, 0.2)
    assert best is not None
    assert best.asked == "local"


def test_what_is_no_attention_of_its_own_aim_is_never_chosen():
    frame = rows(
        name=["a", "b", "c", "d", "e"], asked=list("abcde"), ms=[1.0, 2, 3, 4, 5],
        ranked=[False, True, True, True, True], simulated=[False, True, False, False, False],
        error=[0.1, 0.1, 1.2, float("nan"), 0.1],
    )  # fmt: skip
    seen = within_budget(frame, max_error=5.0, max_bytes=None)
    assert seen.refused.ne("").tolist() == [True, True, True, True, False]
    assert seen.on_frontier.tolist() == [False, False, False, False, True]


def cost(speedups: list[float], spread: float = 0.05) -> pd.DataFrame:
    """Dense and one pattern at doubling lengths; the pattern has these speed-ups."""
    lengths = [1024 << step for step in range(len(speedups))]
    both = []
    for length, speedup in zip(lengths, speedups, strict=True):
        same = {
            "length": length, "pass": "fwd", "group": str(length), "simulated": False,
            "backend": "auto", "ran": "sdpa", "quadratic": False, "ms_low": 1.0, "ms_high": 1.0,
            "paired_dense": "full@sdpa",
        }  # fmt: skip
        pair = {"paired_speedup_low": 1.0, "paired_speedup_high": 1.0}
        full = {"name": "full", "asked": "full", "label": "full", "ms": 1.0, "paired_speedup": 1.0}
        own = {
            "name": "x", "asked": "x", "label": "x", "ms": 1 / speedup, "paired_speedup": speedup,
            "paired_speedup_low": speedup * (1 - spread),
            "paired_speedup_high": speedup * (1 + spread),
        }  # fmt: skip
        both += [same | full | pair, same | own]
    return pd.DataFrame(both)


@pytest.mark.parametrize(
    ("speedups", "kind", "said"),
    [
        ([0.5, 0.9, 1.6, 3.0], "within", "from about"),
        ([1.2, 1.5, 2.0, 3.0], "below", "at every measured length"),
        ([0.2, 0.3, 0.45, 0.7], "beyond", "beyond the measured range"),
        ([0.5, 0.5, 0.5, 0.5], "never", "never up to 8k"),
        ([0.9, 0.8, 0.7, 0.6], "never", "never up to 8k"),
    ],
)
def test_crossings_of_every_kind(speedups: list[float], kind: str, said: str):
    found = crossing(cost(speedups), "x", "fwd")
    assert found.kind == kind
    assert said in crossing_text(found)


def test_a_crossing_has_an_interval_whose_ends_may_lie_outside():
    found = crossing(cost([0.5, 0.9, 1.6, 3.0]), "x", "fwd")
    assert found.low is not None
    assert found.length is not None
    assert found.high is not None
    assert 2048 < found.low < found.length < found.high < 4096
    assert np.isclose(found.length, 2048 * (4096 / 2048) ** (np.log(1 / 0.9) / np.log(1.6 / 0.9)))
    late = crossing(cost([0.5, 0.7, 0.9, 1.02]), "x", "fwd")
    assert late.high is None
    assert "beyond 8k" in crossing_text(late)
    led = crossing(cost([0.1, 0.2, 0.4, 0.8]), "x", "fwd")
    assert led.length is not None
    assert led.length == pytest.approx(8192 * 1.25)


def test_the_command_speaks_text_and_json(run: Path, capsys: pytest.CaptureFixture[str]):
    typed = ["advise", str(run), "--length", "8k", "--max-error", "0.35", "--max-memory", "4GiB"]
    assert run_bench.main(typed) == 0
    said = capsys.readouterr().out
    assert "Recommended: " in said
    assert "Why: " in said
    assert run_bench.main([*typed, "--json", "--pass", "fwdbwd"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pass"] == "fwdbwd"
    assert document["max_bytes"] == 4 << 30
    assert document["recommended"]["error_length"] == 4096
    assert {"kind", "length", "low", "high"} <= next(iter(document["crossovers"].values())).keys()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--length", "3000"), "no times of fwd at length 3000"),
        (("--length", "1k"), "no bfloat16 errors at or below length 1k"),
        (("--length", "8k", "--source", "nosuch"), "no errors on source 'nosuch'"),
        (("--length", "8k", "--pass", "bwd"), "no times of pass 'bwd'"),
        (("--length", "8k", "--max-memory", "much"), "--max-memory expects a size"),
        (("--length", "8k", "--max-error", "-1"), "--max-error"),
    ],
)
def test_what_cannot_be_advised_is_one_line(
    run: Path, typed: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run_bench.main(["advise", str(run), *typed]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("1.5GB", 1.5e9), ("100", 100), ("4k", 4000)],
)
def test_sizes_of_memory(text: str, count: float):
    assert memory_bytes(text, "--max-memory") == count
    with pytest.raises(BadInput, match="--max-memory"):
        memory_bytes(f"x{text}", "--max-memory")
