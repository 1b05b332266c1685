"""Sparse patterns: the index sets of their papers, what top-k chooses, and what they hold."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from patterns import BadInput, Shape, pattern, recompute
from patterns.sparse.groups import group_rows


def qkv(length: int, *, heads: int = 2, dim: int = 8, dtype: torch.dtype = torch.float64) -> list:
    return [torch.randn(1, heads, length, dim, dtype=dtype).requires_grad_() for _ in range(3)]


def keys_of(spec: str, length: int, row: int) -> list[int]:
    return pattern(spec).support(length, torch.tensor([row]))[0].nonzero().flatten().tolist()


def both(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output and its gradients for the same upstream gradient every time."""
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad(out, inputs, upstream)]


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor) and 0 not in x.stride():
                self.elements = max(self.elements, x.numel())
        return result


@pytest.mark.parametrize(
    ("spec", "length", "row", "keys"),
    [
        ("sinks[window=3,sink=2]", 12, 8, [0, 1, 6, 7, 8]),
        ("sinks[window=3,sink=2,causal=false]", 12, 8, [0, 1, 6, 7, 8, 9, 10]),
        ("sinks[window=2,sink=5,causal=false]", 12, 1, [0, 1, 2, 3, 4]),
        ("strided[stride=3]", 12, 11, [2, 5, 8, 9, 10, 11]),
        ("strided[stride=3,causal=false]", 12, 5, [2, 3, 4, 5, 6, 7, 8, 11]),
        ("fixed[block=4]", 12, 9, [3, 7, 8, 9]),
        ("fixed[block=4,tail=2]", 12, 9, [2, 3, 6, 7, 8, 9]),
        ("fixed[block=4,tail=2,causal=false]", 11, 5, [2, 3, 4, 5, 6, 7, 9, 10]),
        ("fixed[block=4,tail=2,causal=false]", 9, 5, [2, 3, 4, 5, 6, 7, 8]),
        ("logsparse", 12, 8, [0, 4, 6, 7, 8]),
        ("logsparse", 12, 9, [1, 5, 7, 8, 9]),
        ("logsparse[keys=suffix]", 12, 5, [3, 4, 5]),  # in the paper's counting: 6 sees 4, 5, 6
        ("logsparse[keys=suffix]", 12, 11, [7, 9, 10, 11]),
        ("logsparse[keys=suffix]", 12, 8, [7, 8]),
        ("axial[columns=3]", 12, 7, [1, 4, 6, 7]),
        ("axial[columns=3,causal=false]", 11, 7, [1, 4, 6, 7, 8, 10]),
        ("axial[columns=3,causal=false]", 11, 8, [2, 5, 6, 7, 8]),
    ],
)
def test_a_query_sees_the_keys_that_the_paper_names(
    spec: str, length: int, row: int, keys: list[int]
):
    assert keys_of(spec, length, row) == keys


@pytest.mark.parametrize(
    "field", ["strided[stride=3", "logsparse[keys=powers", "logsparse[keys=suffix"]
)
@pytest.mark.parametrize("length", [1, 2, 13, 32, 37])
def test_bidirectional_is_the_causal_set_and_its_mirror_image(field: str, length: int):
    past, whole = (pattern(f"{field},causal={c}]").support(length) for c in ("true", "false"))
    assert torch.equal(whole, past | past.flip(0, 1))


def test_logsparse_suffix_is_the_end_of_each_block_in_the_binary_cut_of_the_past():
    for row in range(70):
        ends, start = {row}, 0
        for bit in reversed(range(7)):
            if row >> bit & 1:
                start += 1 << bit
                ends.add(start - 1)
        assert keys_of("logsparse[keys=suffix]", 70, row) == sorted(ends)


def test_axial_counts_the_token_itself_once():
    q, k, _ = qkv(12)
    weights = pattern("axial[columns=3,causal=false]").weights(torch.zeros_like(q), k)
    seen = weights[0, 0] > 0
    torch.testing.assert_close(weights[0, 0][seen], torch.full((12 * 6,), 1 / 6).double())
    v = torch.eye(12, dtype=torch.float64).expand(1, 2, 12, 12)
    zeros = torch.zeros(1, 2, 12, 12, dtype=torch.float64)
    found = pattern("axial[columns=3,causal=false]").attend(zeros, zeros, v)
    torch.testing.assert_close(found, weights)


