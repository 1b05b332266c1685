"""Fidelity: each number against one computed another way, and what is refused."""

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from contract import ALL_FORMS, draw_inputs
from test_attnbench_softmax import Largest
from torch import Tensor

from attnbench import effective, mapstats
from attnbench.baselines import equal_keys, keys_per_query, uniform
from attnbench.fidelity import WrongResult, interval, measure, output_errors
from attnbench.layer_table import Blocks, show, table
from attnbench.reference import Reference, reference, sample
from attnbench.sources import Inputs, load, settings
from patterns import PATTERNS, Pattern, pattern
from patterns.errors import BadInput
from patterns.features.rfa import RFA
from patterns.full import Full
from patterns.sparse.local import Local

BOTH = pytest.mark.parametrize("causal", [True, False])


def inputs(length: int, *, heads: int = 2, dtype=torch.float64, projection: bool = False) -> Inputs:
    """A source with sinks, grouped heads, 8 wide."""
    (setting,) = settings("sink[tokens=2]", causal=True)
    size = {"heads": heads, "kv_heads": 1, "dim": 8}
    found = load(setting, length=length, seed=3, device="cpu", dtype=dtype, **size)
    if projection:
        found = replace(found, output_projection=torch.randn(heads, 8, 24, dtype=dtype))
    return found


def dense(x: Inputs, form: Pattern) -> tuple[Tensor, Tensor]:
    """The maps of a pattern and of full attention, [B, H, L, L]."""
    full = Full(causal=form.causal)
    return form.weights(x.q, x.k, scale=x.scale), full.weights(x.q, x.k, scale=x.scale)


def close(found: float, wanted: Tensor | float) -> None:
    """Equal to float64's rounding, times a few thousand additions."""
    assert found == pytest.approx(float(wanted), rel=1e-9, abs=1e-12)


# The effective map.


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: f"{form.spec}-{form.causal}")
def test_the_effective_map_is_the_reference_map_of_every_pattern(form: Pattern):
    if not form.linear_in_values:
        block, notes = effective.compare(form, None, backend="eager", out=None)
        assert block is None
        assert "map" in notes
        return
    q, k, _ = (x.detach() for x in draw_inputs(23, heads=4, kv_heads=2))
    where = {"scale": 0.5, "backend": "eager"}
    wanted = form.weights(q, k, scale=0.5)
    by_column = torch.cat([slab for _, slab in effective.columns(form, q, k, **where)], dim=-1)
    torch.testing.assert_close(by_column, wanted, rtol=0, atol=1e-12)
    some = torch.tensor([0, 4, 7, 8, 9, 13, 16, 17, 21, 22])
    slabs = list(effective.rows(form, q, k, some, **where))
    by_row = torch.cat([slab for _, slab in slabs], dim=2)
    assert [part.start for part, _ in slabs] == [0, 8]
    torch.testing.assert_close(by_row, wanted[:, :, some], rtol=0, atol=1e-12)


@dataclass(frozen=True, kw_only=True)
class SeesTheWidth(Local):
    """A window whose scores change with zeros beside the heads."""

    name: ClassVar = "sees-the-width"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return Local._attend(self, q, k, v, scale * q.shape[-1], backend)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("form", [Local(window=4), SeesTheWidth(window=4)], ids=["plain", "sees"])
def test_columns_read_together_are_the_columns_of_the_narrow_call(form: Local, backend: str):
    q, k, _ = (x.detach() for x in draw_inputs(100))
    where = {"scale": 0.5, "backend": backend}
    found = [slab for _, slab in effective.columns(form, q, k, **where)]
    eye = torch.eye(100, dtype=q.dtype).expand(*k.shape[:2], 100, 100)
    alone = [form.attend(q, k, eye[..., part : part + 8], **where) for part in range(0, 96, 8)]
    torch.testing.assert_close(torch.cat(found, -1)[..., :96], torch.cat(alone, -1))
    assert sum(slab.shape[-1] for slab in found) == 100


