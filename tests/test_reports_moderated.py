"""Intervals of few repeats that cases share: coverage, verdicts and power, on simulated drift."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_reports_compare import folder, run, verdicts

from attnbench.statistics import student_quantile
from reports import comparison
from reports.frame import change
from reports.frame.moderated import FEWEST, Repeats, centre, differences
from reports.frame.prior import Prior, cautious, digamma, likeliest_prior, robust_prior, trigamma

CASES = 66


def variances(seed: int, cases: int, *, lent: float, own: float = 4.0) -> np.ndarray:
    """Measured variances around a common one of 1; `lent` is how alike the true ones are."""
    generator = np.random.default_rng(seed)
    true = lent / generator.chisquare(lent, cases) if math.isfinite(lent) else np.ones(cases)
    return true * generator.chisquare(own, cases) / own


def two_runs(
    generator: np.random.Generator, *, lent: float, drift: float
) -> tuple[list[Repeats], list[Repeats]]:
    """Three launches and three more of the same: each case drifts by as much as it does."""
    wide = lent / generator.chisquare(lent, CASES) if math.isfinite(lent) else np.ones(CASES)
    a, b = (
        drift * np.sqrt(wide)[:, None] * generator.standard_normal((CASES, 3)) for _ in range(2)
    )
    return tuple([Repeats.around_mean(case) for case in one.tolist()] for one in (a, b))


def test_gamma_derivatives_are_those_of_the_tables():
    x = np.array([0.5, 1.0, 2.0])
    assert digamma(x) == pytest.approx([-1.9635100, -0.5772157, 0.4227843], abs=1e-7)
    assert trigamma(x) == pytest.approx([math.pi**2 / 2, math.pi**2 / 6, math.pi**2 / 6 - 1])


@pytest.mark.parametrize("lent", [2.0, 4.0, 6.0])
def test_the_prior_is_found_again(lent: float):
    found = likeliest_prior(3.0 * variances(1, 4000, lent=lent), np.full(4000, 4.0))
    assert found.variance == pytest.approx(3.0, rel=0.08)
    assert found.freedom == pytest.approx(lent, rel=0.15)


def test_the_prior_is_that_of_a_search_by_hand():
    """Against Fisher's F written out, on a coarse grid: variances of other freedoms included."""
    found = likeliest_prior(v := variances(2, 40, lent=4.0), own := np.resize([4.0, 6.0], 40))

    def likelihood(common: float, lent: float) -> float:
        return sum(
            math.lgamma((d + lent) / 2) - math.lgamma(lent / 2)
            + d / 2 * math.log(s / common / lent)
            - (d + lent) / 2 * math.log(1 + d * s / common / lent)
            for s, d in zip(v, own, strict=True)
        )  # fmt: skip

    grid = [(x, y) for x in np.linspace(0.4, 2.5, 43) for y in np.linspace(0.5, 8.0, 31)]
    assert likelihood(*found) >= max(likelihood(*one) for one in grid) - 1e-3


def test_a_wild_case_widens_nobody_elses_prior():
    quiet, own = variances(3, CASES, lent=6.0), np.full(CASES, 4.0)
    loud = quiet.copy()
    loud[[5, 40]] = 900.0, 2500.0
    prior, wild = robust_prior(loud, own)
    assert np.flatnonzero(wild).tolist() == [5, 40]
    rest = np.delete(quiet, [5, 40])
    assert prior == likeliest_prior(rest, own[2:])


def test_caution_is_larger_where_cases_are_few():
    prior = Prior(1.0, 4.0)
    few, many = (cautious(prior, np.full(cases, 4.0)).variance for cases in (8, 400))
    assert few > 2
    assert 1 < many < 1.2


@pytest.mark.parametrize("lent", [4.0, 8.0, math.inf])
def test_intervals_hold_as_often_as_they_say(lent: float):
    """All 66 together at 90 %, so that a few hundred comparisons show what 99 % would."""
    generator = np.random.default_rng(4)
    missed = 0
    for _ in range(400):
        found = differences(*two_runs(generator, lent=lent, drift=1.0), level=0.9)
        missed += bool((np.abs(found.value) > found.half_width).any())
    assert missed <= 40