def test_a_tail_is_part_of_its_block():
    with pytest.raises(BadInput, match=r"block=4,tail=5.*at most 4"):
        pattern("fixed[block=4,tail=5]")
    assert pattern("fixed[tail=6]").resolve(16).block == 6
    assert pattern("fixed[tail=6]").resolve(4096).block == 64


@pytest.mark.parametrize(
    "spec",
    [
        "sinks[window=0]",
        "sinks[sink=-1]",
        "strided[stride=0]",
        "fixed[tail=0]",
        "axial[columns=0]",
        "oracle-topk[top=0]",
        "block-topk[top=0]",
        "block-topk[block=0]",
    ],
)
def test_parameters_without_meaning_are_refused(spec: str):
    with pytest.raises(BadInput):
        pattern(spec)


def test_fused_kernels_refuse_powers_and_say_what_would_work():
    q, k, v = qkv(8)
    assert pattern("logsparse").implementation(q, k, v).backend == "eager"
    assert pattern("logsparse[keys=suffix]").implementation(q, k, v).backend == "sdpa"


# Top-k.


@pytest.mark.parametrize("causal", ["true", "false"])
def test_the_oracle_keeps_the_most_mass_that_so_many_keys_can_have(causal: str):
    q, k, _ = qkv(40)
    kept = pattern(f"oracle-topk[top=5,causal={causal}]").weights(q, k) > 0
    full = pattern(f"full[causal={causal}]").weights(q, k)
    torch.testing.assert_close((full * kept).sum(-1), full.topk(5).values.sum(-1))
    assert kept.sum(-1).max() == 5


