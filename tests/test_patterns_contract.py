"""What every registered pattern promises, checked over the registry: a new file is tested here."""

import pytest
import torch
from contract import (
    ALL_FORMS,
    Inputs,
    assert_as_good,
    bound,
    dense_output,
    draw_inputs,
    forms,
    gradients,
    worst,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from patterns import PATTERNS, BadInput, Pattern, Shape, Unsupported, pattern
from patterns.combiner.base import DIRECT, INVISIBLE, CombinerPattern
from patterns.mask import MaskPattern

FIRST_FORMS = [forms(cls)[0] for cls in PATTERNS.values()]
_CPU = draw_inputs(1).q
RUNNABLE = [
    (form, backend)
    for form in ALL_FORMS
    for backend in form.backends
    if form._refusal(backend, _CPU) is None
]


def every(forms_: list[Pattern]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("form", forms_, ids=lambda form: form.spec)


def every_backend(pairs: list[tuple[Pattern, str]]) -> pytest.MarkDecorator:
    ids = [f"{form.spec}@{backend}" for form, backend in pairs]
    return pytest.mark.parametrize(("form", "backend"), pairs, ids=ids)


lengths = st.integers(1, 300)
inputs_at = st.builds(
    draw_inputs,
    lengths,
    seed=st.integers(0, 1),
    heads=st.just(2),
    kv_heads=st.sampled_from([1, 2]),
    contiguous=st.booleans(),
)


@every_backend(RUNNABLE)
@settings(max_examples=4)
@example(draw_inputs(1))
@example(draw_inputs(3, contiguous=False))
@example(draw_inputs(17))
@example(draw_inputs(68, kv_heads=2))
@given(inputs_at)
def test_the_fast_form_is_the_map_applied_and_so_are_its_gradients(
    form: Pattern, backend: str, inputs: Inputs
) -> None:
    wanted = dense_output(form, inputs)
    found = form.attend(*inputs, backend=backend)
    assert found.dtype == wanted.dtype
    assert worst(found, wanted) <= bound(0, wanted, torch.float64)
    for got, want in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        scale = torch.maximum(want.abs().max(), wanted.abs().max())
        assert worst(got, want) <= bound(0, 4 * scale, torch.float64)


@every(ALL_FORMS)
def test_rows_of_the_map_are_a_distribution_within_the_support(form: Pattern) -> None:
    q, k, _ = draw_inputs(37)
    weights = form.weights(q, k)
    outside = ~form.support(37)
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-12
    assert form.signed or weights.min() >= 0
    assert torch.equal(weights[..., outside], torch.zeros_like(weights[..., outside]))


@every(ALL_FORMS)
def test_chosen_rows_are_the_rows_of_the_whole_map(form: Pattern) -> None:
    q, k, _ = draw_inputs(37)
    rows = torch.tensor([36, 0, 7, 7])
    torch.testing.assert_close(form.weights(q, k, rows=rows), form.weights(q, k)[:, :, rows])
    assert torch.equal(form.support(37, rows), form.support(37)[rows])


@every([form for form in ALL_FORMS if form.causal])
def test_the_future_changes_nothing(form: Pattern) -> None:
    past, future = draw_inputs(41), draw_inputs(41, seed=1)
    for cut in (1, 16, 29):
        mixed = [
            torch.cat([a[:, :, :cut], b[:, :, cut:]], dim=2)
            for a, b in zip(past, future, strict=True)
        ]
        torch.testing.assert_close(form.attend(*mixed)[:, :, :cut], form.attend(*past)[:, :, :cut])


@every([form for form in ALL_FORMS if form.causal and form.prefix_consistent])
def test_a_prefix_of_the_input_gives_that_prefix_of_the_output(form: Pattern) -> None:
    inputs = draw_inputs(41)
    whole = form.attend(*inputs)
    for cut in (1, 15, 16, 30):
        prefix = form.resolve(41).attend(*(x[:, :, :cut] for x in inputs))
        torch.testing.assert_close(prefix, whole[:, :, :cut])


@every([form for form in ALL_FORMS if isinstance(form, (MaskPattern, CombinerPattern))])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 37, 64, 67])
def test_the_cost_model_counts_every_score(form: Pattern, length: int) -> None:
    shape = Shape(batch=3, heads=4, kv_heads=2, length=length, dim=8, element_bytes=2)
    attended, building, summaries = _count(form.resolve(length), length)
    cost = form.cost(shape)
    assert cost.attended_pairs == 12 * attended
    assert cost.building_pairs == 12 * building
    assert cost.bytes == 16 * (2 * 12 * length + 2 * 6 * length + 2 * 12 * summaries)


def _count(form: Pattern, length: int) -> tuple[int, int, int]:
    if not isinstance(form, CombinerPattern):
        return int(form.support(length).sum()), 0, 0
    attended = building = summaries = 0
    for index, plan in enumerate(form.partitions(torch.arange(length), length)):
        regions = [(row, label) for row, line in enumerate(plan.tolist()) for label in line]
        if index == 0 or not form.joint:
            attended += sum(label == DIRECT for _, label in regions)
        attended += len({pair for pair in regions if pair[1] > DIRECT})
        members = {
            (label, key)
            for line in plan.tolist()
            for key, label in enumerate(line)
            if label > DIRECT
        }
        building += len(members)
        summaries += len({label for label, _ in members})
    return attended, building, summaries


