"""Patterns at equal keys: the parameter that is chosen, and what is left alone."""

import pytest

from attnbench.baselines import keys_per_query
from attnbench.evaluation import Evaluation, cases
from attnbench.language import Sizes
from attnbench.matching import MATCHED, knob, matched, wanted_keys
from attnbench.model_requests import evaluation
from attnbench.schedule import schedule
from attnbench.swap_table import swap_table
from patterns import PATTERNS, BadInput, pattern
from run_bench import _COMMANDS, parser

SIZES = Sizes(layers=8, heads=2, kv_heads=1, dim=8, positions=4096)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("local", "window"),
        ("local[window=4]", None),
        ("combiner-fixed[summary=mean]", "block"),
        ("combiner-axial-vertical", "columns"),
        ("full", None),
        ("logsparse[keys=suffix]", None),
    ],
)
def test_what_is_written_out_is_not_chosen(spec: str, found: str | None):
    assert knob(spec) == found


@pytest.mark.parametrize("name", ["local", "fixed", "strided", "oracle-topk", "combiner-fixed"])
@pytest.mark.parametrize("length", [300, 512])
def test_keys_are_matched_within_two_percent(name: str, length: int):
    found = matched(pattern(name), str(knob(name)), 60, length)
    assert keys_per_query(found, length) == pytest.approx(60, rel=MATCHED)


def test_of_two_blocks_with_as_many_keys_the_longer_is_taken():
    wanted = keys_per_query(pattern("fixed[block=128]"), 512)
    assert keys_per_query(pattern("fixed[block=4]"), 512) == pytest.approx(wanted, rel=0.02)
    assert matched(pattern("fixed"), "block", wanted, 512) == pattern("fixed[block=128]")


def test_of_those_close_enough_a_round_one_is_taken():
    wanted = keys_per_query(pattern("local[window=129]"), 1024)
    assert matched(pattern("local"), "window", wanted, 1024) == pattern("local[window=128]")


@pytest.mark.parametrize("wanted", [1, 40, 5000])
def test_where_no_value_fits_the_closest_is_taken(wanted: float):
    found = matched(pattern("combiner-fixed"), "block", wanted, 100)
    every = [pattern(f"combiner-fixed[block={block}]") for block in range(1, 101)]
    closest = min(abs(keys_per_query(one, 100) - wanted) for one in every)
    assert abs(keys_per_query(found, 100) - wanted) <= max(closest, MATCHED * wanted)


def test_keys_are_a_number_or_those_of_a_pattern():
    assert wanted_keys("48.5", 100) == 48.5
    assert wanted_keys("local[window=10]", 10) == 5.5
    for text in ("0", "inf", "uniform"):
        with pytest.raises(BadInput, match="number of keys above 0"):
            wanted_keys(text, 100)
    with pytest.raises(BadInput, match="did you mean 'local'"):
        wanted_keys("locl", 100)


def test_patterns_at_equal_keys_share_one_window_and_schedules_have_their_own():
    mixed = "masformer[full=4,window=16]"
    asked = Evaluation(
        model="m", schedules=("local", "fixed[tail=2]", "logsparse", mixed), lengths=(512,),
        keys="64",
    )  # fmt: skip
    (group,) = cases(asked, SIZES, "t")
    by_name = {one.schedule.spec.partition("[")[0]: one for one in group}
    assert by_name["local"].rival == by_name["fixed"].rival
    assert by_name["masformer"].rival != by_name["local"].rival
    assert by_name["masformer"].wanted is None
    for name in ("local", "fixed"):
        one = by_name[name]
        assert one.wanted == 64
        assert one.cost.keys_per_query == pytest.approx(64, rel=MATCHED)
        assert one.rival_keys == pytest.approx(one.cost.keys_per_query, rel=MATCHED)
    assert by_name["logsparse"].case.asked == "logsparse"  # has nothing to choose
    assert "tail=2" in by_name["fixed"].case.asked


def typed(*words: str) -> Evaluation:
    return evaluation(parser(_COMMANDS).parse_args(["evaluate", "m", "--device", "cpu", *words]))


def test_the_preset_has_every_pattern_and_options_go_over_it():
    asked = typed("--preset", "swap")
    names = {spec.partition("[")[0] for spec in asked.schedules}
    assert names == {*PATTERNS, "masformer"}
    assert asked.lengths == (1024, 2048, 4096)
    ours = typed("--preset", "swap", "--pattern", "local", "--length", "64", "--keys", "8")
    assert (ours.schedules, ours.lengths, ours.keys) == (("local",), (64,), "8")
    assert ours.sensitivity == ()
    assert swap_table()["keys"] == asked.keys
    with pytest.raises(BadInput, match="--pattern or --preset"):
        typed()


def test_a_quarter_of_the_layers_is_full_where_nobody_says_how_many():
    for layers, full in ((30, 8), (12, 3), (3, 1), (1, 0)):
        found = schedule("masformer[full=auto,window=4]").patterns(layers)
        assert [one.name for one in found].count("full") == full


def test_schedules_whose_keys_are_nearly_equal_are_compared_with_one_window():
    near = ("local[window=90]", "local[window=91]", "local[window=120]")
    (group,) = cases(Evaluation(model="m", schedules=near, lengths=(512,)), SIZES, "t")
    rivals = {one.case.asked: one.rival for one in group}
    assert rivals[near[0]] == rivals[near[1]] != rivals[near[2]]
    assert sum(one.role == "comparison" and one.case.asked != "uniform" for one in group) == 3
