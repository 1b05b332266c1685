"""What is true of Combiners: where they are full attention, and what a region stands for."""

import math
from collections.abc import Iterator

import pytest
import torch
from contract import Inputs, draw_inputs, gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patterns import pattern
from patterns.combiner.base import DIRECT, INVISIBLE, CombinerPattern
from patterns.combiner.scan import Lines, summarise_others, summarise_prefixes
from patterns.combiner.summary import Summary, summarise

POOLED = ("max", "mean", "mean+size", "variational")
TOLD = ("none", "wsum", "variational")
FAMILY = {  # the name, the parameter for the size of regions, other fields, the summaries
    "combiner-fixed": ("block", "", POOLED),
    "combiner-logsparse": ("block", "", POOLED),
    "combiner-axial-vertical": ("columns", "", POOLED),
    "combiner-axial-horizontal": ("columns", "regions=one,", POOLED),
    "combiner-axial-horizontal split": ("columns", "regions=split,", POOLED),
    "combiner-axial-rowmajor": ("columns", "", TOLD),
    "combiner-mixture": ("columns", "form=average,", POOLED),
    "combiner-mixture joint": ("columns", "form=joint,", POOLED),
}
ONE_PLAN = tuple(name for name in FAMILY if "mixture" not in name)
ALIKE = tuple(name for name in ONE_PLAN if "rowmajor" not in name)  # no token tells a region alone
GRID = tuple(name for name, (size, *_) in FAMILY.items() if size == "columns")
EXACT_MASS = ("mean+size", "variational")


def combiner(
    name: str, size: int, summary: str, *, causal: bool = True, **more: int
) -> CombinerPattern:
    parameter, extra, _ = FAMILY[name]
    rest = "".join(f",{field}={value}" for field, value in more.items())
    fields = f"{parameter}={size},{extra}summary={summary},causal={causal}{rest}"
    built = pattern(f"{name.partition(' ')[0]}[{fields}]")
    assert isinstance(built, CombinerPattern)
    return built


def over(
    names: tuple[str, ...] = tuple(FAMILY),
    summaries: tuple[str, ...] = POOLED + TOLD,
    ways: tuple[bool, ...] = (True, False),
) -> pytest.MarkDecorator:
    """Every one of these Combiners with these summaries, causal and not."""
    cases = [
        (name, summary, causal)
        for name in names
        for summary in FAMILY[name][2]
        if summary in summaries
        for causal in ways
    ]
    words = {True: "causal", False: "both ways"}
    ids = [f"{name} {summary} {words[causal]}" for name, summary, causal in cases]
    return pytest.mark.parametrize(("name", "summary", "causal"), cases, ids=ids)


def full_map(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1) > 0, -math.inf)
    return scores.softmax(dim=-1)


def data(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = draw_inputs(length, seed=seed, heads=2, kv_heads=2, dim=4)
    return q.detach(), k.detach(), v.detach()


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=0, atol=1e-12 * max(1.0, float(wanted.abs().max())))