@every([form for form in ALL_FORMS if isinstance(form, CombinerPattern)])
@pytest.mark.parametrize("length", [1, 2, 5, 16, 23, 37])
def test_direct_keys_and_regions_cover_every_visible_key_once(form: Pattern, length: int) -> None:
    assert isinstance(form, CombinerPattern)
    rows = torch.arange(length)
    visible = (rows <= rows[:, None]) | (not form.causal)
    for plan in form.resolve(length).partitions(rows, length):
        assert torch.equal(plan != INVISIBLE, visible)
        members: dict[int, set[tuple[int, ...]]] = {}
        for line in plan:
            for label in line.unique().tolist():
                if label > DIRECT:
                    tokens = tuple((line == label).nonzero().flatten().tolist())
                    members.setdefault(label, set()).add(tokens)
        assert all(len(sets) == 1 for sets in members.values())


@every(ALL_FORMS)
def test_constant_values_come_out_unchanged(form: Pattern) -> None:
    q, k, v = draw_inputs(37)
    constant = torch.full_like(v, 2.5)
    found = form.attend(q, k, constant)
    torch.testing.assert_close(found, torch.full_like(found, 2.5))


@every([form for form in FIRST_FORMS if form.linear_in_values])
def test_the_output_is_linear_in_the_values(form: Pattern) -> None:
    q, k, v = draw_inputs(37)
    other = draw_inputs(37, seed=1).v
    together = form.attend(q, k, 2 * v - 3 * other)
    torch.testing.assert_close(together, 2 * form.attend(q, k, v) - 3 * form.attend(q, k, other))


@every_backend(RUNNABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_good_as_the_plain_map_in_that_precision(
    form: Pattern, backend: str, dtype: torch.dtype
) -> None:
    assert_as_good(form, backend, draw_inputs(70, dtype=dtype))


@every(FIRST_FORMS)
def test_grouped_heads_are_repeated_heads(form: Pattern) -> None:
    q, k, v = draw_inputs(37, heads=6, kv_heads=2)
    repeated = [x.repeat_interleave(3, dim=1) for x in (k, v)]
    torch.testing.assert_close(form.attend(q, k, v), form.attend(q, *repeated))


@every(FIRST_FORMS)
def test_the_scale_multiplies_the_scores(form: Pattern) -> None:
    q, k, v = draw_inputs(37, heads=2, kv_heads=2)
    found = form.attend(q, k, v, scale=0.7)
    torch.testing.assert_close(found, form.weights(q, k, scale=0.7) @ v)


@every([form for form in FIRST_FORMS if not form.quadratic])
def test_the_largest_tensor_grows_slower_than_the_score_matrix(form: Pattern) -> None:
    default = PATTERNS[form.name]()
    sizes = []
    for length in (512, 2048):
        inputs = draw_inputs(length, heads=1, dtype=torch.float32)
        with LargestTensor() as largest:
            gradients(default.attend(*inputs), inputs)
        sizes.append(largest.elements)
    assert sizes[1] < 12 * sizes[0]  # L^1.5 gives 8, the score matrix 16


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and 0 not in x.stride():
                self.elements = max(self.elements, x.numel())
        return result


@every(ALL_FORMS)
def test_a_pattern_is_spelled_the_way_it_is_read(form: Pattern) -> None:
    assert pattern(form.spec) == form
    resolved = form.resolve(100)
    assert resolved.resolve(100) == resolved
    assert pattern(resolved.spec) == resolved


@every(FIRST_FORMS)
def test_a_pattern_says_where_it_comes_from(form: Pattern) -> None:
    assert form.paper.title
    assert form.paper.link.startswith("https://")
    assert form.name == form.spec.partition("[")[0]
    assert (type(form).__doc__ or "").strip()


@every(FIRST_FORMS)
def test_malformed_inputs_are_refused_in_one_sentence(form: Pattern) -> None:
    q, k, v = draw_inputs(8, heads=4, kv_heads=2)
    broken = [
        (q[0], k, v),
        (q, k[:, :, :4], v),
        (q, k, v[..., :3]),
        (q.float(), k, v),
        (q[:, :3], k, v),
        (q[:, :, :0], k[:, :, :0], v[:, :, :0]),
        (q.long(), k.long(), v.long()),
    ]
    for arguments in broken:
        with pytest.raises(BadInput, match=r"q, k, v must|query heads must"):
            form.attend(*arguments)
    with pytest.raises(BadInput, match="has no backend 'nothing'"):
        form.attend(q, k, v, backend="nothing")
    with pytest.raises(BadInput, match="rows must"):
        form.weights(q, k, rows=torch.tensor([8]))
    with pytest.raises(BadInput, match="scale must"):
        form.attend(q, k, v, scale=0.0)


def test_what_cannot_run_says_what_would_work() -> None:
    inputs = draw_inputs(8)
    with pytest.raises(Unsupported, match="exists on CUDA only; use backend sdpa"):
        pattern("full").attend(*inputs, backend="sdpa:cudnn")


@pytest.mark.gpu
@every_backend([(form, backend) for form in ALL_FORMS for backend in form.backends])
def test_cuda_is_as_good_as_the_plain_map_in_that_precision(form: Pattern, backend: str) -> None:
    for dtype, length, dim in (
        (torch.bfloat16, 67, 32),
        (torch.bfloat16, 300, 64),
        (torch.float16, 300, 64),
        (torch.float32, 1, 64),
        (torch.float32, 300, 40),
    ):
        low = draw_inputs(length, dim=dim, dtype=dtype, device="cuda", contiguous=length != 67)
        if form._refusal(backend, low.q) is None:
            assert_as_good(form, backend, low)
        else:
            with pytest.raises(Unsupported):
                form.attend(*low, backend=backend)
