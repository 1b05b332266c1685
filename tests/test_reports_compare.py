"""Two runs beside each other, on simulated times: what is found, and what is no change."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import report_run

import run_bench
from attnbench.records import read_document, write_document
from patterns import BadInput
from reports import comparison
from reports.frame import change
from reports.frame.moderated import Repeats, differences, student_quantile

MS = np.exp(np.linspace(math.log(0.02), math.log(200.0), 200))
"""The times of the simulated cases: what a run on a GPU holds."""


def run(
    seed: int,
    *,
    launches: int = 3,
    drift: float = 0.004,
    noise: float = 0.002,
    drifting: int = 0,
    far: float = 4,
    slower: Mapping[int, float] = MappingProxyType({}),
    same_twice: float | None = 1.001,
) -> pd.DataFrame:
    """Records of simulated cases: launches drift, rounds are noisy; the first cases drift more."""
    generator = np.random.default_rng(seed)
    rows = []
    for index, ms in enumerate(MS * 1.0):
        own = drift * (far if index < drifting else 1)
        rounds = [
            (
                ms * slower.get(index, 1.0)
                * math.exp(own * generator.standard_normal())
                * np.exp(noise * generator.standard_t(3, size=5))
            ).tolist()
            for _ in range(launches)
        ]  # fmt: skip
        rows.append(
            {
                "case_key": f"{index:016x}", "kind": "cost", "status": "ok", "reason": None,
                "case.asked": "local", "case.backend": "auto", "case.pass": "fwd",
                "case.length": 1024, "case.dtype": "bfloat16", "case.source": "gaussian",
                "time.cold_ms.median": float(np.median([np.median(one) for one in rounds])),
                "time.rounds": 5 * launches, "time.cold_ms.samples": None,
                "time.launches": [{"rounds_ms": one} for one in rounds],
                "time.same_twice.median": same_twice, "memory.peak_bytes": 1 << 20,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(a: pd.DataFrame, b: pd.DataFrame, threshold: float = 0.05) -> list[str]:
    found = change.changes(a, b, threshold=threshold)
    return found[found.quantity.eq("time")].verdict.tolist()


@pytest.mark.parametrize(
    ("tail", "freedom", "expected"),
    [
        (0.025, 1, 12.7062), (0.025, 2, 4.30265), (0.005, 4, 4.60409), (0.0005, 10, 4.58689),
        (0.00005, 20, 4.83739), (0.025, 1e6, 1.95996),
    ],
)  # fmt: skip
def test_quantiles_of_student_are_those_of_the_tables(tail: float, freedom: float, expected: float):
    assert student_quantile(tail, freedom) == pytest.approx(expected, rel=2e-4)


def test_all_intervals_hold_together_as_often_as_they_say():
    """Two runs of the same: an interval without zero in one comparison of twenty, at 95 %."""
    generator = np.random.default_rng(5)
    alarms = 0
    for _ in range(200):
        a, b = (
            [Repeats.around_median(row) for row in generator.normal(size=(60, 3)).tolist()]
            for _ in range(2)
        )
        found = differences(a, b, level=0.95)
        alarms += bool((np.abs(found.value) > found.half_width).any())
    assert alarms <= 20  # 10 are expected; more than 20 would be seen once in a thousand times
    assert np.median(found.half_width) < 5  # and they say something: alone, each would have 8


def test_one_case_alone_has_the_interval_of_its_own_few_repeats():
    a, b = Repeats(0.0, 1.0, 3), Repeats(10.0, 1.0, 3)
    found = differences([a], [b], level=0.95)
    assert found.value[0] == 10.0
    assert found.half_width[0] == pytest.approx(2.77645 * math.sqrt(2 / 3), rel=1e-4)


def test_two_runs_of_the_same_are_the_same():
    """At least 98 % SAME and at most 0.5 % called changed, over ten pairs of runs of 200 cases."""
    found = [
        verdict for seed in range(10) for verdict in verdicts(run(2 * seed), run(2 * seed + 1))
    ]
    assert found.count("SAME") >= 0.98 * len(found)
    assert found.count("SLOWER") + found.count("FASTER") == 0


def test_a_few_cases_that_drift_more_than_the_others_are_seldom_called_changed():
    found = [
        verdict
        for seed in range(10)
        for verdict in verdicts(run(2 * seed, drifting=10), run(2 * seed + 1, drifting=10))[:10]
    ]
    assert found.count("SLOWER") + found.count("FASTER") <= 1  # of a hundred
    assert found.count("UNCLEAR") > 50


def test_two_cases_that_drift_by_10_percent_make_no_others_unclear():
    found = [
        verdicts(run(2 * seed, drifting=2, far=25), run(2 * seed + 1, drifting=2, far=25))
        for seed in range(10)
    ]
    others = [verdict for one in found for verdict in one[2:]]
    assert others.count("SAME") >= 0.98 * len(others)
    everything = [verdict for one in found for verdict in one]
    assert everything.count("SLOWER") + everything.count("FASTER") == 0


def test_drift_between_launches_is_no_change():
    """Within a launch all is still, and launches differ by 1 %: rounds alone would cry wolf."""
    a, b = (run(seed, drift=0.01, noise=1e-4) for seed in (1, 2))
    found = verdicts(a, b)
    assert found.count("SLOWER") + found.count("FASTER") == 0
    one_launch = [
        frame.assign(**{"time.launches": frame["time.launches"].map(lambda x: x[:1])})
        for frame in (a, b)
    ]
    assert verdicts(*one_launch).count("SLOWER") > 0


def test_a_planted_slowdown_of_5_percent_is_found():
    planted = [60, 90, 131, 152, 187]  # above 0.3 ms, where 5 % are more than a microsecond
    slower = dict.fromkeys(planted, 1.05) | dict.fromkeys([75, 111], 1 / 1.05)
    still = {"drift": 0.003}
    found = change.changes(run(3, **still), run(4, **still, slower=slower), threshold=0.03)
    found = found[found.quantity.eq("time")].reset_index(drop=True)
    assert found.index[found.verdict.eq("SLOWER")].tolist() == planted
    assert found.index[found.verdict.eq("FASTER")].tolist() == [75, 111]
    assert set(change.regressions(found, 0.03).index) == set(planted)
    assert len(change.regressions(found, 0.2)) == 0
    seen = found.loc[planted]
    assert (seen.low.lt(1.05) & seen.high.gt(1.05)).all()


def test_nothing_below_the_floor_or_a_microsecond_is_a_change():
    still = {"drift": 1e-5, "noise": 1e-5}
    by = dict.fromkeys(range(len(MS)), 1.03)
    seen = verdicts(run(1, **still), run(2, **still, slower=by))
    assert [word for word, ms in zip(seen, MS, strict=True) if ms < 0.03] == ["SAME"] * sum(
        MS < 0.03
    )  # 3 % of 0.03 ms are less than a microsecond
    assert {word for word, ms in zip(seen, MS, strict=True) if ms > 0.05} == {"SLOWER"}
    noisy = run(2, **still, slower=by, same_twice=1.04)
    assert set(verdicts(run(1, **still), noisy)) == {"SAME"}
    assert change.aa_floor(noisy) == pytest.approx(math.log(1.04))
    assert change.aa_floor(noisy.drop(columns="time.same_twice.median")) is None


def test_what_leaves_room_for_a_regression_is_unclear():
    a, b = (run(seed, drift=0.05) for seed in (1, 2))
    assert verdicts(a, b).count("UNCLEAR") > 150
    assert verdicts(a, b, threshold=2.0).count("SAME") > 190


def test_old_records_are_compared_over_their_rounds_and_thinned_ones_over_their_interval():
    whole = run(1, launches=1).drop(columns="time.launches")
    for frame, samples in ((whole, True), (whole.copy(), False)):
        rounds = [one[0]["rounds_ms"] for one in run(1, launches=1)["time.launches"]]
        frame["time.cold_ms.samples"] = [
            [y for x in one for y in (x, x)] if samples else None for one in rounds
        ]
        frame["time.cold_ms.interval"] = [
            [m * 0.99, m * 1.01] for m in whole["time.cold_ms.median"]
        ]
        found = change.changes(frame, run(2, launches=1), threshold=0.05)
        found = found[found.quantity.eq("time")]
        assert set(found.over) == {"rounds"}
        assert found.verdict.eq("SAME").mean() > 0.5
    row = whole.assign(**{"time.cold_ms.samples": [[1.0, 1.0, 3.0, 3.0]] * 200, "time.rounds": 2})
    assert change.rounds_of(row.to_dict("records")[0]) == [[1.0, 3.0]]


def test_a_time_without_any_spread_is_unclear():
    bare = run(1, launches=1).drop(columns="time.launches")
    found = change.changes(bare, bare, threshold=0.05)
    assert set(found[found.quantity.eq("time")].verdict) == {"UNCLEAR"}


def fidelity(error: float, *, interval: list[float] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "case_key": "a" * 16, "kind": "fidelity", "status": "ok", "reason": None,
                "case.asked": "local", "case.backend": "auto", "case.length": 1024,
                "case.dtype": "bfloat16", "case.source": "needle", "case.layer": None,
                "fidelity.output_error.mean": error, "fidelity.dtype_error": 0.002,
                "fidelity.rows.interval": interval,
            }
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "interval", "verdict"),
    [
        (0.3, None, "SAME"), (0.3015, None, "SAME"), (0.31, None, "MORE"), (0.28, None, "LESS"),
        (0.31, [0.30, 0.32], "UNCLEAR"), (0.36, [0.35, 0.37], "MORE"),
    ],
)  # fmt: skip
def test_errors_change_beyond_rounding_and_sampling(
    now: float, interval: list[float] | None, verdict: str
):
    found = change.changes(fidelity(0.3), fidelity(now, interval=interval), threshold=0.05)
    assert found.verdict.tolist() == [verdict]
    assert found.quantity.tolist() == ["error"]


def test_memory_changes_beyond_what_allocators_round():
    a = run(1)
    b = a.assign(**{"memory.peak_bytes": [(1 << 20) + 512, 1 << 21, 1 << 19] + [1 << 20] * 197})
    found = change.changes(a, b, threshold=0.05)
    memory = found[found.quantity.eq("memory")].verdict.tolist()
    assert memory == ["SAME", "MORE", "LESS"] + ["SAME"] * 197
    assert change.regressions(found, 0.05).case_key.tolist() == [f"{1:016x}"]


def test_what_worked_and_fails_is_a_regression_and_what_was_skipped_is_not():
    a = run(1)
    b = a.assign(status=["crashed", "skipped"] + ["ok"] * 198, reason="it was so")
    found = change.changes(a, b, threshold=0.05)
    assert change.regressions(found, 10.0).case_key.tolist() == [f"{0:016x}"]
    assert len(change.changes(b, a, threshold=0.05).query("verdict == 'FAILS'")) == 0


def folder(path: Path, lengths: tuple[int, ...], factor: float = 1.0, machine: str = "m1") -> Path:
    """A made-up run folder whose times hold three launches, each slower by this factor."""
    report_run.make(path, lengths=lengths, captured=(), failures=False, maps=0)
    lines = [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]
    generator = np.random.default_rng(len(lines))
    for line in lines:
        ms = line["time"]["cold_ms"]["median"] * factor
        line["time"]["cold_ms"]["median"] = ms
        line["time"]["launches"] = [
            {"rounds_ms": (ms * np.exp(0.002 * generator.standard_normal(5))).tolist()}
            for _ in range(3)
        ]
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = read_document(path, "run.json") or {}
    write_document(path, "run.json", document | {"machine": machine, "version": "abc"})
    return path


def test_the_command_is_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a = folder(tmp_path / "a", (1024, 2048))
    same = folder(tmp_path / "same", (1024, 2048))
    slow = folder(tmp_path / "slow", (2048, 4096), 1.2, "other")
    out, page = tmp_path / "x.json", tmp_path / "x.md"
    assert run_bench.main(["compare", str(a), str(same)]) == 0
    said = capsys.readouterr().out
    assert "no regression beyond 5 %" in said
    assert "DIFFERENT MACHINES" not in said
    typed = ["compare", str(a), str(slow), "--json", str(out), "--markdown", str(page)]
    assert run_bench.main(typed) == 1
    said = capsys.readouterr().out
    assert "DIFFERENT MACHINES" in said
    assert "Only in" in said
    assert run_bench.main([*typed, "--threshold", "30"]) == 0
    document = json.loads(out.read_text())
    assert document["exit_code"] == 0
    assert {"case_key", "ratio", "low", "high", "verdict"} <= document["cases"][0].keys()
    assert len(document["only_b"]) == len(document["only_a"]) > 0
    assert "| SLOWER" in page.read_text()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("no-such-run", "no-such-run"), "no-such-run"),
        (("{a}", "{b}"), "no case in common"),
        (("{a}", "{a}", "--threshold", "0"), "--threshold"),
        (("{a}", "{a}", "--json", "/no/such/folder/x"), "/no/such/folder/x"),
        pytest.param(
            ("{a}", "{a}", "--json", "/dev/full"),
            "cannot write: No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here"),
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    typed: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a, b = folder(tmp_path / "a", (1024,)), folder(tmp_path / "b", (2048,))
    assert run_bench.main(["compare", *(one.format(a=a, b=b) for one in typed)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_empty_runs_are_refused(tmp_path: Path):
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(BadInput, match="no records"):
        comparison.compare(tmp_path, tmp_path)