def is_full(form: CombinerPattern, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the map is the full one; the fast form has to agree."""
    wanted = full_map(q, k, form.causal)
    same = close(form.weights(q, k), wanted)
    assert close(form.attend(q, k, v), wanted @ v) == same
    return same


def regions(form: CombinerPattern, length: int) -> Iterator[tuple[int, int, list[int]]]:
    """(query, number, tokens) of every region that every query uses, over all plans."""
    resolved = form.resolve(length)
    for plan in resolved.partitions(torch.arange(length), length):
        for query, line in enumerate(plan):
            for number in line.unique().tolist():
                if number > DIRECT:
                    yield query, number, (line == number).nonzero().flatten().tolist()


def equal_in_regions(form: CombinerPattern, keys: Tensor) -> Tensor:
    """Give tokens that some region joins the key of the first of them."""
    leader = list(range(keys.shape[2]))
    changed = True
    while changed:
        changed = False
        for _, _, tokens in regions(form, keys.shape[2]):
            first = min(leader[token] for token in tokens)
            for token in tokens:
                changed |= leader[token] != first
                leader[token] = first
    return keys[:, :, leader]


# Where a Combiner is full attention.


@over()
def test_without_regions_it_is_full_attention(name: str, summary: str, causal: bool) -> None:
    for size in (7, 50):
        assert is_full(combiner(name, size, summary, causal=causal), *data(7))


@over(tuple(name for name in FAMILY if "logsparse" not in name))
def test_regions_of_one_token_change_nothing(name: str, summary: str, causal: bool) -> None:
    assert is_full(combiner(name, 1, summary, causal=causal), *data(9))


@over(("combiner-axial-vertical",))
def test_vertical_is_full_attention_on_two_rows(name: str, summary: str, causal: bool) -> None:
    assert is_full(combiner(name, 5, summary, causal=causal), *data(10))
    assert not is_full(combiner(name, 5, "max", causal=causal), *data(15))


@over(("combiner-axial-horizontal", "combiner-axial-horizontal split"))
def test_horizontal_is_full_attention_on_two_columns(name: str, summary: str, causal: bool) -> None:
    assert is_full(combiner(name, 2, summary, causal=causal), *data(9))
    assert not is_full(combiner(name, 3, "max", causal=causal), *data(9))


@over(("combiner-mixture", "combiner-mixture joint"))
def test_only_the_averaged_mixture_is_full_attention_on_two_rows_and_columns(
    name: str, summary: str, causal: bool
) -> None:
    # In one softmax the token off both axes counts twice, unless its two regions share its mass.
    exact = "joint" not in name or summary == "variational"
    assert is_full(combiner(name, 2, summary, causal=causal), *data(4)) == exact


@over(("combiner-logsparse",))
def test_logsparse_is_full_attention_up_to_two_tokens(
    name: str, summary: str, causal: bool
) -> None:
    assert is_full(combiner(name, 1, summary, causal=causal), *data(1))
    assert is_full(combiner(name, 1, summary, causal=causal), *data(2))
    assert not is_full(combiner(name, 1, summary, causal=causal), *data(3))


@over(summaries=EXACT_MASS)
def test_summaries_with_a_size_are_exact_where_a_region_has_one_key(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal, sink=2)
    q, k, v = data(17)
    counted_twice = "joint" in name and summary == "mean+size"
    assert is_full(form, q, equal_in_regions(form, k), v) != counted_twice


@over(ONE_PLAN, ("max", "mean", "none", "wsum"))
def test_other_summaries_divide_by_the_size_where_a_region_has_one_key(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal)
    q, k, _ = data(17)
    k = equal_in_regions(form, k)
    size = torch.ones(17, 17, dtype=torch.float64)
    for query, _, tokens in regions(form, 17):
        size[query, tokens] = len(tokens)
    wanted = full_map(q, k, causal) / size
    assert close(form.weights(q, k), wanted / wanted.sum(dim=-1, keepdim=True))


@over(summaries=EXACT_MASS)
def test_summaries_with_a_size_are_uniform_where_no_query_asks(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal)
    q, k, v = data(17)
    counted_twice = "joint" in name and summary == "mean+size"
    assert is_full(form, torch.zeros_like(q), k, v) != counted_twice


@over(ONE_PLAN, ("max", "mean", "none", "wsum"))
def test_other_summaries_count_as_one_key_where_no_query_asks(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal)
    q, k, _ = data(17)
    (labels,) = form.partitions(torch.arange(17), 17)
    wanted = (labels == DIRECT).double()
    for query, _, tokens in regions(form, 17):
        wanted[query, tokens] = 1 / len(tokens)
    wanted /= wanted.sum(dim=-1, keepdim=True)
    assert close(form.weights(torch.zeros_like(q), k), wanted.expand(2, 2, -1, -1))


@over()
def test_only_variational_summaries_are_exact_where_all_queries_are_equal(
    name: str, summary: str, causal: bool
) -> None:
    q, k, v = data(17)
    q = q[:, :, :1].expand_as(q)
    form = combiner(name, 3, summary, causal=causal)
    assert is_full(form, q, k, v) == (summary == "variational")


@over(ONE_PLAN)
def test_within_a_region_the_weights_are_exact_where_all_queries_are_equal(
    name: str, summary: str, causal: bool
) -> None:
    q, k, _ = data(17)
    q = q[:, :, :1].expand_as(q)
    form = combiner(name, 3, summary, causal=causal)
    found, wanted = form.weights(q, k), full_map(q, k, causal)
    for query, _, tokens in regions(form, 17):
        parts = [x[:, :, query, tokens] for x in (found, wanted)]
        assert close(*(part / part.sum(dim=-1, keepdim=True) for part in parts))


@over(("combiner-fixed", "combiner-logsparse", *GRID), ("max", "none"))
def test_exact_masses_and_weights_make_any_partition_full_attention(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal, sink=2, near=1)
    q, k, v = data(23)
    v = equal_in_regions(form, v)
    scores, wanted = q @ k.mT / 2, full_map(q, k, causal)
    for plan in form.partitions(torch.arange(23), 23):
        found, even = torch.zeros_like(scores), torch.zeros_like(scores)
        for query, line in enumerate(plan):
            groups = [[j] for j in (line == DIRECT).nonzero().flatten().tolist()]
            numbers = line[line > DIRECT].unique().tolist()
            groups += [(line == number).nonzero().flatten().tolist() for number in numbers]
            mass = torch.stack([scores[:, :, query, g].logsumexp(-1) for g in groups], dim=-1)
            for share, group in zip(mass.softmax(-1).unbind(-1), groups, strict=True):
                local = scores[:, :, query, group].softmax(-1)
                found[:, :, query, group] = share[..., None] * local
                even[:, :, query, group] = share[..., None] / len(group)
        assert close(found, wanted)
        assert close(even @ v, wanted @ v)  # where values are equal, masses are enough


# What a region stands for.


def by_hand(form: CombinerPattern, inputs: Inputs, plan: Tensor, query: int) -> Tensor:
    """One output row as attention over direct keys and summaries, told token by token."""
    q, k, v = inputs
    c, keys, values, biases = q.shape[-1] ** -0.5, [], [], []
    for number in plan[query].unique().tolist():
        tokens = (plan[query] == number).nonzero().flatten().tolist()
        if number == DIRECT:
            keys += [k[:, :, j] for j in tokens]
            values += [v[:, :, j] for j in tokens]
            biases += [torch.zeros_like(k[:, :, 0, 0])] * len(tokens)
        elif number > DIRECT:
            asked, own = _asked(form, q, k, query, tokens)
            local = (c * (k[:, :, tokens] @ asked[..., None])).softmax(dim=-2)
            entropy = -(local * local.log()).sum(dim=(-2, -1))
            weighed = (local * k[:, :, tokens]).sum(dim=-2)
            keys.append(weighed if form.summary in ("wsum", "variational") else own)
            values.append((local * v[:, :, tokens]).sum(dim=-2))
            size = math.log(len(tokens)) * torch.ones_like(entropy)
            twice = math.log(2) * ("joint" in form.spec)
            bias = {"mean+size": size, "variational": entropy - twice}
            biases.append(bias.get(form.summary, torch.zeros_like(entropy)))
    key, value = torch.stack(keys, dim=-2), torch.stack(values, dim=-2)
    scores = c * (key @ q[:, :, query, :, None])[..., 0] + torch.stack(biases, dim=-1)
    return (scores.softmax(dim=-1)[..., None] * value).sum(dim=-2)


def _asked(
    form: CombinerPattern, q: Tensor, k: Tensor, query: int, tokens: list[int]
) -> tuple[Tensor, Tensor]:
    """The region query, and the region key where it is not a weighted sum."""
    if "rowmajor" in form.name:
        column = query % form.columns  # type: ignore[attr-defined]
        teller = min(tokens, key=lambda j: abs(j % form.columns - column))  # type: ignore[attr-defined]
        return q[:, :, teller], k[:, :, teller]
    if form.summary == "max":
        return q[:, :, tokens].amax(dim=2), k[:, :, tokens].amax(dim=2)
    return q[:, :, tokens].mean(dim=2), k[:, :, tokens].mean(dim=2)


@over(ONE_PLAN)
def test_it_is_attention_over_direct_keys_and_summaries(
    name: str, summary: str, causal: bool
) -> None:
    inputs = Inputs(*data(23))
    for more in ({}, {"sink": 4}, {"near": 1, "sink": 1}):
        form = combiner(name, 3, summary, causal=causal, **more)
        (plan,) = form.partitions(torch.arange(23), 23)
        wanted = torch.stack([by_hand(form, inputs, plan, i) for i in range(23)], dim=2)
        assert close(form.weights(*inputs[:2]) @ inputs.v, wanted)
        assert close(form.attend(*inputs), wanted)


@over(("combiner-mixture",))
def test_the_averaged_mixture_is_the_mean_of_two_attentions(
    name: str, summary: str, causal: bool
) -> None:
    inputs = data(23)
    plans = ("combiner-axial-vertical", "combiner-axial-horizontal split")
    found = combiner(name, 4, summary, causal=causal).attend(*inputs)
    parts = [combiner(plan, 4, summary, causal=causal).attend(*inputs) for plan in plans]
    assert close(found, (parts[0] + parts[1]) / 2)


@over(("combiner-mixture joint",))
def test_the_joint_mixture_tells_direct_keys_once_and_others_twice(
    name: str, summary: str, causal: bool
) -> None:
    q, k, v = data(23)
    form = combiner(name, 4, summary, causal=causal)
    vertical, horizontal = form.partitions(torch.arange(23), 23)
    assert torch.equal(vertical == DIRECT, horizontal == DIRECT)
    assert torch.equal(vertical == INVISIBLE, horizontal == INVISIBLE)
    # One softmax over both plans, minus what the second would say of direct keys again.
    both = torch.where(horizontal > DIRECT, horizontal + 10_000, INVISIBLE)
    twice = torch.cat([vertical, both], dim=1)
    q2, k2, v2 = (torch.cat([x, x], dim=2) for x in (q, k, v))
    wanted = [by_hand(form, Inputs(q2, k2, v2), twice, query) for query in range(23)]
    assert close(form.attend(q, k, v), torch.stack(wanted, dim=2))


@over(ONE_PLAN)
def test_direct_keys_keep_their_ratios(name: str, summary: str, causal: bool) -> None:
    form = combiner(name, 3, summary, causal=causal)
    q, k, _ = data(17)
    (labels,) = form.partitions(torch.arange(17), 17)
    parts = [x * (labels == DIRECT) for x in (form.weights(q, k), full_map(q, k, causal))]
    assert close(*(part / part.sum(dim=-1, keepdim=True) for part in parts))


@over(ONE_PLAN)
def test_queries_that_share_a_region_have_proportional_weights_there(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 3, summary, causal=causal)
    q, k, _ = data(17)
    weights = form.weights(q, k)
    readers: dict[int, list[int]] = {}
    tokens_of = {}
    for query, number, tokens in regions(form, 17):
        readers.setdefault(number, []).append(query)
        tokens_of[number] = tokens
    for number, queries in readers.items():
        block = weights[:, :, queries][..., tokens_of[number]]
        assert (torch.linalg.svdvals(block)[..., 1:] < 1e-14).all()


@over(ALIKE)
def test_the_order_within_a_region_is_not_seen(name: str, summary: str, causal: bool) -> None:
    form = combiner(name, 3, summary, causal=causal)
    inputs = data(17)
    out = form.attend(*inputs)
    for query, _, tokens in regions(form, 17):
        order = torch.arange(17)
        order[tokens] = order[tokens].flip(0)
        assert close(form.attend(*(x[:, :, order] for x in inputs))[:, :, query], out[:, :, query])


@over(("combiner-fixed",), ways=(False,))
def test_whole_blocks_may_change_places_both_ways(name: str, summary: str, causal: bool) -> None:
    form = combiner(name, 4, summary, causal=causal)
    inputs = data(16)
    order = torch.arange(16).view(4, 4)[[2, 0, 3, 1]].flatten()
    moved = form.attend(*(x[:, :, order] for x in inputs))
    assert close(moved, form.attend(*inputs)[:, :, order])


@over(ways=(False,))
def test_both_ways_the_end_is_treated_as_the_start(name: str, summary: str, causal: bool) -> None:
    form = combiner(name, 4, summary, causal=causal)
    for length in (16, 40) + ((13, 19) if "logsparse" in name else ()):
        inputs = data(length)
        turned = form.attend(*(x.flip(2) for x in inputs)).flip(2)
        assert close(turned, form.attend(*inputs))


@over(ways=(True,))
def test_a_later_token_has_no_gradient_and_a_prefix_is_enough(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 4, summary, causal=causal, near=1, sink=2)
    inputs = draw_inputs(27)
    out = form.attend(*inputs)
    for cut in (1, 6, 12, 21):
        prefix = form.attend(*(x.detach()[:, :, :cut] for x in inputs))
        assert close(prefix, out.detach()[:, :, :cut])
    for gradient in gradients(out[:, :, :13], inputs):
        assert not gradient[:, :, 13:].any()


@over()
def test_a_shift_of_all_keys_is_not_seen_and_one_of_all_values_passes_through(
    name: str, summary: str, causal: bool
) -> None:
    form = combiner(name, 4, summary, causal=causal, near=1, sink=2)
    q, k, v = data(27)
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    out = form.attend(q, k, v)
    assert close(form.attend(q, k + shift, v), out)
    assert close(form.attend(q, k, v + shift), out + shift)


# The partitions.


@pytest.mark.parametrize("causal", [True, False])
def test_rowmajor_has_the_token_sets_of_fixed_told_otherwise(causal: bool) -> None:
    fixed = combiner("combiner-fixed", 4, "max", causal=causal, near=1, sink=3)
    rowmajor = combiner("combiner-axial-rowmajor", 4, "none", causal=causal, near=1, sink=3)
    sets = [
        sorted((query, tokens) for query, _, tokens in regions(form, 23))
        for form in (fixed, rowmajor)
    ]
    assert sets[0] == sets[1]
    q, k, _ = data(23)
    assert not close(fixed.weights(q, k), rowmajor.weights(q, k))


def test_logsparse_follows_the_bits_of_a_position() -> None:
    form = combiner("combiner-logsparse", 1, "max")
    for query, line in enumerate(form.partitions(torch.arange(70), 70)[0].tolist()):
        direct = [key for key, label in enumerate(line) if label == DIRECT]
        assert direct == ([query - 1, query] if query % 2 else [query])
        assert len(set(line) - {DIRECT, INVISIBLE}) == (query >> 1).bit_count()


@pytest.mark.parametrize("levels", [1, 2, 3, 6])
def test_logsparse_both_ways_sees_the_sibling_of_every_level(levels: int) -> None:
    length = 2**levels
    form = combiner("combiner-logsparse", 1, "max", causal=False)
    for query, line in enumerate(form.partitions(torch.arange(length), length)[0].tolist()):
        sets: dict[int, list[int]] = {}
        for key, label in enumerate(line):
            sets.setdefault(label, []).append(key)
        assert sets.pop(DIRECT) == sorted([query, query ^ 1])
        siblings = [((query >> n) ^ 1) << n for n in range(1, levels)]
        wanted = [list(range(start, start + 2**n)) for n, start in enumerate(siblings, start=1)]
        assert sorted(sets.values()) == sorted(wanted)


@over(summaries=("max", "none"))
def test_sinks_and_neighbours_are_direct_and_in_no_region(
    name: str, summary: str, causal: bool
) -> None:
    rows = torch.arange(45)
    for sink, near in ((0, 1), (3, 0), (9, 2), (50, 0)):
        plain = combiner(name, 4, summary, causal=causal, near=near).partitions(rows, 45)
        found = combiner(name, 4, summary, causal=causal, near=near, sink=sink)
        for before, plan in zip(plain, found.partitions(rows, 45), strict=True):
            assert torch.equal(plan == INVISIBLE, before == INVISIBLE)
            assert (plan[:, :sink] < 0).all()
            kept, whole = plan[:, sink:], before[:, sink:]
            assert torch.equal(kept == DIRECT, whole == DIRECT)
            together = [x[:, :, None] == x[:, None] for x in (kept, whole)]
            assert torch.equal(*together)
            away = (rows[:, None] // 4 - rows // 4).abs()
            if "logsparse" in name and not causal:
                away = torch.where(rows > rows[:, None], away.flip(0, 1), away)
            assert (plan[away <= near] < 0).all()


# Summaries.


def in_one_region(summary: str, q: Tensor, k: Tensor, v: Tensor) -> Summary:
    """The tokens [B, H, G, D] as one region each: key [B * H, 1, D]."""
    q, k, v = (x.flatten(0, 1)[:, None] for x in (q, k, v))
    return summarise(q, k, v, None, summary, q.shape[-1] ** -0.5)  # type: ignore[arg-type]


@settings(max_examples=50)
@given(
    size=st.integers(1, 20),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_a_variational_summary_is_the_tangent_plane_of_the_log_sum_exp(
    size: int, seed: int, spread: float
) -> None:
    q, k, v = (spread * x for x in data(size, seed))
    found = in_one_region("variational", q, k, v)
    assert found.bias is not None
    readers = torch.cat([spread * data(30, seed + 1)[0], q.mean(dim=2, keepdim=True)], dim=2)
    readers, keys = readers.flatten(0, 1), k.flatten(0, 1)
    scores = readers @ keys.mT / 2
    gap = scores.logsumexp(dim=-1) - (readers @ found.key.mT / 2)[..., 0] - found.bias
    local = (q.mean(dim=2).flatten(0, 1)[:, None] @ keys.mT / 2).log_softmax(dim=-1)
    divergence = (local.exp() * (local - scores.log_softmax(dim=-1))).sum(dim=-1)
    slack = 1e-12 * (1 + float(scores.abs().max()))
    assert (gap > -slack).all()
    torch.testing.assert_close(gap, divergence, rtol=0, atol=slack)
    assert (gap[:, -1].abs() < slack).all()


@pytest.mark.parametrize("summary", POOLED)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("members", ["all", "some"])
def test_running_summaries_are_those_of_each_region_alone(
    summary: str, backend: str, members: str
) -> None:
    q, k, v = (x.flatten(0, 1).unflatten(1, (3, 7)) for x in data(21))
    member = torch.ones(3, 7, dtype=torch.bool)
    if members == "some":
        member[0, :3] = member[1, 5:] = member[2] = False
        member[2, 4] = True
    lines = Lines(q, k, v, None if members == "all" else member)
    places = torch.arange(7)
    asked = {
        "up to": (summarise_prefixes(lines, summary, 0.5, backend), places <= places[:, None]),
        "from": (
            summarise_prefixes(lines, summary, 0.5, backend, backwards=True),
            places >= places[:, None],
        ),
        "without": (summarise_others(lines, summary, 0.5, backend), places != places[:, None]),
    }
    for (found, exists), sets in asked.values():
        for line in range(3):
            for token in range(7):
                tokens = sets[token] & member[line]
                assert (exists is None or bool(exists[line, token])) == bool(tokens.any())
                if not tokens.any():
                    continue
                cut = [x[:, line, tokens][:, None] for x in (q, k, v)]
                wanted = in_one_region(summary, *cut)
                assert close(found.key[:, line, token], wanted.key[:, 0])
                assert close(found.value[:, line, token], wanted.value[:, 0])
                if wanted.bias is not None:
                    assert found.bias is not None
                    assert close(found.bias[:, line, token], wanted.bias[:, 0])


@over(tuple(name for name in FAMILY if "rowmajor" not in name), ("max",))
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_the_first_of_equals_is_the_largest(
    name: str, summary: str, causal: bool, backend: str
) -> None:
    form = combiner(name, 4, summary, causal=causal)
    inputs = Inputs(*((x.detach() * 0.7).round().requires_grad_() for x in draw_inputs(37)))
    found, wanted = form.attend(*inputs, backend=backend), form.weights(*inputs[:2]) @ inputs.v
    for got, want in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        assert close(got, want)


def test_the_gradient_of_a_largest_key_goes_to_the_first_of_equals() -> None:
    # Direct: the query, one of two equal keys that a region joins. Only the region key is read.
    form = combiner("combiner-fixed", 3, "max")
    for attend in (form.attend, lambda q, k, v: form.weights(q, k) @ v):
        q = torch.zeros(1, 1, 4, 1, dtype=torch.float64)
        q[:, :, 3] = 1.0
        k = torch.tensor([0.0, 2.0, 2.0, 1.0], dtype=torch.float64).view(1, 1, 4, 1)
        v = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 4, 1)
        k.requires_grad_()
        (gradient,) = torch.autograd.grad(attend(q, k, v)[0, 0, 3, 0], k)
        assert gradient[0, 0, 1] < 0
        assert not gradient[0, 0, [0, 2]].any()
