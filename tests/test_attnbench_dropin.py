"""A pattern in a transformers model: full is the model's own attention, the rest is the pattern."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

import attnbench  # noqa: E402 - after the guard
from attnbench.interface import _registries, replace_attention  # noqa: E402 - after the guard
from patterns import BadInput, Unsupported, pattern  # noqa: E402 - after the guard

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "vocab_size": 50, "bos_token_id": None, "eos_token_id": None}
LIMIT = 1e-5  # between two orders of the same float32 sums


def llama(**changes: Any) -> Any:
    config = {**SIZES, **HEADS, "num_key_value_heads": 2, **changes}
    return made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**config))


def gpt2(**changes: Any) -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = {**HEADS, **sizes, **changes}
    return made(transformers.GPT2LMHeadModel, transformers.GPT2Config(**config))


def bert(**changes: Any) -> Any:
    return made(
        transformers.BertForMaskedLM, transformers.BertConfig(**{**SIZES, **HEADS, **changes})
    )


def mistral(**changes: Any) -> Any:
    config = {**SIZES, **HEADS, "num_key_value_heads": 2, **changes}
    return made(transformers.MistralForCausalLM, transformers.MistralConfig(**config))


def made(model: Any, config: Any) -> Any:
    torch.manual_seed(0)
    config.initializer_range = 0.2  # attention that is far from uniform
    return model(config).eval()


def tokens(batch: int = 3, length: int = 13) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(1))


def padding(side: str, shape: tuple[int, int]) -> Tensor:
    """What is a token: all but 5, 0 and 1 on one side of three sequences."""
    mask = torch.ones(shape, dtype=torch.long)
    for row, count in enumerate((5, 0, 1)):
        if side != "none" and count:
            mask[row, slice(count) if side == "left" else slice(-count, None)] = 0
    return mask


def logits(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """[tokens that are no padding, vocabulary]"""
    more = {} if mask is None else {"attention_mask": mask}
    with torch.no_grad():
        found = model(input_ids=ids, **more).logits
    return found.flatten(0, 1) if mask is None else found[mask.bool()]


def hand_masked(model: Any, ids: Tensor, allowed: Tensor) -> Tensor:
    """The logits of SDPA with a mask [L, L] that we made."""
    four = allowed[None, None].expand(len(ids), 1, -1, -1)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=four).logits


def is_untouched(model: Any) -> bool:
    ours = [name for one in _registries() for name in one._global_mapping if "attnbench" in name]
    return model.config._attn_implementation == "sdpa" and not ours and not model._forward_hooks


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_full_gives_the_logits_of_sdpa(make: Callable[[], Any], side: str):
    model, ids = make(), tokens()
    mask = padding(side, ids.shape)
    expected = logits(model, ids, mask)
    with attnbench.use(model, "full"):
        torch.testing.assert_close(logits(model, ids, mask), expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_full_is_rounded_as_sdpa_rounds(make: Callable[[], Any], side: str):
    """To the bit, at lengths that a kernel cuts into several tiles."""
    model, ids = make(), tokens(3, 60)
    mask = padding(side, ids.shape)
    expected = logits(model, ids, mask)
    with attnbench.use(model, "full"):
        assert torch.equal(logits(model, ids, mask), expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("spec", ["local[window=3]", "combiner-fixed[block=4]"])
@pytest.mark.parametrize("make", [llama, bert])
def test_each_sequence_attends_on_its_own_tokens(make: Callable[[], Any], spec: str, side: str):
    model, ids = make(), tokens()
    mask = padding(side, ids.shape)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with attnbench.use(model, spec), torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        for row, kept in enumerate(mask.bool()):
            alone = model(input_ids=ids[row : row + 1, kept]).logits[0]
            torch.testing.assert_close(found[row, kept], alone, atol=LIMIT, rtol=0)


@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_a_window_is_the_model_masked_by_hand(make: Callable[[], Any]):
    model, ids = make(), tokens()
    position = torch.arange(ids.shape[1])
    away = position[:, None] - position
    window = (away >= 0) & (away < 3) if make is not bert else away.abs() < 3
    expected = hand_masked(model, ids, window)
    assert (expected - model(input_ids=ids).logits).abs().max() > 0.1
    with attnbench.use(model, "local[window=3]"), torch.no_grad():
        found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


MIXED = "0:full,1-h1-2:full,1-h0:local[window=2],1-h3-:local[window=3]"


@pytest.mark.parametrize("make", [llama, gpt2])
def test_heads_have_patterns_of_their_own(make: Callable[[], Any]):
    model, ids = make(), tokens()
    position = torch.arange(ids.shape[1])
    away = position[:, None] - position
    causal = away >= 0
    windows = [causal & (away < width) for width in (2, 99, 99, 3)]
    allowed = torch.stack(windows).expand(len(ids), -1, -1, -1)

    def masked(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **more: Any) -> Any:
        k, v = (one.repeat_interleave(4 // one.shape[1], dim=1) for one in (k, v))
        seen = allowed if module.layer_idx else causal
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return out.transpose(1, 2), None

    by_hand = replace_attention(model, masked, lambda **_: None)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    by_hand.restore()
    with attnbench.use(model, MIXED), torch.no_grad():
        found = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=LIMIT, rtol=0)


def test_heads_with_patterns_of_their_own_are_padded_and_go_on_from_a_cache():
    model, ids = llama(), tokens()
    mask = padding("left", ids.shape)
    generate = functools.partial(
        model.generate, ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    with attnbench.use(model, MIXED):
        assert torch.equal(generate(), generate(use_cache=False))
    with attnbench.use(model, "0-h0-2:full,0-h3:full"):
        found = logits(model, ids, mask)
    torch.testing.assert_close(found, logits(model, ids, mask), atol=LIMIT, rtol=0)
    with (
        attnbench.use(model, "0-h0-2:full"),
        pytest.raises(BadInput, match="head 3 of 4 is left out in a layer: add h3:full"),
    ):
        logits(model, ids)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["none", "left"])
def test_layers_that_are_not_named_attend_as_they_did(side: str, implementation: str):
    model, ids = llama(), tokens()
    model.set_attn_implementation(implementation)
    mask = padding(side, ids.shape)
    expected = logits(model, ids, mask)
    with attnbench.use(model, "uniform", layers=[]):
        torch.testing.assert_close(logits(model, ids, mask), expected, atol=LIMIT, rtol=0)
    with attnbench.use(model, "uniform", layers=[1]):
        second = logits(model, ids, mask)
    with attnbench.use(model, "full", layers=[0]), attnbench.use(model, "uniform", layers=[1]):
        torch.testing.assert_close(logits(model, ids, mask), second, atol=LIMIT, rtol=0)
    assert (second - expected).abs().max() > 0.1
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_same_tokens_are_generated_with_a_cache(make: Callable[[], Any]):
    model, ids = make(), tokens()
    mask = padding("left", ids.shape)
    generate = functools.partial(
        model.generate, ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    expected = generate()
    with attnbench.use(model, "full"):
        assert torch.equal(generate(), expected)


@pytest.mark.parametrize(
    "spec",
    [
        "sinks[window=3,sink=2]",
        "local[window=4]",
        "fixed[block=4,tail=2]",
        "logsparse",
        "logsparse[keys=suffix]",
        "strided[stride=3]",
        "axial[columns=4]",
    ],
)
def test_a_mask_goes_on_from_a_cache_as_if_it_read_all_again(spec: str):
    model, ids = llama(), tokens()
    mask = padding("left", ids.shape)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with attnbench.use(model, spec), torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        cache = transformers.DynamicCache(config=model.config)
        for part in (slice(0, 6), slice(6, 9), slice(9, 10), slice(10, 13)):
            found = model(
                input_ids=ids[:, part],
                attention_mask=mask[:, : part.stop],
                position_ids=positions[:, part],
                past_key_values=cache,
            ).logits
            kept = mask[:, part].bool()
            torch.testing.assert_close(found[kept], whole[:, part][kept], atol=LIMIT, rtol=0)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("combiner-fixed", r"only patterns that are masks can \(axial, fixed, full, local"),
        ("uniform", "generate with use_cache=False instead"),
        ("local", r"write it out, such as local\[window="),
    ],
)
def test_what_cannot_go_on_from_a_cache_says_what_can(spec: str, sentence: str):
    model, ids = llama(), tokens(1)
    mask = torch.ones_like(ids)
    asked = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with attnbench.use(model, spec):
        with pytest.raises(Unsupported, match=sentence):
            model.generate(ids, attention_mask=mask, **asked)
        long = model.generate(ids, attention_mask=mask, **asked, use_cache=False)
    assert long.shape[1] == 16


def test_a_cache_of_fixed_size_is_refused():
    model, ids = llama(), tokens()
    with attnbench.use(model, "full"), pytest.raises(Unsupported, match="the cache has a fixed"):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=3,
            cache_implementation="static",
            pad_token_id=0,
        )


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("make", [llama, gpt2, bert])
def test_gradients_are_those_of_sdpa(make: Callable[[], Any], side: str):
    model, ids = make(), tokens()
    mask = padding(side, ids.shape)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        found = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        found.square().mean().backward()
        return [one.grad.clone() for one in model.parameters() if one.grad is not None]

    expected = gradients()
    assert len(expected) > 20
    with attnbench.use(model, "full"):
        torch.testing.assert_close(gradients(), expected, atol=1e-4, rtol=1e-4)
    with attnbench.use(model, "combiner-fixed[block=4,summary=mean]"):
        other = gradients()
    assert all(one.isfinite().all() for one in other)
    assert any((one - two).abs().max() > 1e-3 for one, two in zip(other, expected, strict=True))


def test_restoring_leaves_nothing_behind():
    model, ids = llama(), tokens()
    expected = logits(model, ids)
    used = attnbench.use(model, "local[window=2]")
    assert (logits(model, ids) - expected).abs().max() > 0.1
    assert not is_untouched(model)
    used.restore()
    used.restore()
    assert is_untouched(model)
    assert torch.equal(logits(model, ids), expected)


def test_an_exception_leaves_nothing_behind():
    model, ids = llama(), tokens()
    with pytest.raises(ZeroDivisionError), attnbench.use(model, "full"):
        raise ZeroDivisionError
    assert is_untouched(model)
    with pytest.raises(BadInput, match="the model has no layer 7: There are: 0, 1"):
        attnbench.use(model, "full", layers=[0, 7])
    with pytest.raises(BadInput, match="did you mean 'local'"):
        attnbench.use(model, "locl")
    with pytest.raises(BadInput, match="has no backend 'fast': there are auto, sdpa"):
        attnbench.use(model, "full", backend="fast")
    model.set_attn_implementation = lambda name: 1 / 0
    with pytest.raises(ZeroDivisionError):
        attnbench.use(model, "full")
    assert is_untouched(model)
    logits(model, ids)


def test_what_was_put_in_last_is_restored_first():
    model, ids = llama(), tokens()
    expected = logits(model, ids)
    first = attnbench.use(model, "uniform")
    second = attnbench.use(model, "full")
    torch.testing.assert_close(logits(model, ids), expected, atol=LIMIT, rtol=0)
    with pytest.raises(BadInput, match="restore what was put into the model later first"):
        first.restore()
    second.restore()
    assert (logits(model, ids) - expected).abs().max() > 0.1
    first.restore()
    assert is_untouched(model)


def test_two_models_keep_their_own_patterns():
    one, two, ids = llama(), gpt2(), tokens()
    expected = logits(one, ids)
    with attnbench.use(one, "full"), attnbench.use(two, "uniform"):
        torch.testing.assert_close(logits(one, ids), expected, atol=LIMIT, rtol=0)


def test_the_pattern_and_the_backend_are_the_ones_asked_for(monkeypatch: pytest.MonkeyPatch):
    model, ids = llama(), tokens()
    asked = []
    kind = type(pattern("full"))
    run = kind._run

    def spy(self: Any, q: Any, k: Any, v: Any, scale: float, backend: str) -> Any:
        asked.append((self.causal, backend, q.shape[1], k.shape[1]))
        return run(self, q, k, v, scale, backend)

    monkeypatch.setattr(kind, "_run", spy)
    with attnbench.use(model, pattern("full"), backend="eager"):
        logits(model, ids)
    assert asked == [(True, "eager", 4, 2)] * 2


def test_no_square_mask_is_made_for_padding(monkeypatch: pytest.MonkeyPatch):
    masking = importlib.import_module("transformers.masking_utils")

    def fail(**_: Any) -> None:
        pytest.fail("a square mask")

    model, ids = llama(), tokens()
    monkeypatch.setitem(masking.AttentionMaskInterface._global_mapping, "sdpa", fail)
    with attnbench.use(model, "local[window=3]"):
        logits(model, ids, padding("right", ids.shape))


def gemma2() -> Any:
    config = {**SIZES, **HEADS, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    return made(transformers.Gemma2ForCausalLM, transformers.Gemma2Config(**config))


def gpt_oss() -> Any:
    config = {**SIZES, **HEADS, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2}
    config |= {"num_experts_per_tok": 1, "pad_token_id": 0}
    return made(transformers.GptOssForCausalLM, transformers.GptOssConfig(**config))


def t5() -> Any:
    config = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1}
    return made(transformers.T5Model, transformers.T5Config(**config, num_heads=4))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mistral(sliding_window=4), "more than causality and padding: a window of 4 tok"),
        (gemma2, "Gemma2Attention uses softcap, which patterns do not have"),
        (gpt_oss, "GptOssAttention uses s_aux, which patterns do not have"),
        (lambda: llama(attention_dropout=0.5).train(), "LlamaAttention drops 0.5 of its weights"),
        (lambda: bert(attention_probs_dropout_prob=0.1).train(), "drops 0.1 of its weights"),
        (t5, "T5Model attends across two sequences"),
        (lambda: llama(num_hidden_layers=0), "LlamaForCausalLM does not let its attention be"),
    ],
)
def test_attention_that_a_pattern_cannot_be_is_refused(make: Callable[[], Any], sentence: str):
    model, ids = make(), tokens()
    before = model.config._attn_implementation
    with pytest.raises(Unsupported, match=sentence), attnbench.use(model, "full"):
        model(input_ids=ids)
    assert model.config._attn_implementation == before


def test_a_window_wider_than_the_text_is_no_window():
    model, ids = mistral(sliding_window=13), tokens()
    mask = padding("left", ids.shape)
    expected = logits(model, ids, mask)
    with attnbench.use(model, "full"):
        torch.testing.assert_close(logits(model, ids, mask), expected, atol=LIMIT, rtol=0)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"attention_mask": torch.ones(3, 1, 13, 13)}, r"a mask of its own \(Tensor \[3, 1, 13"),
        (
            {"position_ids": torch.arange(13).remainder(5)[None], "use_cache": False},
            "packed sequences or blocks",
        ),
        ({"attention_mask": (torch.arange(13) != 6).long().expand(3, -1)}, "in the midst of a seq"),
        ({"output_attentions": True}, "leave output_attentions out"),
    ],
)
def test_calls_that_a_pattern_cannot_serve_are_refused(more: dict[str, Any], sentence: str):
    model, ids = llama(), tokens()
    with attnbench.use(model, "full"), pytest.raises(Unsupported, match=sentence):
        model(input_ids=ids, **more)


def test_what_is_no_model_or_no_fit_is_said():
    with pytest.raises(BadInput, match="expected a transformers model, got Linear"):
        attnbench.use(torch.nn.Linear(2, 2), "full")
    model = llama()
    with (
        attnbench.use(model, pattern("local[causal=false]")),
        pytest.raises(BadInput, match="is bidirectional, and the model attends causally"),
    ):
        model(input_ids=tokens())
    with pytest.raises(BadInput, match="expected a pattern or its spec"):
        attnbench.use(model, 3)


def test_a_model_whose_attention_cannot_be_set_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    monkeypatch.setattr(type(model), "_can_set_attn_implementation_cached_value", False)
    with pytest.raises(Unsupported, match="LlamaForCausalLM does not let its attention be rep"):
        replace_attention(model, print, print)
    assert is_untouched(model)
