"""Every number of the report, against numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_run import make

from attnbench import BadInput
from reports.frame import masks, names, parents, scaling, spread, tidy, tradeoff, verdict
from reports.frame.layers import on_common_layers
from reports.frame.maps import Map, mass_by_distance, mean_variation, pooled, row_profile
from reports.run import read
from reports.sections import about


def cost_rows(*rows: dict[str, Any]) -> pd.DataFrame:
    """Cost cases with what every one has filled in."""
    common = {
        "backend": "auto", "ran": "sdpa", "simulated": False, "quadratic": False, "ranked": True,
        "pass": "fwd", "status": "ok", "causal": True, "batch": 1, "heads": 2, "kv_heads": 2,
        "dim": 8, "dtype": "float32", "device": "cpu", "machine": "m", "source": "gaussian",
        "paired_speedup": math.nan, "paired_speedup_low": math.nan, "paired_speedup_high": math.nan,
        "paired_dense": "", "keys_per_query": 1.0, "reason": "",
    }  # fmt: skip
    full = [common | row for row in rows]
    for row in full:
        row.setdefault("name", names.name_of(row["asked"]))
        row.setdefault("label", row["asked"])
        row.setdefault("line", row["label"])
        row.setdefault("group", f"{row['pass']}-{row['length']}")
        row.setdefault("aim", "subset")
        row.setdefault("ms_low", row["ms"])
        row.setdefault("ms_high", row["ms"])
    return pd.DataFrame(full)


def points(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    """Rows (asked, ms, error, keys a query) of one group of a trade-off."""
    frame = cost_rows(*({"asked": a, "ms": ms, "length": 64} for a, ms, _, _ in rows))
    frame["error"], frame["keys_per_query"] = [r[2] for r in rows], [r[3] for r in rows]
    frame["sinks_error"] = math.nan
    return frame


def test_the_exponent_of_a_power_law_is_found():
    lengths = np.array([1024, 2048, 4096, 8192])
    found = scaling.fit_exponent(lengths, 3.0 * lengths**1.5)
    assert found is not None
    assert found.value == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)
    assert (found.shortest, found.longest, found.points) == (1024, 8192, 4)


def test_the_interval_of_the_exponent_is_students():
    # Logs base 2: x = 0, 1, 2 and y = 0, 1, 1: slope 1/2, residuals -1/6, 1/3, -1/6, one degree of
    # freedom: standard error sqrt(1/6 / 1 / 2) and t = 12.706.
    found = scaling.fit_exponent(np.array([1, 2, 4]), np.array([1.0, 2.0, 2.0]))
    assert found is not None
    half = 12.706 * math.sqrt(1 / 6 / 2)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(half)


def test_two_points_have_no_exponent():
    assert scaling.fit_exponent(np.array([1, 2]), np.array([1.0, 2.0])) is None


def test_the_flat_start_is_left_out():
    lengths, ms = np.array([1, 2, 4, 8]), np.array([1.0, 1.1, 2.0, 4.0])
    assert scaling.above_floor(lengths, ms).tolist() == [False, True, True, True]


def test_a_line_that_is_flat_to_its_end_has_no_exponent_and_a_reason():
    frame = cost_rows(*({"asked": "local", "ms": 1.0, "length": n} for n in (1, 2, 4)))
    row = scaling.exponents(frame).iloc[0]
    assert math.isnan(row.exponent)
    assert row.why == "1 of 3 lengths above the floor: three are needed"


def test_the_speed_up_is_over_the_fastest_dense_row_of_the_group():
    frame = scaling.with_speedup(
        cost_rows(
            {
                "asked": "full",
                "backend": "sdpa:flash",
                "ran": "sdpa:flash",
                "ms": 8.0,
                "length": 64,
            },
            {"asked": "full", "ms": 6.0, "ms_low": 5.0, "ms_high": 7.0, "length": 64},
            {"asked": "full", "backend": "eager", "ran": "eager", "ms": 1.0, "length": 64},
            {"asked": "local", "ms": 2.0, "ms_low": 1.0, "ms_high": 4.0, "length": 64},
            {"asked": "local", "ms": 2.0, "length": 128},
        )
    ).set_index(["asked", "length"])
    local = frame.loc[("local", 64)]
    assert local.speedup == 3.0
    assert (local.speedup_low, local.speedup_high) == (5 / 4, 7.0)
    assert local.dense == "full sdpa"
    assert math.isnan(frame.loc[("local", 128)].speedup)


def test_the_paired_ratio_of_the_record_is_preferred():
    frame = cost_rows(
        {"asked": "full", "ms": 6.0, "length": 64},
        {
            "asked": "local",
            "ms": 2.0,
            "length": 64,
            "paired_speedup": 2.5,
            "paired_dense": "full@a",
        },
    )
    local = scaling.with_speedup(frame).iloc[1]
    assert (local.speedup, local.dense) == (2.5, "full@a")


@pytest.mark.parametrize(
    ("speedups", "said", "length"),
    [
        ([0.5, 2.0, 4.0], "1,448", 1024 * math.sqrt(2)),
        ([0.5, 0.7, 0.9], "never", None),
        ([1.5, 2.0, 3.0], "below the measured range", None),
        ([2.0, 1.5, 0.5], "never", None),
        ([0.25, 0.5, 2.0], "2,896", 2048 * math.sqrt(2)),
        ([2.0, 0.5, 2.0], "2,896", 2048 * math.sqrt(2)),
        ([math.nan, 0.5, 2.0], "2,896", 2048 * math.sqrt(2)),
        ([math.nan] * 3, "not measured", None),
    ],
)
def test_the_crossover_is_the_last_time_that_dense_is_passed(speedups, said, length):
    found = scaling.crossover(np.array([1024, 2048, 4096]), np.array(speedups))
    assert found.said == said
    assert found.length == (None if length is None else pytest.approx(length))


def test_the_interval_of_a_crossover_comes_from_the_bounds():
    lengths = np.array([1024, 2048, 4096])
    speedups = np.array([0.5, 1.0, 2.0]) * 2**0.5
    found = scaling.crossover(lengths, speedups, speedups / 2**0.5, speedups * 2**0.25)
    assert found.length == pytest.approx(1024 * 2**0.5)
    assert found.high == pytest.approx(2048)
    assert found.low == pytest.approx(1024 * 2**0.25)


def test_the_frontier_keeps_what_nothing_beats():
    frame = points(
        ("local", 1, 0.8, 4),
        ("sinks", 2, 0.3, 8),
        ("strided", 3, 0.5, 8),
        ("axial", 4, 0.4, 8),
        ("full", 9, 0.0, 99),
    )
    assert frame.asked[tradeoff.on_frontier(frame)].tolist() == ["local", "sinks", "full"]


@pytest.mark.parametrize(
    "change",
    [
        {"simulated": True},
        {"quadratic": True},
        {"ranked": False},
        {"name": "uniform"},
        {"error": 1.0},
    ],
)
def test_some_rows_stand_on_no_frontier(change):
    frame = points(("fast", 1, 0.1, 4), ("slow", 2, 0.2, 8))
    for key, value in change.items():
        frame.loc[0, key] = value
    assert frame.asked[tradeoff.on_frontier(frame)].tolist() == ["slow"]


def test_a_quadratic_pattern_is_on_the_frontier_where_it_is_full_attention_itself():
    frame = points(("full", 2, 0.0, 64))
    frame["quadratic"] = True
    assert tradeoff.on_frontier(frame).all()


def test_window_and_sinks_is_read_at_equal_keys_and_at_equal_time():
    curve = points(
        ("sinks[window=4]", 1, 0.8, 4),
        ("sinks[window=16]", 4, 0.4, 16),
        ("sinks[window=9]", 9, 0.5, 9),
    )
    # Between 4 and 9 keys, halfway on the logarithm; the window of 9 is slow and no closer.
    assert tradeoff.at_equal_keys(tradeoff.sinks_curve(curve), 6) == pytest.approx(0.65)
    assert tradeoff.at_equal_ms(curve, 2) == pytest.approx(0.6)
    assert math.isnan(tradeoff.at_equal_ms(curve, 20))
    assert math.isnan(tradeoff.at_equal_keys(tradeoff.sinks_curve(curve), 3))


def test_the_block_of_most_patterns_is_the_headlines():
    frame = points(
        ("fixed[block=64]", 1, 0, 1), ("strided[block=64]", 1, 0, 1), ("fixed[block=32]", 1, 0, 1),
        ("local", 1, 0, 1),
    )  # fmt: skip
    assert tradeoff.fixed_block(frame) == "64"
    kept = tradeoff.at_fixed_block(frame, "64")
    assert kept.asked.tolist() == ["fixed[block=64]", "strided[block=64]", "local"]


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [([1024, 4096, 8192, 16384], [4096, 8192]), ([256, 512, 1024], [512, 1024]), ([256], [256])],
)
def test_the_headline_is_at_4k_and_8k_or_at_the_longest(lengths, shown):
    assert tradeoff.headline_lengths(pd.DataFrame({"length": lengths})) == shown


def test_the_verdict_counts_what_beats_the_sinks():
    frame = points(("a", 1, 0.3, 4), ("b", 1, 0.5, 4), ("c", 1, 0.5, 4), ("sinks", 1, 0.4, 4))
    frame["sinks_at_ms"] = [0.4, 0.4, math.nan, math.nan]
    frame["sinks_at_keys"] = [0.4, 0.6, 0.6, math.nan]
    found = verdict.rivals(frame)
    assert (found.equal_ms, found.of_ms, found.equal_keys, found.of_keys) == (1, 2, 3, 3)


def test_the_fastest_within_an_error_may_be_full_attention():
    frame = points(("local", 1, 0.3, 4), ("full", 5, 0.0, 64)).assign(speedup=1, worst_layer=0)
    found = verdict.choices(frame, (0.1, 0.4))
    assert found.asked.tolist() == ["full", "local"]
    assert found.dense.tolist() == [True, False]


@pytest.mark.parametrize(
    ("asked", "short"),
    [
        (["fixed[block=64]", "local"], ["fixed", "local"]),
        (["fixed[block=64]", "fixed[block=32]"], ["fixed block 64", "fixed block 32"]),
        (
            ["c[block=64]", "c[block=64,near=1,summary=mean]"],
            ["c", "c mean"],
        ),
        (
            ["c[near=1,summary=max]", "c[near=1,summary=mean]", "c[near=2,summary=max]"],
            ["c max near 1", "c mean near 1", "c max near 2"],
        ),
    ],
)
def test_labels_say_only_what_tells_patterns_apart(asked, short):
    assert [names.labels(asked)[one] for one in asked] == short


def test_a_line_never_mixes_devices_dtypes_or_shapes():
    frame = cost_rows(
        {"asked": "local", "ms": 1.0, "length": 64},
        {"asked": "local", "ms": 1.0, "length": 128, "dtype": "bfloat16", "dim": 16},
    )
    with pytest.raises(ValueError, match="cannot mix dim, dtype"):
        tidy.one_setting(frame)
    assert [len(part) for part in tidy.settings(frame)] == [1, 1]


def test_times_and_errors_join_by_pattern_causality_dtype_and_length(tmp_path: Path):
    run = read(make(tmp_path, lengths=(1024, 2048), captured=(2048,), passes=("fwd",), maps=0))
    rows = tradeoff.tradeoff(scaling.with_speedup(run.cost), run.fidelity)
    assert set(rows.length) == {2048}
    assert set(rows.fidelity_source) == {"captured", "structured"}
    assert not rows.duplicated(["asked", "length", "fidelity_source"]).any()
    dense = rows[rows.name.eq("full")].iloc[0]
    assert dense.backend == "sdpa:cudnn"  # the fastest of several backends
    other = run.fidelity.assign(dtype="float16")
    assert len(tradeoff.tradeoff(run.cost, other)) == 0


def test_errors_are_means_over_layers_with_the_best_and_the_worst(tmp_path: Path):
    run = read(make(tmp_path, lengths=(), captured=(2048,), layers=(0, 7), maps=0))
    here = run.fidelity[run.fidelity.asked.eq("local[window=128]")]
    here = here[here.source.eq("captured")]
    row = tradeoff.over_layers(here).iloc[0]
    assert row.error == pytest.approx(here.error.mean())
    assert (row.best_layer, row.worst_layer) == (here.error.min(), here.error.max())
    assert here.layer.tolist() == ["0", "7"]


def test_a_combiner_stands_beside_the_parent_with_nearest_keys():
    errors = points(
        ("combiner-fixed", 1, 0.3, 64),
        ("fixed[block=8]", 1, 0.9, 8),
        ("fixed[block=32]", 1, 0.6, 60),
    ).assign(source="captured")
    row = parents.parents(errors).iloc[0]
    assert (row.parent, row.parent_error) == ("fixed[block=32]", 0.6)
    assert row.keys_ratio == pytest.approx(60 / 64)


def test_fidelity_is_judged_on_captured_inputs_at_their_longest(tmp_path: Path):
    run = read(make(tmp_path, lengths=(), captured=(1024, 2048), maps=0))
    here = spread.at_one_place(run.fidelity)
    assert set(here.source) == {"captured"}
    assert set(here.length) == {2048}
    worst = spread.worst_heads(here, 3)
    assert worst.error.is_monotonic_decreasing
    assert worst.error.iloc[0] == max(
        max(row.error_per_head) for row in here.itertuples() if row.ranked
    )


def map_of(full: Any, ours: Any, visible: Any) -> Map:
    """A one-head map from three square lists."""
    one = {"full": np.array([full], float), "effective": np.array([ours], float)}
    one |= {"difference": one["effective"] - one["full"]}
    one |= {"absolute": np.abs(one["difference"])}
    meta = {"length": 8, "bin_size": 2, "heads": [0], "case": {"asked": "local"}}
    return Map(meta=meta, visible=np.array(visible, float), **one)


VISIBLE = [[3, 0, 0, 0], [4, 3, 0, 0], [4, 4, 3, 0], [4, 4, 4, 3]]


def test_pooling_weighs_means_by_the_pairs_that_are_visible():
    full = np.arange(16.0).reshape(4, 4)
    found = pooled(map_of(full, full, VISIBLE), 2)
    assert found.visible.tolist() == [[10, 0], [16, 10]]
    assert found.full[0, 0, 0] == pytest.approx((0 * 3 + 4 * 4 + 5 * 3) / 10)
    assert (found.bins, found.bin_size, found.length) == (2, 4, 8)


def test_absolute_differences_give_the_variation_that_signed_ones_hide():
    plain = map_of(np.zeros((4, 4)), np.zeros((4, 4)), VISIBLE)
    plain.absolute[0] = 0.25
    total = 0.25 * np.sum(VISIBLE)
    assert mean_variation(plain, 0) == pytest.approx(total / 2 / 8)


def test_mass_by_distance_counts_every_pair_once():
    ones = np.tril(np.ones((4, 4)))
    edges, full, _ = mass_by_distance(map_of(ones, ones, VISIBLE), 0)
    assert edges == [0, 2, 4, 8]
    assert full == pytest.approx([12 / 36, 12 / 36, 12 / 36])


def test_a_row_profile_has_visible_keys_only():
    keys, full, _ = row_profile(map_of(np.eye(4), np.eye(4), VISIBLE), 0, 1)
    assert keys.tolist() == [1, 3]
    assert full.tolist() == [0, 1]


def test_a_tile_counts_its_density_and_numbers_its_regions():
    found = masks.tile("combiner-fixed")
    assert found.density == 1.0
    assert found.cells[15, 0] == 0
    assert found.cells[15, 15] == masks.DIRECT
    assert found.cells[0, 15] == masks.INVISIBLE
    local = masks.tile("local")
    seen = sum(min(row + 1, 4) for row in range(16))
    assert local.density == pytest.approx(seen / 136)
    assert local.keys_per_query == pytest.approx(seen / 16)


def test_windows_for_comparison_are_no_lines(tmp_path: Path):
    folder = make(tmp_path, lengths=(1024,), captured=(), passes=("fwd",), maps=0)
    lines = (folder / "records.jsonl").read_text().splitlines()
    changed = [
        line.replace('"schema": 1', '"role": "comparison", "schema": 1')
        if '"local[window=128]"' in line or '"sdpa:flash"' in line
        else line
        for line in lines
    ]
    (folder / "records.jsonl").write_text("\n".join(changed) + "\n")
    run = read(folder)
    assert "local" not in set(run.cost.name)
    assert "sdpa:flash" in set(run.cost.backend)
    assert set(run.windows.asked) == {"local[window=128]"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("records.jsonl", "not json\n"), ("run.json", "{"), ("machine.json", "[]"), (None, None)],
)
def test_a_folder_that_cannot_be_read_is_bad_input(tmp_path: Path, name, content):
    if name is not None:
        make(tmp_path, lengths=(1024,), captured=(), maps=0)
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def layered(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Fidelity rows (asked, layer, error) of one place."""
    frame = points(*((asked, 1, error, 4) for asked, _, error in rows))
    frame["layer"], frame["source"] = [layer for _, layer, _ in rows], "captured"
    return frame


