"""The Combiner layer: its learned summaries, gradients, causality, weights and compilation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import attnbench
from attnbench import CombinerAttention
from attnbench.learned_summary import DeepSets, RowKeys
from patterns import BadInput, Unsupported, pattern
from patterns.combiner.base import CombinerPattern
from patterns.combiner.summary import Told

WIDTH, HEADS, LENGTH = 16, 4, 21
POOLED = (
    "combiner-fixed[block=4]",
    "combiner-fixed[block=4,summary=mean+size,sink=2,near=1]",
    "combiner-fixed[block=4,summary=variational]",
    "combiner-logsparse[block=2,summary=mean]",
    "combiner-axial-vertical[columns=4,summary=max,sink=1]",
    "combiner-axial-horizontal[columns=4,regions=split,summary=mean]",
    "combiner-axial-horizontal[columns=4,summary=variational,near=1]",
    "combiner-mixture[columns=4,form=joint,summary=mean+size]",
    "combiner-mixture[columns=4,summary=max]",
)
ROWS = ("combiner-axial-rowmajor[columns=4]", "combiner-axial-rowmajor[columns=4,sink=6,near=1]")
LEARNING = [(spec, how) for spec in POOLED for how in ("deepsets", "residual")]
LEARNING += [(spec, how) for spec in ROWS for how in ("proj", "wsum_proj")]


def both_ways(pairs: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Each of these patterns, causal and not, with the way its regions learn."""
    cases = [
        (spec if causal else spec.replace("]", ",causal=false]"), how)
        for spec, how in pairs
        for causal in (True, False)
    ]
    return pytest.mark.parametrize(("spec", "learned"), cases, ids=[" ".join(c) for c in cases])


def layer(spec: str, learned: str = "none", **more: object) -> CombinerAttention:
    """In float64, with every learned weight away from where it starts."""
    made = CombinerAttention(WIDTH, HEADS, spec, kv_heads=2, learned=learned, **more).double()
    with torch.no_grad():
        for x in made.parameters():
            x.add_(0.3 * torch.randn_like(x))
    return made


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, WIDTH, dtype=torch.float64)


def dense(made: CombinerAttention, x: Tensor) -> Tensor:
    """The layer by its definition: the map of the pattern, applied."""
    shape = (*x.shape[:2], -1, WIDTH // HEADS)
    q, k, v = (
        part(x).view(shape).transpose(1, 2) for part in (made.q_proj, made.k_proj, made.v_proj)
    )
    told = Told() if made.summary is None else made.summary(x, q, k, v, "eager")
    weights = made.pattern.weights_told(q, k, told)
    out = weights @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return made.o_proj(out.transpose(1, 2).flatten(2))


@both_ways(LEARNING)
def test_the_layer_is_the_map_of_its_pattern_applied_and_so_are_its_gradients(
    spec: str, learned: str
) -> None:
    made, x = layer(spec, learned), tokens().requires_grad_()
    found, wanted = made(x), dense(made, x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = [x, *made.parameters()]
    grad = torch.randn_like(found)
    pairs = zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(wanted, inputs, grad),
        strict=True,
    )
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("spec", "learned"),
    [
        ("combiner-fixed[block=3,summary=mean+size,near=1]", "deepsets"),
        ("combiner-logsparse[block=2,summary=variational]", "residual"),
        ("combiner-axial-vertical[columns=3]", "residual"),
        ("combiner-axial-rowmajor[columns=3,causal=false]", "proj"),
    ],
)
def test_gradients_are_those_of_finite_differences(spec: str, learned: str) -> None:
    made = CombinerAttention(4, 2, spec, kv_heads=1, learned=learned).double()
    with torch.no_grad():
        for x in made.parameters():
            x.copy_(torch.randn_like(x))
    x = torch.randn(1, 8, 4, dtype=torch.float64, requires_grad=True)
    weights = dict(made.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(made, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights.values()))


@both_ways([(spec, "residual") for spec in POOLED])
def test_a_residual_summary_starts_as_the_pooling(spec: str, learned: str) -> None:
    made = CombinerAttention(WIDTH, HEADS, spec, learned=learned).double()
    plain = CombinerAttention(WIDTH, HEADS, spec).double()
    plain.load_state_dict(made.state_dict(), strict=False)
    x = tokens()
    torch.testing.assert_close(made(x), plain(x), rtol=1e-12, atol=1e-12)