@BOTH
@pytest.mark.parametrize("limit", [1 << 30, 0])
@pytest.mark.parametrize("spec", ["local[window=5]", "combiner-fixed[block=8,summary=mean]"])
def test_map_statistics_are_those_of_the_dense_maps(causal: bool, limit: int, spec: str):
    x, form = inputs(40), replace(pattern(spec), causal=causal)
    shared = reference(x, causal=causal, dense_limit_bytes=limit, rows=11, seed=1)
    found = measure(form, x, shared=shared, backend="eager")["map"]
    ours, full = (one[:, :, shared.rows] for one in dense(x, form))
    variation = (ours - full).abs().sum(-1) / 2
    close(found["total_variation"]["mean"], variation.mean())
    close(found["total_variation"]["worst"], variation.max())
    close(found["total_variation"]["p95"], variation.quantile(0.95))
    assert len(found["total_variation"]["per_head"]) == 2
    logs = torch.where(ours > 0, (ours / full).log(), 0)
    close(found["kl"]["mean"], (ours * logs).sum(-1).mean())
    close(found["dropped_mass"], torch.where(ours == 0, full, 0).sum(-1).mean())
    for count in (8, 64):
        top = full.topk(min(count, 40), dim=-1).indices
        share = torch.minimum(ours, full).gather(-1, top).sum(-1) / full.gather(-1, top).sum(-1)
        close(found["recall"][str(count)], share.mean())
    close(found["entropy"], -torch.xlogy(ours, ours).sum(-1).mean())
    close(found["full_entropy"], -torch.xlogy(full, full).sum(-1).mean())
    close(found["row_sum"]["low"], 1)
    close(found["row_sum"]["high"], 1)
    assert found["negative_share"] == pytest.approx(0, abs=1e-12)
    assert found["leakage"] == (0 if causal else None)
    assert found["linearity"] < 1e-12
    distance = (shared.rows[:, None] - torch.arange(40)).abs()
    edges = found["mass_by_distance"]["edges"]
    assert edges == [0, 1, 2, 4, 8, 16, 32, 64]
    for name, one in (("effective", ours), ("full", full)):
        for bin_, mass in enumerate(found["mass_by_distance"][name]):
            inside = (distance >= edges[bin_]) & (distance < edges[bin_ + 1])
            close(mass, (one * inside).sum(-1).mean())


@BOTH
def test_a_subset_drops_half_its_distance_and_diverges_by_the_mass_it_keeps(causal: bool):
    x, form = inputs(50), Local(window=6, causal=causal)
    found = measure(form, x)["map"]
    kept = torch.where(form.support(50), dense(x, form)[1], 0).sum(-1)
    close(found["dropped_mass"], found["total_variation"]["mean"])
    close(found["dropped_mass"], (1 - kept).mean())
    close(found["kl"]["mean"], -kept.log().mean())


def test_statistics_of_a_map_by_hand():
    """Two rows of four keys, causal from row 1 on, one weight negative and one on the future."""
    full = torch.tensor([[0.25, 0.75, 0, 0], [0.5, 0.25, 0.25, 0]])[None, None].double()
    ours = torch.tensor([[0.5, 0.25, 0.25, 0], [1.5, -0.5, 0, 0]])[None, None].double()
    rows, keys = torch.tensor([1, 2]), torch.arange(4)
    best = full.log().sort(dim=-1, descending=True).values
    limits = {1: best[..., 0], 64: best[..., 3]}
    total = mapstats.sums(ours, full.log(), limits, rows=rows, keys=keys, causal=True)
    assert total["difference"].tolist() == [[[1.0, 2.0]]]
    assert total["dropped"].tolist() == [[[0.0, 0.25]]]
    assert total["leaked"].tolist() == [[[0.25, 0.0]]]
    assert total["shared_1"].tolist() == [[[0.25, 0.5]]]
    assert total["top_1"].tolist() == [[[0.75, 0.5]]]
    total = {**total, "shared_8": total["shared_1"], "top_8": total["top_1"]}
    distances = mapstats.by_distance(ours[0, 0], rows, keys, causal=True)
    assert distances[:4].tolist() == [0.25, 0.0, 1.5, 0.0]
    found, notes = mapstats.statistics(total, distances, length=4, causal=True)
    assert found["negative_share"] == 0.5 / 3
    assert found["leakage"] == 0.125
    assert found["row_sum"] == {"low": 1.0, "high": 1.0}
    assert found["kl"] is None
    assert found["entropy"] is None
    assert notes.keys() == {"map.kl", "map.entropy"}