def test_means_are_over_the_layers_that_patterns_share():
    found = on_common_layers(
        layered(("a", "0", 0.1), ("a", "5", 0.2), ("b", "5", 0.3), ("c", "5", 0.4), ("c", "9", 9.0))
    )
    assert list(zip(found.asked, found.layer, strict=True)) == [("a", "5"), ("b", "5"), ("c", "5")]


def test_a_pattern_that_lacks_a_shared_layer_has_no_mean():
    rows = [(one, layer, 0.5) for one in "abc" for layer in "05"]
    found = on_common_layers(layered(*rows[:-1]))
    assert set(found.asked) == {"a", "b"}
    assert set(found.layer) == {"0", "5"}


def test_a_speed_up_whose_interval_holds_one_is_unclear():
    def rows(asked: str, speedup: float, low: float, high: float) -> list[dict[str, Any]]:
        return [
            {"asked": asked, "ms": 1.0, "length": n, "speedup": s, "speedup_low": s * low,
             "speedup_high": s * high}
            for n, s in ((64, speedup / 4), (128, speedup))
        ]  # fmt: skip

    frame = cost_rows(
        *rows("clear", 2, 0.9, 1.1), *rows("open", 1.2, 0.5, 2), *rows("slow", 0.5, 1, 1)
    )
    found = verdict.overtakes(frame, "fwd", pd.DataFrame()).set_index("asked")
    assert found.loc["clear", "at"] == pytest.approx(64 * math.sqrt(2))
    assert found["at"].isna().tolist() == [False, True, True]
    assert found.unclear.to_dict() == {"clear": False, "open": True, "slow": False}
    near = points(("clear", 1, 1.2, 4), ("open", 1, 0.3, 4))
    assert "clear" not in set(verdict.overtakes(frame, "fwd", near).asked)