@pytest.mark.parametrize(("lent", "drift"), [(5.0, 0.0037), (4.0, 0.0027)])
def test_two_runs_of_the_same_are_the_same_where_cases_drift_unalike(lent: float, drift: float):
    """At least 98 % SAME and at most 0.5 % changed; the first is what was measured on a GPU."""
    generator = np.random.default_rng(5)
    seen: list[str] = []
    for _ in range(100):
        found = differences(*two_runs(generator, lent=lent, drift=drift), level=change.LEVEL)
        seen += [
            change.time_verdict(value, half, 0.0025, math.log1p(0.05))
            for value, half in zip(found.value, found.half_width, strict=True)
        ]
    assert seen.count("SAME") >= 0.98 * len(seen)
    assert seen.count("SLOWER") + seen.count("FASTER") <= 0.005 * len(seen)


def test_one_case_that_is_5_percent_slower_is_found_and_no_other_is():
    seen = verdicts(run(6, drift=0.005), run(7, drift=0.005, slower={131: 1.05}))
    assert seen[131] == "SLOWER"
    assert seen.count("SLOWER") + seen.count("FASTER") == 1


def test_cases_that_drift_a_little_more_are_no_cliff():
    """Twice the drift of the others is at most twice their interval, not five times."""
    a, b = (run(seed, drift=0.004, drifting=4, far=2.2) for seed in (8, 9))
    found = change.changes(a, b, threshold=0.05).query("quantity == 'time'")
    half = np.log(found.high / found.low) / 2
    assert found.shared.all()
    assert max(half[:4]) < 2.5 * np.median(half)


def test_a_wild_case_is_not_the_same_and_keeps_its_own_variance():
    a, b = (run(seed, drifting=1, far=25) for seed in (10, 11))
    found = change.changes(a, b, threshold=0.05).query("quantity == 'time'")
    assert found.verdict.iloc[0] == "UNCLEAR"
    assert found.shared.tolist() == [False] + [True] * 199


def test_few_cases_share_nothing():
    generator = np.random.default_rng(12)
    a, b = two_runs(generator, lent=4.0, drift=1.0)
    few, enough = (differences(a[:n], b[:n], level=0.99) for n in (FEWEST - 1, FEWEST))
    assert not few.shared.any()
    assert enough.shared.all()
    own = math.sqrt((a[0].variance + b[0].variance) / 3)
    quantile = student_quantile(0.005 / (FEWEST - 1), 4.0)
    assert few.half_width[0] == pytest.approx(quantile * own)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_variance_that_is_no_number_leaves_the_others_as_they_are(bad: float):
    generator = np.random.default_rng(13)
    a, b = two_runs(generator, lent=4.0, drift=1.0)
    rest = differences(a[1:], b[1:], level=1 - 0.01 * (CASES - 1) / CASES)  # corrected alike
    a[0] = a[0]._replace(variance=bad)
    found = differences(a, b, level=0.99)
    assert found.shared.tolist() == [False, *rest.shared.tolist()]
    assert found.half_width[1:] == pytest.approx(rest.half_width, rel=1e-6)
    assert not np.isfinite(found.half_width[0])
    few = differences(a[:FEWEST], b[:FEWEST], level=0.99)  # one of them tells nothing
    assert not few.shared.any()
    assert np.isfinite(few.half_width[1:]).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_round_that_is_no_time_makes_only_its_own_case_less_sure(bad: float):
    a, b = run(14), run(15)
    a["time.launches"].iloc[3][1]["rounds_ms"][4] = bad  # not the first: min() would see that
    found = change.changes(a, b, threshold=0.05).query("quantity == 'time'")
    assert np.isfinite(found[["ratio", "low", "high"]].to_numpy(float)).all()
    assert found.verdict.eq("SAME").sum() >= 195
    assert found.over.eq("launches").all()  # two of its three launches are left
    for launch in a["time.launches"].iloc[5]:
        launch["rounds_ms"] = [bad] * 5
    found = change.changes(a, b, threshold=0.05).query("quantity == 'time'")
    assert found.over.iloc[5] == "nothing"
    assert found.verdict.iloc[5] == "UNCLEAR"
    assert found.verdict.eq("SAME").sum() >= 195


