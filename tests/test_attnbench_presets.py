"""Presets, and options laid over them."""

import functools

import pytest

from attnbench.case import AnyCase, CostCase
from attnbench.matrix import asked_patterns, groups_of
from attnbench.presets import overridden, preset
from patterns import PATTERNS, BadInput


@functools.cache
def cases_of(name: str, device: str) -> list[AnyCase]:
    return [case for group in groups_of(preset(name, device).parts) for case in group.cases]


@pytest.mark.parametrize(
    ("name", "device"),
    [("quick", "cpu"), ("quick", "cuda"), ("maps", "cpu"), ("maps", "cuda"), ("full", "cuda")],
)
def test_every_preset_makes_cases_for_its_device(name: str, device: str):
    plan, cases = preset(name, device), cases_of(name, device)
    assert cases
    assert {case.device for case in cases} == {device}
    assert plan.preset == name


def test_quick_has_every_pattern_and_fits_its_promise():
    plan = preset("quick", "cpu")
    (part,) = plan.parts
    assert {one.name for one in asked_patterns(part)} == set(PATTERNS)
    assert (part.lengths, part.passes, part.dtype) == ((256, 512, 1024, 2048), ("fwd",), "float32")
    assert plan.budget_s == 150
    assert preset("quick", "cuda").budget_s == 120


def test_full_has_what_a_report_compares():
    plan = preset("full", "cuda")
    cases = cases_of("full", "cuda")
    cost = [case for case in cases if isinstance(case, CostCase)]
    assert {case.pass_ for case in cost} == {"fwd", "fwdbwd"}
    assert {1024 << step for step in range(7)} <= {case.length for case in cost}
    assert {case.backend for case in cost if case.asked == "full"} >= {"auto", "sdpa:cudnn"}
    at_4k = {case.asked for case in cost if case.length == 4096}
    assert {"sinks[window=512]", "combiner-fixed"} <= at_4k
    assert "combiner-fixed[summary=variational,sink=4,near=1]" in at_4k
    longest = {case.asked for case in cost if case.length == 262144}
    assert "combiner-fixed" in longest
    assert not any(PATTERNS[name].quadratic for name in longest if name in PATTERNS)
    sources = {case.source for case in cases if not isinstance(case, CostCase)}
    assert sources == {"captured", "heavy-hitter", "needle", "local-decay"}
    assert plan.budget_s <= 540


def test_an_unknown_preset_is_refused_with_a_near_match():
    with pytest.raises(BadInput, match="did you mean 'quick'"):
        preset("quik", "cpu")


def test_options_hold_in_every_part():
    plan = overridden(preset("full", "cuda"), {"dtype": "float16", "seed": 3}, 60.0)
    assert {(part.dtype, part.seed) for part in plan.parts} == {("float16", 3)}
    assert len(plan.parts) > 1
    assert plan.budget_s == 60


def test_naming_patterns_asks_for_a_matrix_of_ones_own():
    plan = overridden(preset("full", "cuda"), {"patterns": ("local",)})
    (part,) = plan.parts
    assert part.patterns == ("local",)
    assert part.sources == ("captured",)


def test_a_presets_source_that_has_none_of_the_lengths_is_left_out():
    (part,) = overridden(preset("quick", "cpu"), {"lengths": (16384,)}).parts
    assert part.sources == ()
    (part,) = overridden(preset("quick", "cpu"), {"lengths": (512,)}).parts
    assert (part.sources, part.fidelity_lengths) == (("captured",), None)


def test_a_source_that_was_asked_for_is_never_left_out_in_silence():
    options = {"lengths": (16384,), "sources": ("captured",)}
    with pytest.raises(BadInput, match="up to 8192 tokens"):
        groups_of(overridden(preset("quick", "cpu"), options).parts)


def test_bidirectional_judges_at_the_length_that_the_capture_has():
    (part,) = overridden(preset("quick", "cpu"), {"causal": False, "baselines": False}).parts
    lengths = {group.cases[0].length for group in groups_of([part]) if group.kind == "fidelity"}
    assert lengths == {512}


def test_a_source_is_judged_beside_the_costs_of_the_preset():
    plan = overridden(preset("quick", "cpu"), {"sources": ("needle",)})
    kinds = {group.kind for group in groups_of(plan.parts)}
    assert kinds == {"cost", "fidelity"}
    assert all(part.sources in ((), ("needle",)) for part in plan.parts)


def test_a_plan_is_written_as_plain_json_values():
    (document,) = preset("quick", "cpu").document()
    assert document["lengths"] == [256, 512, 1024, 2048]
    assert document["fidelity_lengths"] == [1024]