def test_noise_is_half_the_interval_of_the_median_case():
    frame = cost_rows({"asked": "a", "ms": 2.0, "ms_low": 1.0, "ms_high": 2.0, "length": 64})
    assert verdict.noise(frame) == 0.25


def test_what_a_guard_marked_is_marked_wherever_its_line_is_named(tmp_path: Path):
    folder = make(tmp_path / "run", lengths=(1024, 2048), captured=(2048,), passes=("fwd",))
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (one,) = (
        x
        for x in records
        if x["kind"] == "cost" and x["case"]["asked"] == "strided" and x["case"]["length"] == 2048
    )
    one["guards"] = {"check": {"ok": True}, "fired": {"spread": "the median is known to ±15% only"}}
    failed = next(x for x in records if x["case"]["asked"] == "logsparse")
    failed |= {"status": "wrong", "time": None, "guards": {"fired": {"finite": "NaN"}}}
    path.write_text("".join(json.dumps(x) + "\n" for x in records))
    run = read(folder)
    marked = run.cost[run.cost.line.str.endswith("†")]
    assert set(marked.asked) == {"strided"}
    assert sorted(marked.length) == [1024, 2048]
    assert not run.fidelity.line.str.contains("†").any()
    (row,) = run.marked.itertuples()
    assert (row.asked, row.length) == ("strided", 2048)
    assert row.fired == "spread: the median is known to ±15% only"
    (failures, *_) = about.sections(run)
    table = failures.blocks[-1]
    assert table.title == "Cases that a guard marked"
    assert table.frame.to_dict("records")[0]["guard"] == row.fired
    assert "Numbers to doubt: 1," in str(failures.blocks[-2])
