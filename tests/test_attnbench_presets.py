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


def asked_of(length: int, one_pass: str, **shape: object) -> set[str]:
    """What the preset `kernels` asks for on a GPU at a shape, with the backend."""
    wanted = {"dim": 64, "batch": 1, "heads": 16, "kv_heads": 16, "causal": True} | shape
    return {
        f"{case.asked}@{case.backend}"
        for case in cases_of("kernels", "cuda")
        if isinstance(case, CostCase)
        and (case.length, case.pass_) == (length, one_pass)
        and all(getattr(case, name) == value for name, value in wanted.items())
    }


@pytest.mark.parametrize("length", [4096, 16384, 65536, 131072, 262144])
def test_kernels_has_combiner_fixed_beside_dense_attention_at_every_length(length: int):
    rows = {"combiner-fixed@auto", "combiner-fixed[summary=variational]@auto", "full@auto"}
    assert asked_of(length, "fwd") >= rows
    assert asked_of(length, "fwdbwd") >= rows
    assert asked_of(length, "fwd", dim=128) >= rows


@pytest.mark.parametrize("length", [4096, 16384, 65536])
def test_kernels_has_the_other_combiners_beside_dense_attention(length: int):
    names = ("axial-rowmajor", "axial-vertical", "axial-horizontal", "mixture", "logsparse")
    rows = {f"combiner-{name}@auto" for name in names}
    rows |= {f"combiner-logsparse{kind}@auto" for kind in ("", "[summary=variational]")}
    assert asked_of(length, "fwd") >= rows | {"full@sdpa:cudnn", "full@sdpa:flash"}
    assert asked_of(16384, "fwdbwd") >= {f"combiner-{name}@auto" for name in names[:4]}


@pytest.mark.parametrize("length", [16384, 65536])
def test_kernels_has_every_sparse_pattern_beside_flex(length: int):
    sparse = {name for name, cls in PATTERNS.items() if "flex" in cls.backends}
    for backend in ("auto", "flex"):
        found = {
            row.partition("@")[0].partition("[")[0]
            for row in asked_of(length, "fwd")
            if row.endswith(f"@{backend}")
        }
        assert found >= sparse


def test_kernels_has_a_million_tokens_without_dense_attention():
    assert asked_of(1 << 20, "fwdbwd") == {"combiner-fixed@auto"}
    assert "combiner-logsparse[summary=variational]@auto" in asked_of(1 << 20, "fwd")
    assert not any(row.startswith("full") for row in asked_of(1 << 20, "fwd"))


@pytest.mark.parametrize(
    ("length", "shape"),
    [
        (16384, {"heads": 32, "kv_heads": 8, "dim": 128}),
        (16384, {"causal": False}),
        (16384, {"batch": 4}),
        (16384, {"dim": 96}),
        (16381, {}),
        (4096, {"batch": 4}),
    ],
)
def test_kernels_has_other_shapes_beside_dense_attention(length: int, shape: dict[str, object]):
    assert asked_of(length, "fwd", **shape) >= {"combiner-fixed@auto", "full@auto"}


def test_kernels_has_its_table_before_its_rarer_shapes_and_asks_for_nothing_twice():
    plan = preset("kernels", "cuda")
    assert plan.budget_s <= 7.5 * 60
    groups = groups_of(plan.parts)
    order = [group.cases[0] for group in groups]
    usual = next(at for at, case in enumerate(order) if (case.length, case.dim) == (65536, 64))
    assert max(at for at, case in enumerate(order) if case.length >= 131072) < usual
    assert all(case.dim == 64 for case in order[usual + 1 :] if case.length == 65536)
    rare = [at for at, case in enumerate(order) if case.dim == 96 or not case.causal]
    assert min(rare) > usual
    names = [group.id for group in groups]
    assert len(set(names)) == len(names)


def test_kernels_with_patterns_of_ones_own_has_the_usual_lengths():
    (part,) = overridden(preset("kernels", "cuda"), {"patterns": ("local",)}).parts
    assert part.lengths == (4096, 16384, 65536)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_kernels_makes_cases_for_its_device(device: str):
    assert {case.device for case in cases_of("kernels", device)} == {device}
