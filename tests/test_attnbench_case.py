"""Cases: their keys and groups, and what a matrix turns into."""

import dataclasses
import re

import pytest

from attnbench.baselines import keys_per_query
from attnbench.case import CostCase, FidelityCase, as_dict, case_key, grouped
from attnbench.matrix import Matrix, asked_patterns, groups_of
from patterns import PATTERNS, BadInput, pattern

COST = CostCase(
    asked="local",
    pattern="local[window=64]",
    backend="auto",
    causal=True,
    length=4096,
    heads=16,
    kv_heads=16,
    dim=64,
    dtype="bfloat16",
    device="cuda",
    seed=0,
    pass_="fwd",
    batch=1,
)
SMALL = Matrix(
    patterns=("local",), lengths=(64, 128), heads=2, kv_heads=2, dtype="float32", device="cpu"
)


def cases(matrix: Matrix) -> list[CostCase | FidelityCase]:
    return [case for group in groups_of([matrix]) for case in group.cases]


def asked(matrix: Matrix) -> list[str]:
    return [f"{case.asked}@{case.backend}" for case in cases(matrix)]


def test_a_key_is_16_hexadecimal_digits_and_lasts():
    assert case_key(COST) == case_key(dataclasses.replace(COST)) == "05c7682d6d2de9b0"
    assert re.fullmatch("[0-9a-f]{16}", case_key(COST))


@pytest.mark.parametrize(
    "changes",
    [{"pass_": "bwd"}, {"asked": "local[window=64]"}, {"seed": 1}, {"backend": "eager"}],
)
def test_a_key_tells_cases_apart(changes: dict):
    assert case_key(dataclasses.replace(COST, **changes)) != case_key(COST)


def test_groups_are_named_as_documented():
    assert COST.group == "fwd-b1-h16x16-l4096-d64-bfloat16-cuda-causal-gaussian"
    shared = {name: value for name, value in as_dict(COST).items() if name not in ("pass", "batch")}
    judged = FidelityCase(
        **shared | {"source": "captured", "dtype": "float32", "device": "cpu", "causal": False},
        layer="5",
    )
    assert judged.group == "captured-l4096-float32-cpu-bidirectional"


def test_a_case_is_written_as_documented():
    document = as_dict(COST)
    assert document["pass"] == "fwd"
    assert document["source"] == "gaussian"
    assert not [name for name in document if name.endswith("_")]


def test_fidelity_comes_before_cost_and_short_before_long():
    matrix = dataclasses.replace(SMALL, lengths=(256, 64), sources=("needle",))
    found = [(group.kind, group.cases[0].length) for group in groups_of([matrix])]
    assert found == [("fidelity", 64), ("fidelity", 256), ("cost", 64), ("cost", 256)]


def test_a_case_that_is_asked_for_twice_is_measured_once():
    matrix = dataclasses.replace(SMALL, patterns=("local", "local[window=auto]"), baselines=False)
    assert asked(matrix) == ["local@auto", "local@auto"]
    assert [len(group.cases) for group in groups_of([matrix, matrix])] == [1, 1]


def test_a_sweep_is_several_patterns_and_automatic_values_are_filled_in():
    matrix = dataclasses.replace(
        SMALL, patterns=("local", "combiner-fixed[block=16|32]"), lengths=(1024,), baselines=False
    )
    assert asked(matrix) == [
        "local@auto",
        "combiner-fixed[block=16]@auto",
        "combiner-fixed[block=32]@auto",
    ]
    assert cases(matrix)[0].pattern == "local[window=32]"


def test_bidirectional_holds_for_all_and_is_not_part_of_the_name():
    (case,) = cases(
        dataclasses.replace(SMALL, lengths=(64,), causal=False, passes=("fwd",), baselines=False)
    )
    assert case.asked == "local"
    assert not case.causal
    assert not pattern(case.pattern).causal


def test_a_bidirectional_pattern_in_a_causal_matrix_is_refused():
    with pytest.raises(BadInput, match="--bidirectional"):
        asked_patterns(dataclasses.replace(SMALL, patterns=("local[causal=false]",)))


def test_all_is_every_pattern():
    assert len(asked_patterns(dataclasses.replace(SMALL, patterns=("all",)))) == len(PATTERNS)


def test_a_parameter_longer_than_every_length_is_refused():
    with pytest.raises(BadInput, match=r"window=256 is longer than the length 128"):
        asked_patterns(dataclasses.replace(SMALL, patterns=("local[window=256]",)))


def test_a_parameter_longer_than_some_lengths_is_a_case_all_the_same():
    matrix = dataclasses.replace(SMALL, patterns=("local[window=128]",), baselines=False)
    assert [case.length for case in cases(matrix)] == [64, 128]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patterns": ("loca",)}, "did you mean 'local'"),
        ({"backends": ("egaer",)}, "did you mean 'eager'"),
        ({"sources": ("gausian",)}, "did you mean 'gaussian'"),
        ({"sources": ("captured",), "lengths": (16384,)}, "up to 8192 tokens"),
        ({"sources": ("captured",), "causal": False}, "is bidirectional, so it cannot be cut"),
    ],
)
def test_what_does_not_exist_is_refused(changes: dict, said: str):
    with pytest.raises(BadInput, match=said):
        groups_of([dataclasses.replace(SMALL, **changes)])


def test_a_source_that_is_too_short_for_some_lengths_has_cases_at_the_others():
    matrix = dataclasses.replace(
        SMALL, sources=("captured",), lengths=(4096, 16384), passes=(), baselines=False
    )
    assert {(case.length, case.layer) for case in cases(matrix)} == {(4096, "20")}


def test_dense_rows_come_with_every_group_but_not_twice():
    assert [name for name in asked(SMALL) if name.startswith("full")] == 2 * [
        "full@sdpa",
        "full@eager",
    ]
    matrix = dataclasses.replace(SMALL, patterns=("full",), lengths=(64,))
    assert asked(matrix) == ["full@auto", "full@eager"]
    on_gpu = dataclasses.replace(SMALL, device="cuda", lengths=(64,))
    assert {name for name in asked(on_gpu) if name.startswith("full")} == {
        "full@sdpa", "full@sdpa:cudnn", "full@sdpa:flash", "full@sdpa:efficient", "full@eager",
    }  # fmt: skip


def test_comparisons_are_marked_and_can_be_left_out():
    (group,) = groups_of([dataclasses.replace(SMALL, lengths=(64,))])
    marked = {case.asked for case in group.cases if case_key(case) in group.comparisons}
    assert marked == {"full"}
    without = groups_of([dataclasses.replace(SMALL, lengths=(64,), baselines=False)])
    assert [case.asked for case in without[0].cases] == ["local"]


def test_a_window_at_equal_keys_comes_with_every_group():
    matrix = dataclasses.replace(SMALL, patterns=("combiner-fixed",), lengths=(1024,))
    (window,) = [case for case in cases(matrix) if case.asked.startswith("local")]
    wanted = keys_per_query(pattern("combiner-fixed").resolve(1024), 1024)
    found = keys_per_query(pattern(window.pattern), 1024)
    assert wanted <= found < wanted + 1


def test_maps_are_kept_of_a_few_layers():
    matrix = dataclasses.replace(
        SMALL, sources=("captured",), passes=(), lengths=(64,), map_bins=32, map_layers=2
    )
    (group,) = groups_of([matrix])
    kept = [case.layer for case in group.cases if case_key(case) in group.map_bins]
    assert len(kept) == 2
    assert set(group.map_bins.values()) == {32}


def test_cases_without_a_group_make_no_group():
    assert grouped([]) == []