def test_weight_on_the_future_has_no_divergence():
    full = torch.tensor([[1.0, 0.0], [0.5, 0.5]])[None, None].double()
    ours = torch.full_like(full, 0.5)
    rows = torch.arange(2)
    limits = mapstats.thresholds(full.log().sort(dim=-1, descending=True).values)
    total = mapstats.sums(ours, full.log(), limits, rows=rows, keys=rows, causal=True)
    found, notes = mapstats.statistics(total, torch.zeros(64), length=2, causal=True)
    assert found["kl"] is None
    assert "future" in notes["map.kl"]
    close(found["entropy"], math.log(2))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 31, 32, 33])
def test_every_distance_has_a_bin(length: int):
    edges = mapstats.edges(length)
    assert edges[-2] <= length - 1 < edges[-1]
    mass = torch.ones(length, length, dtype=torch.float64)
    place = torch.arange(length)
    found = mapstats.by_distance(mass, place, place, causal=False)
    assert found[: len(edges) - 1].sum() == length**2
    assert found[0] == length


# The output.


@BOTH
def test_output_errors_are_relative_norms_per_head(causal: bool):
    x, form = inputs(30, projection=True), Local(window=4, causal=causal)
    found = measure(form, x)
    ours, full = (weights @ x.v for weights in dense(x, form))

    def error(a: Tensor, b: Tensor) -> list[float]:
        return [float((a - b)[:, h].norm() / b[:, h].norm()) for h in range(2)]

    assert found["output_error"]["per_head"] == pytest.approx(error(ours, full))
    close(found["output_error"]["mean"], sum(error(ours, full)) / 2)
    later = error(ours[:, :, 15:], full[:, :, 15:])
    assert found["output_error_later_half"]["per_head"] == pytest.approx(later)
    projected = error(ours @ x.output_projection, full @ x.output_projection)
    assert found["output_error_projected"]["per_head"] == pytest.approx(projected)
    rows = ((ours - full).norm(dim=-1) / full.norm(dim=-1)).flatten()
    assert found["row_error"]["p95"] == pytest.approx(float(rows.quantile(0.95)))
    assert found["row_error"]["worst"] == pytest.approx(float(rows.max()))
    assert len(found["row_error"]["by_quantile"]) == 101
    places = found["row_error"]["by_position"]
    here = ((ours - full).norm(dim=-1) / full.norm(dim=-1))[:, :, 8:16].flatten()
    assert places["edges"][4:6] == [8, 16]
    assert places["p50"][4] == pytest.approx(float(here.quantile(0.5)))
    assert places["p95"][4] == pytest.approx(float(here.quantile(0.95)))
    assert len(places["p50"]) == len(places["p95"]) == len(places["edges"]) - 1
    assert found["rows"] == {"exact": True}


def test_full_attention_is_without_error():
    found = measure(Full(), inputs(40))
    assert found["output_error"]["mean"] < 1e-14
    assert found["map"]["total_variation"]["worst"] < 1e-14
    assert found["gradient_error"]["dk"]["mean"] < 1e-13
    assert found["map"]["recall"] == pytest.approx({"8": 1.0, "64": 1.0})