@both_ways([(spec, "deepsets") for spec in POOLED])
def test_deepsets_of_the_identity_is_the_pooling_where_nothing_is_negative(
    spec: str, learned: str
) -> None:
    made = CombinerAttention(WIDTH, HEADS, spec, learned=learned).double()
    assert isinstance(made.summary, DeepSets)
    with torch.no_grad():
        for x in (made.q_proj.weight, made.k_proj.weight):
            x.abs_()
        for network in made.summary.children():
            assert isinstance(network, nn.Linear)
            network.weight.copy_(torch.eye(WIDTH // HEADS))
    plain = CombinerAttention(WIDTH, HEADS, spec).double()
    plain.load_state_dict(made.state_dict(), strict=False)
    x = tokens().abs()
    torch.testing.assert_close(made(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 13, 16])
@pytest.mark.parametrize("rest", ["", ",sink=2", ",sink=5,near=1", ",causal=false,sink=3"])
def test_what_tokens_tell_of_the_keys_of_their_row_is_the_key_of_wsum(
    length: int, rest: str
) -> None:
    told = pattern(f"combiner-axial-rowmajor[columns=4{rest}]")
    weighed = pattern(f"combiner-axial-rowmajor[columns=4,summary=wsum{rest}]")
    q, k, v = (torch.randn(2, 2, length, 4, dtype=torch.float64) for _ in range(3))
    found = told.attend_told(q, k, v, Told(keys=told.tell(q, k, k)))
    torch.testing.assert_close(found, weighed.attend(q, k, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("learned", "source"), [("proj", 2), ("wsum_proj", 1)])
def test_keys_of_rows_are_made_of_values_or_of_keys(learned: str, source: int) -> None:
    made, x = layer(ROWS[0], learned), tokens()
    assert isinstance(made.summary, RowKeys)
    q, k, v = (torch.randn(2, 2, LENGTH, 4, dtype=torch.float64) for _ in range(3))
    q = q.repeat(1, 2, 1, 1)
    local = made.pattern.tell(q, k, (q, k, v)[source]).transpose(1, 2).flatten(2)
    wanted = made.summary.outer(made.summary.norm(x + made.summary.inner(local)))
    found = made.summary(x, q, k, v, "auto").keys
    torch.testing.assert_close(found.transpose(1, 2).flatten(2), wanted)


@pytest.mark.parametrize(("spec", "learned"), LEARNING)
def test_the_future_changes_nothing_and_a_later_token_has_no_gradient(
    spec: str, learned: str
) -> None:
    made, past, future = layer(spec, learned), tokens(), tokens()
    for cut in (1, 8, 18):
        mixed = torch.cat([past[:, :cut], future[:, cut:]], dim=1).requires_grad_()
        found = made(mixed)[:, :cut]
        torch.testing.assert_close(found, made(past)[:, :cut])
        (grad,) = torch.autograd.grad(found.sum(), mixed)
        assert not grad[:, cut:].any()


@pytest.mark.parametrize(("spec", "learned"), LEARNING)
def test_every_weight_learns(spec: str, learned: str) -> None:
    made = layer(spec, learned)
    made(tokens()).square().sum().backward()
    assert [name for name, x in made.named_parameters() if x.grad is None or not x.grad.any()] == []


# Dynamo's own: it makes an object of every autograd function that it meets.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("spec", "learned"),
    [
        ("combiner-fixed[block=8,sink=2,near=1]", "residual"),
        ("combiner-axial-rowmajor[columns=4]", "proj"),
    ],
)
def test_it_compiles_into_one_graph_with_its_gradients(spec: str, learned: str) -> None:
    torch.compiler.reset()
    made, x = layer(spec, learned), tokens()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), made(x))
    grads = []
    for run in (compiled, made):
        made.zero_grad()
        run(x).square().sum().backward()
        grads.append([weight.grad.clone() for weight in made.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_the_weights_of_full_attention_load_by_name() -> None:
    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                part(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
                for part in (self.q_proj, self.k_proj, self.v_proj)
            )
            out = scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(out.transpose(1, 2).flatten(2))

    full = Full().double()
    made = CombinerAttention(WIDTH, HEADS, "combiner-fixed[block=32]", learned="residual").double()
    left = made.load_state_dict(full.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert all(name.startswith("summary.") for name in left.missing_keys)
    x = tokens()  # shorter than a block: no region, so full attention itself
    torch.testing.assert_close(made(x), full(x))


def test_weights_survive_saving(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made, other = (layer("combiner-axial-rowmajor[columns=4]", "proj") for _ in range(2))
    torch.save(made.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    x = tokens()
    assert torch.equal(made(x), other(x))
    assert isinstance(other.summary, RowKeys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 18}, "width must be a multiple of heads, got 18 and 4"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads, got 4 and 3"),
        ({"head_width": 0}, "head_width must be at least 1, got 0"),
        (
            {"spec": "local[window=4]"},
            r"local\[window=4\] is no Combiner: there are combiner-axial",
        ),
        ({"spec": "combiner-fixt"}, "did you mean 'combiner-fixed'"),
        ({"backend": "metal"}, "no backend 'metal'"),
        ({"learned": "deepset"}, "learned must be one of none, deepsets"),
        ({"learned": "proj"}, "learned='proj' gives the rows of combiner-axial-rowmajor"),
        ({"spec": "combiner-axial-rowmajor", "learned": "deepsets"}, "pools nothing"),
        ({"spec": "combiner-axial-rowmajor[summary=wsum]", "learned": "proj"}, "is not that one"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        CombinerAttention(**({"width": WIDTH, "heads": HEADS} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_inputs_that_do_not_fit_are_refused() -> None:
    made = CombinerAttention(WIDTH, HEADS)
    with pytest.raises(BadInput, match=r"expected \[batch, length, 16\], got \[2, 3\]"):
        made(torch.randn(2, 3))
    chosen = pattern("combiner-fixed[block=4]")
    assert isinstance(chosen, CombinerPattern)
    q, k, v = torch.randn(3, 1, 2, 8, 4)
    with pytest.raises(BadInput, match=r"told.keys must be like the keys, .* got float32 \[1, 1,"):
        chosen.attend_told(q, k, v, Told(keys=k[:, :1]))
    with pytest.raises(Unsupported, match="kernels pool q and k themselves; use sdpa or eager"):
        chosen.attend_told(q, k, v, Told(q, k), backend="triton")


def test_it_says_what_it_is() -> None:
    made = attnbench.CombinerAttention(WIDTH, HEADS, "combiner-fixed[block=4]", kv_heads=2)
    assert "combiner-fixed[block=4], heads=4/2, backend=auto" in repr(made)