def test_of_equal_scores_the_earliest_keys_win():
    q, k, v = (x.detach() for x in qkv(12))
    k[:, :, 1::2] = k[:, :, :1]  # keys 0, 1, 3, 5, ... are one and the same
    q = k[:, :, :1].expand(q.shape) * 9  # and answer every query best
    form = pattern("oracle-topk[top=3,causal=false]")
    for row in form.weights(q, k)[0, 0]:
        assert row.nonzero().flatten().tolist() == [0, 1, 3]
    torch.testing.assert_close(form.attend(q, k, v), v[:, :, [0, 1, 3]].mean(2, True).expand_as(v))


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_the_blocks_chosen_are_those_with_the_best_mean_key(backend: str):
    length, block = 32, 4
    q, k, v = (torch.zeros(1, 1, length, 8, dtype=torch.float64) for _ in range(3))
    for number in range(8):  # block b answers coordinate b
        k[:, :, number * block : (number + 1) * block, number] = 1.0
    q[:, :, 29, 2], q[:, :, 29, 5], q[:, :, 29, 4] = 3.0, 2.0, 1.0
    q[:, :, 30, 6] = 1.0  # all others are equal: the first one wins
    v[..., 0] = torch.arange(length)
    form = pattern(f"block-topk[block={block},top=2]")
    weights = form.weights(q, k)[0, 0]
    blocks = [(row.nonzero().flatten() // block).unique().tolist() for row in weights]
    assert (blocks[29], blocks[30]) == ([2, 5, 7], [0, 6, 7])
    assert blocks[5] == [0, 1]
    assert blocks[2] == [0]
    torch.testing.assert_close(form.attend(q, k, v, backend=backend)[0, 0], weights @ v[0, 0])


def test_bidirectional_queries_see_a_short_last_block_beside_their_choices():
    q, k, _ = qkv(18)
    weights = pattern("block-topk[block=4,top=1,causal=false]").weights(q, k)
    seen = (weights > 0).unflatten(-1, (9, 2)).any(-1)[..., [0, 2, 4, 6, 8]]
    assert seen[..., 4].all()
    assert (seen.sum(-1) == torch.tensor([3] * 16 + [2] * 2)).all()


@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize("length", [5, 16, 19])
@pytest.mark.parametrize("spec", ["oracle-topk[top=99", "block-topk[block=4,top=99"])
def test_choosing_everything_is_full_attention(spec: str, length: int, causal: str):
    inputs = qkv(length)
    form, full = pattern(f"{spec},causal={causal}]"), pattern(f"full[causal={causal}]")
    found, wanted = both(form.attend(*inputs), inputs), both(full.attend(*inputs), inputs)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize("spec", ["oracle-topk[top=3", "block-topk[block=3,top=2"])
def test_slices_change_nothing(spec: str, causal: str, monkeypatch: pytest.MonkeyPatch):
    inputs, form = qkv(50, heads=3), pattern(f"{spec},causal={causal}]")
    whole = both(form.attend(*inputs), inputs)
    monkeypatch.setattr(recompute, "SLICE_ELEMENTS", 200)
    for got, want in zip(both(form.attend(*inputs), inputs), whole, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize("spec", ["oracle-topk[top=5", "block-topk[block=4,top=3"])
@pytest.mark.parametrize("length", [1, 3, 4, 16, 27])
def test_what_is_scored_is_counted(spec: str, length: int, causal: str):
    form = pattern(f"{spec},causal={causal}]")
    shape = Shape(batch=2, heads=3, kv_heads=1, length=length, dim=8, element_bytes=2)
    cost, (q, k, _) = form.cost(shape), qkv(length)
    assert cost.attended_pairs == 6 * int((form.weights(q, k)[0, 0] > 0).sum())
    if form.name == "oracle-topk":  # it scores what is visible, once
        assert cost.scored_pairs == 6 * int(form.support(length).sum())
    else:
        own = torch.arange(length)[:, None] // 4
        whole = torch.arange(length // 4)
        compared = own > whole if form.causal else own != whole
        assert cost.building_pairs == 6 * int(compared.sum())


def test_groups_bring_equal_labels_together():
    labels = torch.randint(0, 6, (3, 50))
    groups = group_rows(labels, count=5, tile=4)
    for head in range(3):
        for tile, label in zip(groups.rows[head], groups.label[head], strict=True):
            assert all(labels[head, row] == label for row in tile.tolist() if row < 50)
        placed = groups.rows[head][groups.rows[head] < 50].sort().values
        assert torch.equal(placed, (labels[head] < 5).nonzero().flatten())
    x = torch.randn(1, 3, 50, 2)
    back = groups.restore(groups.arrange(x), 1, math.nan)
    assert torch.equal(back.isnan().any(-1)[0], labels == 5)
    assert torch.equal(back[0][labels < 5], x[0][labels < 5])


# What they hold.


@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize(
    ("spec", "per_row"),
    [
        ("logsparse[keys=powers", 21),  # a score a key
        ("logsparse[keys=suffix", 1.5 * (32 + 6)),  # a mask entry a key of the tile
        ("oracle-topk[top=8", 64),
        ("block-topk[block=32,top=4", 8 * 8),
        ("strided[stride=32", 4 * 33),
        ("axial[columns=32", 64),
        ("fixed[block=32", 64),
        ("sinks[window=32", 3 * 32),
        ("uniform[", 16),
    ],
)
def test_no_tensor_grows_with_the_square_of_the_length(
    spec: str, per_row: float, causal: str, monkeypatch: pytest.MonkeyPatch
):
    length = 1024
    inputs = qkv(length, heads=1, dtype=torch.float32)
    monkeypatch.setattr(recompute, "SLICE_ELEMENTS", 64 * length)
    form = pattern(f"{spec},causal={causal}]".replace("[,", "["))
    with Largest() as largest:
        both(form.attend(*inputs), inputs)
    assert largest.elements <= per_row * length + length


def test_the_oracle_keeps_its_inputs_for_the_backward_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(recompute, "SLICE_ELEMENTS", 1 << 14)
    inputs = qkv(256)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.itemsize
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        pattern("oracle-topk").attend(*inputs)
    assert sum(kept.values()) <= sum(x.numel() for x in inputs)


def test_uniform_does_not_stall_in_low_precision():
    v = torch.ones(1, 1, 3000, 2, dtype=torch.bfloat16)
    assert torch.equal(pattern("uniform").attend(v, v, v), v)


def test_uniform_scores_nothing():
    shape = Shape(batch=1, heads=1, kv_heads=1, length=100, dim=8, element_bytes=2)
    assert pattern("uniform").cost(shape).scored_pairs == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("spec", "tokens"),
    [("logsparse[keys=suffix]", slice(4095, 4096)), ("block-topk[block=8,top=1]", slice(0, 8))],
)
def test_a_key_that_many_tiles_read_collects_its_gradient_in_high_precision(
    spec: str, tokens: slice, device: str
):
    length, form = 8192, pattern(spec)
    q, k, v = (torch.zeros(1, 1, length, 4, dtype=torch.bfloat16, device=device) for _ in range(3))
    q[..., 0], k[:, :, tokens, 0] = 1.0, 8.0  # everybody reads these tokens
    exact = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        out = form.attend(*inputs)
        exact.append(torch.autograd.grad(out.sum(), inputs[2])[0][:, :, tokens].double())
    torch.testing.assert_close(exact[0], exact[1], rtol=2**-7, atol=0)