@BOTH
def test_gradient_errors_are_those_of_autograd(causal: bool):
    x, form = inputs(40), Local(window=4, causal=causal)
    grad = torch.randn(x.q.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    slopes = []
    for one in (form, Full(causal=causal)):
        operands = [part.clone().requires_grad_() for part in (x.q, x.k, x.v)]
        weights = one.weights(operands[0], operands[1], scale=x.scale)
        slopes.append(torch.autograd.grad(weights @ operands[2], operands, grad))
    for limit, rows in ((1 << 30, 256), (0, 12)):
        shared = reference(x, causal=causal, seed=5, dense_limit_bytes=limit, rows=rows)
        found = measure(form, x, shared=shared)["gradient_error"]
        kept = (shared.rows, shared.gradients.keys, shared.gradients.keys)
        for name, some, ours, full in zip(("dq", "dk", "dv"), kept, *slopes, strict=True):
            missing = (ours - full)[:, :, some].norm(dim=(2, 3)) / full[:, :, some].norm(dim=(2, 3))
            assert found[name]["per_head"] == pytest.approx(missing[0].tolist(), rel=1e-9)


def test_the_interval_of_sampled_rows_covers_the_exact_error():
    x, form = inputs(600), Local(window=20)
    exact = measure(form, x, gradients=False)["output_error"]["mean"]
    covered = 0
    for seed in range(20):
        shared = reference(
            x, causal=True, seed=seed, dense_limit_bytes=0, rows=100, gradients=False
        )
        found = measure(form, x, shared=shared, gradients=False)
        assert found["rows"]["sampled"] == 100
        low, high = found["rows"]["interval"]
        assert low <= found["output_error"]["mean"] <= high
        covered += low <= exact <= high
    assert covered >= 18


def test_the_interval_of_equal_rows_is_one_number():
    wanted = torch.ones(1, 2, 50, 4, dtype=torch.float64)
    assert interval(0.5 * wanted, wanted, 0) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(("length", "count"), [(100, 100), (101, 10), (1 << 20, 256), (7, 3)])
def test_sampled_rows_come_one_from_each_part(length: int, count: int):
    rows = sample(length, count, torch.Generator().manual_seed(0))
    assert (rows * count // length).tolist() == list(range(count))


def test_the_dtype_error_is_the_rounding_of_full_attention():
    x = inputs(60)
    errors = {
        dtype: reference(x, causal=True, dtype=dtype).dtype_error
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    assert errors[torch.float64] < 1e-14
    assert 1e-9 < errors[torch.float32] < 1e-6
    assert 1e-4 < errors[torch.bfloat16] < 1e-2


def test_the_kernel_error_knows_nothing_of_the_pattern_error():
    found = measure(Local(window=2), inputs(60), dtype=torch.bfloat16)
    assert found["output_error"]["mean"] > 0.3
    assert 1e-4 < found["kernel_error"] < 1e-2
    assert "bfloat16" in found["notes"]["map"]


@dataclass(frozen=True, kw_only=True)
class Wrong(Local):
    """A window whose fast form is one token narrower than it says, on one backend."""

    name: ClassVar = "wrong"
    where: str = "eager"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        window = self.window - (backend == self.where)
        return Local(window=window)._attend(q, k, v, scale, backend)


@pytest.mark.parametrize("where", ["eager", "sdpa"])
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_a_fast_form_that_is_not_its_pattern_is_wrong(where: str, limit: int):
    x = inputs(300, dtype=torch.float32)
    with pytest.raises(WrongResult, match=r"wrong\[window=9"):
        measure(Wrong(window=9, where=where), x, dense_limit_bytes=limit)


def test_a_reference_of_something_else_is_refused():
    x = inputs(20)
    shared = reference(x, causal=True)
    for asked in (
        {"dtype": torch.float32},
        {"inputs": inputs(20)},
        {"pattern": Full(causal=False)},
    ):
        with pytest.raises(BadInput, match="shared reference"):
            measure(**{"pattern": Full(), "inputs": x, "shared": shared, **asked})


@pytest.mark.parametrize("name", [*PATTERNS])
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_each_pattern_has_the_whole_block_and_a_note_for_every_null(name: str, limit: int):
    form = PATTERNS[name](**PATTERNS[name].tiny)
    x = inputs(70, dtype=torch.float32)
    found = measure(form, x, dense_limit_bytes=limit, rows=20)
    assert [*found] == [
        "output_error", "output_error_later_half", "output_error_projected", "row_error",
        "kernel_error", "dtype_error", "own_reference_error", "map", "gradient_error", "rows",
        "baselines", "notes",
    ]  # fmt: skip
    json.dumps(found, allow_nan=False)
    for key in ("output_error_projected", "own_reference_error", "map"):
        assert found[key] is not None or key in found["notes"]
    for key, value in (found["map"] or {}).items():
        assert value is not None or f"map.{key}" in found["notes"]
    assert None not in found["gradient_error"].values() or "gradient_error" in found["notes"]
    assert ("row_error.worst" in found["notes"]) == (limit == 0)


@pytest.mark.parametrize("spec", ["combiner-fixed[sink=4,near=1]", "local", "sinks"])
def test_beyond_the_dense_limit_no_tensor_has_a_row_and_a_column_for_every_token(
    spec: str, monkeypatch
):
    monkeypatch.delattr(effective, "columns")  # the few rows are read one by one instead
    x = inputs(3000, heads=1, dtype=torch.float32)
    with Largest() as largest:
        measure(pattern(spec), x, dense_limit_bytes=0, rows=16)
    assert largest.numel < 3000 * 3000 / 4


@dataclass(frozen=True, kw_only=True)
class OneWay(Local):
    """A window without a backward pass."""

    name: ClassVar = "one-way"

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return Local._attend(self, *(x.detach() for x in (q, k, v)), scale, backend)


def test_the_map_of_sampled_rows_needs_no_backward_pass():
    x, rows = inputs(60), 20
    shared = reference(x, causal=True, dense_limit_bytes=0, rows=rows, gradients=False)
    found, wanted = (
        measure(form, x, shared=shared, gradients=False)["map"]
        for form in (OneWay(window=4), Local(window=4))
    )
    close(found["total_variation"]["worst"], wanted["total_variation"]["worst"])
    close(found["dropped_mass"], wanted["dropped_mass"])


# Baselines.


@BOTH
@pytest.mark.parametrize(
    "spec",
    [
        "combiner-fixed",
        "fixed",
        "full",
        "uniform",
        *(f"local[window={n}]" for n in range(1, 99, 7)),
    ],
)
def test_no_other_window_is_closer_in_keys(causal: bool, spec: str):
    form = replace(pattern(spec), causal=causal)
    found = equal_keys(form, 100, causal=causal)
    assert found.spec.startswith("sinks")
    assert found.causal == causal
    wanted = keys_per_query(form, 100)
    others = [
        abs(keys_per_query(replace(found, window=window), 100) - wanted) for window in range(1, 101)
    ]
    assert abs(keys_per_query(found, 100) - wanted) == min(others)


def test_baselines_are_measured_on_the_same_inputs():
    x = inputs(90)
    shared = reference(x, causal=True)
    found = measure(pattern("combiner-fixed"), x, shared=shared)["baselines"]
    assert found["uniform"] == measure(uniform(causal=True), x)["output_error"]["mean"]
    sinks = measure(pattern(found["sinks"]["asked"]), x)
    assert found["sinks"]["error"] == pytest.approx(sinks["output_error"]["mean"])


def test_baselines_beyond_the_dense_limit_are_those_of_the_sampled_rows():
    x = inputs(90)
    shared = reference(x, causal=True, dense_limit_bytes=0, rows=15)
    found = measure(pattern("combiner-fixed"), x, shared=shared)["baselines"]
    for error, one in (
        (found["uniform"], uniform(causal=True)),
        (found["sinks"]["error"], pattern(found["sinks"]["asked"])),
    ):
        output = one.weights(x.q, x.k, rows=shared.rows, scale=x.scale) @ x.v
        assert error == pytest.approx(output_errors(output, shared)["output_error"]["mean"])


def test_the_error_of_the_full_output_is_zero_and_that_of_nothing_is_one():
    shared: Reference = reference(inputs(30), causal=True)
    full = shared.attended.output
    assert output_errors(full, shared)["output_error"]["mean"] == 0
    assert output_errors(0 * full, shared)["row_error"]["by_quantile"] == [1.0] * 101


# The table of layers.


def test_the_layer_table_has_the_means_over_layers_and_heads():
    form = Local(window=9)
    (row,) = table("captured", length=300, chosen=[form])
    assert [*row.errors] == ["0", "5", "15", "20", "29"]
    setting = next(one for one in settings("captured", causal=True) if one.layer == "5")
    x = load(setting, length=300, seed=0, device="cpu", dtype=torch.float32)
    found = measure(form, x, gradients=False)
    close(row.errors["5"], found["output_error"]["mean"])
    close(row.variations["5"], found["map"]["total_variation"]["mean"])
    close(row.mean_error, sum(row.errors.values()) / 5)
    assert show([row]).splitlines()[1].split()[1:3] == [
        f"{row.mean_error:.3f}", f"{row.mean_variation:.3f}"
    ]  # fmt: skip


def test_a_table_without_a_layer_is_refused():
    with pytest.raises(BadInput, match="no layer"):
        table("captured", length=10_000)


def test_blocks_are_the_direct_keys_of_a_combiner():
    form = pattern("combiner-fixed[block=4,sink=3,near=1]")
    direct = form.partitions(torch.arange(21), 21)[0] == -1
    blocks = Blocks(block=4, near=1, sink=3)
    assert torch.equal(blocks.support(21), direct)
    x = inputs(21)
    wanted = blocks.weights(x.q, x.k) @ x.v
    torch.testing.assert_close(blocks.attend(x.q, x.k, x.v, backend="eager"), wanted)


def test_a_pattern_that_estimates_another_softmax_is_measured_against_that_too():
    x = inputs(70)
    many, few = (
        measure(RFA(features=features, sigma=1.0), x)["own_reference_error"]
        for features in (4096, 64)
    )
    assert 0 < many < few / 4
    assert measure(Full(), x)["own_reference_error"] is None