@pytest.mark.parametrize(("cases", "equal"), [(3, 1), (7, 2), (12, 7)])
def test_repeats_that_are_equal_to_the_clocks_tick_are_not_exact(cases: int, equal: int):
    generator = np.random.default_rng(16)
    a, b = (one[:cases] for one in two_runs(generator, lent=4.0, drift=1.0))
    for part in (a, b):
        part[:equal] = [one._replace(variance=0.0) for one in part[:equal]]
    found = differences(a, b, level=0.99)
    assert (found.half_width > 0).all()
    assert found.shared.all() == (cases >= FEWEST)


@pytest.mark.parametrize("cases", [4, 200])
def test_where_no_repeats_differ_the_clock_is_all_that_is_unsure(cases: int):
    a, b = run(17)[:cases], run(17, slower={0: 1.2})[:cases]
    for frame in (a, b):
        for launches in frame["time.launches"]:
            for launch in launches:
                launch["rounds_ms"] = launches[0]["rounds_ms"]
    found = change.changes(a, b, threshold=0.05).query("quantity == 'time'")
    half = np.log(found.high / found.low).to_numpy() / 2
    freedom = student_quantile(0.005 / cases, 4.0)
    tick = 5e-4 / a["time.cold_ms.median"].to_numpy()  # half a microsecond
    assert half == pytest.approx(freedom * tick / math.sqrt(12) * math.sqrt(2 / 3), rel=1e-6)
    assert not found.shared.any()


@pytest.mark.parametrize("interval", [None, [0.0, 1.0], [math.nan, 1.0]])
def test_the_text_counts_times_without_an_interval(interval: list[float] | None, tmp_path: Path):
    a, b = (folder(tmp_path / name, (1024,)) for name in "ab")
    lines = [json.loads(line) for line in (b / "records.jsonl").read_text().splitlines()]
    lines[0]["time"]["launches"] = [{"rounds_ms": [math.nan]}] * 3
    lines[0]["time"]["cold_ms"]["interval"] = interval
    (b / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = comparison.compare(a, b)
    count = int(found.changes.quantity.eq("time").sum())
    said = comparison.as_text(found)
    assert f"1 of the {count} times have no two finite repeats in both runs" in said


def test_the_text_says_whose_variances_the_intervals_have(tmp_path: Path):
    a, b = (folder(tmp_path / name, (1024, 2048, 4096)) for name in "ab")
    found = comparison.compare(a, b)
    cases = int(found.changes.quantity.eq("time").sum())
    assert cases >= FEWEST
    assert f"variances between launches are shared by {cases} cases\n" in comparison.as_text(found)

    records = [json.loads(line) for line in (b / "records.jsonl").read_text().splitlines()]
    timed = [record for record in records if record["time"]]
    for number, launch in enumerate(timed[0]["time"]["launches"]):
        launch["rounds_ms"] = [ms * 2**number for ms in launch["rounds_ms"]]
    (b / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in timed))
    said = comparison.as_text(comparison.compare(a, b))
    assert f"shared by {cases - 1} cases; 1 far beyond the others' keeps its own" in said

    few = "".join(json.dumps(one) + "\n" for one in timed[: FEWEST - 1])
    (b / "records.jsonl").write_text(few)
    said = comparison.as_text(comparison.compare(a, b))
    assert f"each case's own (fewer than {FEWEST} cases share none)" in said


def test_the_centre_of_rounds_lies_between_two_levels_and_not_with_one_disturbed_round():
    assert centre([1.0, 1.0, 1.0, 3.0, 3.0]) == 2.0
    assert centre([1.0, 1.0, 1.0, 1.0, 90.0]) == 1.0
    assert centre([4.0]) == 4.0
