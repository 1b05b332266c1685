"""A pattern in nn.MultiheadAttention and in whatever calls scaled_dot_product_attention."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import attnbench
from attnbench.multihead import PatternAttention
from patterns import PATTERNS, BadInput, Unsupported, pattern
from patterns.mask import MaskPattern

ROOT = Path(__file__).parents[1]
LENGTH, WIDTH = 11, 16
HIDDEN = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
LIMIT = 1e-5  # between two orders of the same float32 sums


def encoder(**changes: Any) -> nn.TransformerEncoder:
    """Two layers in evaluation, which PyTorch would run by its fused kernel."""
    sizes = {"d_model": WIDTH, "nhead": 4, "dim_feedforward": 24, "dropout": 0.0}
    layer = nn.TransformerEncoderLayer(**{**sizes, "batch_first": True, **changes})
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not changes).eval()


def padding(side: str) -> Tensor | None:
    """True for what is padding, in two sequences of three."""
    hidden = torch.zeros(3, LENGTH, dtype=torch.bool)
    hidden[0, slice(4) if side == "left" else slice(-4, None)] = True
    hidden[2, slice(1) if side == "left" else slice(-1, None)] = True
    return None if side == "none" else hidden


def as_numbers(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # PyTorch's own use of it
@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("changes", [{}, {"norm_first": True}, {"bias": False}])
def test_full_gives_what_the_encoder_gave(changes: dict[str, Any], train: bool, side: str):
    model, x, hidden = encoder(**changes).train(train), torch.randn(3, LENGTH, WIDTH), padding(side)
    kept = torch.ones(3, LENGTH, dtype=torch.bool) if hidden is None else ~hidden
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=hidden)[kept]
        with attnbench.swap(model, "full"):
            found = model(x, src_key_padding_mask=hidden)[kept]
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("mask", [HIDDEN, as_numbers(HIDDEN)])
@pytest.mark.parametrize("train", [False, True])
def test_a_causal_mask_makes_the_pattern_causal(mask: Tensor, train: bool):
    model, x = encoder().train(train), torch.randn(2, LENGTH, WIDTH)
    position = torch.arange(LENGTH)
    far = position[:, None] - position >= 3
    with torch.no_grad():
        expected = model(x, mask=HIDDEN | far)
        with attnbench.swap(model, "local[window=3]"):
            for is_causal in (None, True):
                found = model(x, mask=mask, is_causal=is_causal)
                torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("train", [False, True])
def test_a_window_is_the_module_masked_by_hand(train: bool):
    model, x = encoder().train(train), torch.randn(2, LENGTH, WIDTH)
    position = torch.arange(LENGTH)
    far = (position[:, None] - position).abs() >= 3
    with torch.no_grad():
        expected = model(x, mask=far)
        assert (expected - model(x)).abs().max() > 0.01
        with attnbench.swap(model, "local[window=3]"):
            torch.testing.assert_close(model(x), expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_sequence_attends_on_its_own_tokens(side: str):
    model, x, hidden = encoder(), torch.randn(3, LENGTH, WIDTH), padding(side)
    with torch.no_grad(), attnbench.swap(model, "combiner-fixed[block=3]"):
        for mask in (hidden, as_numbers(hidden)):
            found = model(x, src_key_padding_mask=mask)
            for row, kept in enumerate(~hidden):
                alone = model(x[row : row + 1, kept])[0]
                torch.testing.assert_close(found[row, kept], alone, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("shape", [(3, LENGTH), (LENGTH,)])
@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
def test_every_layout_of_one_module(widths: dict[str, int], shape: tuple, batch_first: bool):
    one = nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first, **widths)
    q, k, v = (
        torch.randn(*shape, width)
        for width in (WIDTH, widths.get("kdim", WIDTH), widths.get("vdim", WIDTH))
    )
    if not batch_first and len(shape) == 2:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    expected, _ = one(q, k, v, need_weights=False)
    with attnbench.swap(one, "full"):
        found, weights = one(q, k, v, need_weights=False)
    assert weights is None
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


def test_gradients_are_those_of_the_module():
    model, x = encoder().train(), torch.randn(3, LENGTH, WIDTH)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(x, src_key_padding_mask=hidden)[~hidden].square().mean().backward()
        return [one.grad.clone() for one in model.parameters()]

    hidden = padding("left")
    expected = gradients()
    with attnbench.swap(model, "full"):
        torch.testing.assert_close(gradients(), expected, atol=LIMIT, rtol=1e-4)
    with attnbench.swap(model, "local[window=2]"):
        other = gradients()
    assert any((one - two).abs().max() > 1e-3 for one, two in zip(other, expected, strict=True))


def test_the_parameters_stay_and_restoring_leaves_nothing_behind():
    model, x = encoder(), torch.randn(3, LENGTH, WIDTH)
    before = {name: id(one) for name, one in model.named_parameters()}
    keys, inside = list(model.state_dict()), [sorted(one.__dict__) for one in model.modules()]
    with torch.no_grad():
        expected = model(x)
        swapped = attnbench.swap(model, "local[window=2]")
        assert len(swapped.modules) == 2
        assert list(model.state_dict()) == keys
        assert {name: id(one) for name, one in model.named_parameters()} == before
        assert (model(x) - expected).abs().max() > 0.01
        assert torch.equal(copy.deepcopy(model)(x), model(x))
        saved = io.BytesIO()
        torch.save(model, saved)
        saved.seek(0)
        assert torch.equal(torch.load(saved, weights_only=False)(x), model(x))
        swapped.restore()
        swapped.restore()
        assert torch.equal(model(x), expected)
    assert [sorted(one.__dict__) for one in model.modules()] == inside
    assert model.use_nested_tensor
    assert not any(isinstance(one, PatternAttention) for one in model.modules())


def test_an_exception_restores_too():
    model = encoder()
    with pytest.raises(ZeroDivisionError), attnbench.swap(model, "full"):
        raise ZeroDivisionError
    assert not any(isinstance(one, PatternAttention) for one in model.modules())


def test_the_named_modules_are_swapped_and_no_others():
    model = encoder()
    with attnbench.swap(model, "full", names=["layers.1.self_attn"]):
        swapped = [n for n, one in model.named_modules() if isinstance(one, PatternAttention)]
    assert swapped == ["layers.1.self_attn"]


def test_the_cross_attention_of_a_decoder_is_left_alone():
    model = nn.TransformerDecoderLayer(WIDTH, 4, 24, dropout=0.0, batch_first=True).eval()
    x, memory = torch.randn(2, LENGTH, WIDTH), torch.randn(2, 7, WIDTH)
    expected = model(x, memory, tgt_mask=HIDDEN)
    with attnbench.swap(model, "full"):
        found = model(x, memory, tgt_mask=HIDDEN)
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


def attend(one: nn.MultiheadAttention, x: Tensor, keys: Tensor | None = None, **more: Any) -> Any:
    keys = x if keys is None else keys
    return one(x, keys, keys, **{"need_weights": False, **more})


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda one, x: attend(one, x, need_weights=True), "pass need_weights=False"),
        (lambda one, x: attend(one, x, attn_mask=~HIDDEN), "that is not the causal one"),
        (lambda one, x: attend(one, x, attn_mask=torch.randn(LENGTH, LENGTH)), "not the causal"),
        (lambda one, x: attend(one, x, x[:, :5]), "11 queries for 5 keys"),
        (
            lambda one, x: attend(one, x, key_padding_mask=torch.full((2, LENGTH), 0.5)),
            "only 0 and -inf are known",
        ),
        (
            lambda one, x: attend(one, x, key_padding_mask=(torch.arange(11) == 4).expand(2, -1)),
            "padding in the midst of a sequence",
        ),
        (lambda one, x: attend(one.train(), x), "drops 0.5 of its weights in training"),
    ],
)
def test_calls_that_a_pattern_cannot_serve_are_refused(call: Callable[..., Any], sentence: str):
    one = nn.MultiheadAttention(WIDTH, 4, dropout=0.5, batch_first=True).eval()
    with attnbench.swap(one, "full"), pytest.raises(Unsupported, match=sentence):
        call(one, torch.randn(2, LENGTH, WIDTH))


def test_modules_that_cannot_be_swapped_are_named():
    model = encoder()
    with pytest.raises(BadInput, match=r"Linear holds no nn\.MultiheadAttention"):
        attnbench.swap(nn.Linear(2, 2), "full")
    with pytest.raises(
        BadInput, match=r"is called 'layers\.1\.self': did you mean 'layers\.1\.self_a"
    ):
        attnbench.swap(model, "full", names=["layers.1.self"])
    with attnbench.swap(model, "full"), pytest.raises(BadInput, match="has a pattern already"):
        attnbench.swap(model, "uniform")
    with pytest.raises(Unsupported, match="attends to a key of its own"):
        attnbench.swap(nn.MultiheadAttention(WIDTH, 4, add_zero_attn=True), "full")


def sdpa_inputs(kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(3, 4, LENGTH, 8)
    k, v = torch.randn(2, 3, kv_heads, LENGTH, 8)
    return q, k, v


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"is_causal": True},
        {"attn_mask": ~HIDDEN},
        {"attn_mask": as_numbers(HIDDEN)},
        {"scale": 0.7},
        {"attn_mask": ~padding("left")[:, None, None]},
        {"attn_mask": as_numbers(padding("right")[:, None, None])},
    ],
)
def test_full_gives_what_the_function_gave(more: dict[str, Any]):
    q, k, v = sdpa_inputs()
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True, **more)
    with attnbench.override_sdpa("full") as override:
        found = scaled_dot_product_attention(q, k, v, enable_gqa=True, **more)
    assert override.calls == 1
    shown = more.get("attn_mask", torch.ones(()))
    if shown.ndim == 4:  # a query that is padding has no answer
        shown = (shown if shown.dtype == torch.bool else shown == 0)[:, 0, 0, :, None]
        found, expected = (x.transpose(1, 2) * shown[..., None] for x in (found, expected))
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


def test_inside_the_function_is_the_pattern_and_outside_it_is_itself():
    q, k, v = sdpa_inputs()
    one = pattern("local[window=3]")
    own = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    with attnbench.override_sdpa(one):
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, None, 0.0, True, enable_gqa=True
        )
        assert torch.equal(found, one.attend(q, k, v))
        single = scaled_dot_product_attention(q[0], k[0], v[0], is_causal=True, enable_gqa=True)
        torch.testing.assert_close(single, found[0], atol=LIMIT, rtol=0)
    with pytest.raises(ZeroDivisionError), attnbench.override_sdpa(one):
        raise ZeroDivisionError
    after = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.equal(after, own)
    assert not torch.equal(after, found)


def test_gradients_flow_through_the_override():
    q, k, v = (x.requires_grad_() for x in sdpa_inputs())
    one = pattern("combiner-fixed[block=4]")
    with attnbench.override_sdpa(one):
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()
    expected = torch.autograd.grad(one.attend(q, k, v).sum(), (q, k, v))
    torch.testing.assert_close((q.grad, k.grad, v.grad), expected)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda q, k, v: scaled_dot_product_attention(q, k, v, dropout_p=0.1), "drop no weights"),
        (lambda q, k, v: scaled_dot_product_attention(q[:, :, :1], k, v), "1 queries for 11 keys"),
        (
            lambda q, k, v: scaled_dot_product_attention(q, k[:, :2], v[:, :2]),
            "grouped heads without enable_gqa",
        ),
        (
            lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=HIDDEN),
            "not the causal one",
        ),
        (
            lambda q, k, v: scaled_dot_product_attention(q[None], k[None], v[None]),
            "expected .batch",
        ),
        (lambda q, k, v: nn.MultiheadAttention(8, 2)(q[0], k[0], v[0]), "use attnbench.swap"),
        (lambda q, k, v: nn.MultiheadAttention(8, 2).eval()(q[0], q[0], q[0]), "attnbench.swap"),
    ],
)
def test_calls_that_cannot_be_overridden_are_refused(call: Callable[..., Any], sentence: str):
    inputs = sdpa_inputs(kv_heads=4)
    with (
        torch.no_grad(),
        attnbench.override_sdpa("full"),
        pytest.raises(Unsupported, match=sentence),
    ):
        call(*inputs)


def test_a_fused_encoder_is_refused_by_the_override():
    model, x = encoder(), torch.randn(2, LENGTH, WIDTH)
    with (
        torch.no_grad(),
        attnbench.override_sdpa("full"),
        pytest.raises(Unsupported, match="swap"),
    ):
        model(x)


def test_none_of_it_imports_transformers():
    program = "import sys, attnbench; attnbench.use, attnbench.swap, attnbench.override_sdpa"
    program += "\nimport attnbench.capture\nassert 'transformers' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_without_transformers_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Unsupported, match="pip install 'transformers>=5'"):
        attnbench.use(nn.Linear(2, 2), "full")


def test_the_docs_name_every_pattern_that_goes_on_from_a_cache():
    page = (ROOT / "docs" / "models.md").read_text()
    masks = [name for name, kind in PATTERNS.items() if issubclass(kind, MaskPattern)]
    assert ", ".join(masks) in page.replace("\n  ", " ")
