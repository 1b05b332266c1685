"""Harms of patterns in the heads of a model: what they say, and the choice that follows."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

import run_bench  # noqa: E402 - after the guard
from attnbench import dropin  # noqa: E402 - after the guard
from attnbench import evaluate as evaluating  # noqa: E402 - after the guard
from attnbench.calibration import Calibration, calibrated, expect_choice  # noqa: E402 - after it
from attnbench.evaluate import Loaded  # noqa: E402 - after the guard
from attnbench.excerpts import COPIED, copies, excerpts  # noqa: E402 - after the guard
from attnbench.language import Reader  # noqa: E402 - after the guard
from attnbench.layer_error import head_harms  # noqa: E402 - after the guard
from attnbench.layers import heads_of  # noqa: E402 - after the guard
from attnbench.schedule import schedule  # noqa: E402 - after the guard
from patterns import BadInput  # noqa: E402 - after the guard

WORDS, HEADS = 40, 4


def llama(positions: int = 2048) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=2, vocab_size=WORDS, max_position_embeddings=positions,
        bos_token_id=None, eos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def loaded(model: Any = None) -> Loaded:
    ids = random.Random(0).choices(range(WORDS), k=2000)
    return Loaded(reader=Reader(model or llama()), tokens=ids)


def asked(**changes: Any) -> Calibration:
    given: dict[str, Any] = {
        "patterns": ("sinks[window=2|8]", "full"), "length": 32, "excerpts": 2, "copies": 0,
    }  # fmt: skip
    return Calibration(model="tiny", **given | changes)


@pytest.mark.parametrize("last", [32, 10])
def test_a_harm_is_what_a_heads_error_adds_to_what_its_layer_says(last: int) -> None:
    model, tokens = llama(), loaded().tokens[:32]
    found = head_harms(Reader(model), schedule("sinks[window=2]"), tokens, "auto", last=last)
    for number, layer in enumerate(model.model.layers):
        seen: list[torch.Tensor] = []
        hook = layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0][0, -last:])
        )
        for spec in ("full", "sinks[window=2]"):
            with dropin.use(model.model, spec, layers=[number]), torch.no_grad():
                model(input_ids=torch.tensor([tokens]))
        hook.remove()
        own, other = seen
        for head in range(HEADS):
            part = slice(8 * head, 8 * head + 8)
            mixed = own.clone()
            mixed[:, part] = other[:, part]  # this head alone is swapped
            whole, swapped = (layer.self_attn.o_proj(x).detach() for x in (own, mixed))
            wanted = (swapped - whole).square().sum() / whole.square().sum()
            assert found[number][head] == pytest.approx(float(wanted), rel=1e-4)
            assert found[number][head] > 0.01


def test_candidates_carry_their_keys_and_the_mean_harm_over_texts() -> None:
    ready = loaded()
    narrow, wide, full = calibrated(asked(), ready)
    assert (narrow.keys, full.keys) == (5.53125, 16.5)
    assert max(map(max, full.harms)) < 1e-9
    texts = excerpts(ready.tokens, 32, 2, 0)
    each = [
        head_harms(ready.reader, schedule("sinks[window=8]"), one, "auto", last=32) for one in texts
    ]
    for layer in range(3):
        for head in range(HEADS):
            mean = sum(one[layer][head] for one in each) / 2
            assert wide.harms[layer][head] == pytest.approx(mean)


def test_copies_are_judged_on_the_second_copy_and_weigh_as_much_as_excerpts() -> None:
    ready = loaded()
    few = {"patterns": ("sinks[window=2]", "sinks[window=8]"), "excerpts": 1}
    both = calibrated(asked(**few, copies=1), ready)[0].harms
    alone = calibrated(asked(**few), ready)[0].harms
    copied = calibrated(asked(**few | {"excerpts": 0}, copies=1), ready)[0].harms
    for rows in zip(both, alone, copied, strict=True):
        for found, one, other in zip(*rows, strict=True):
            assert found == pytest.approx((one + other) / 2)
    (text,) = copies(ready.tokens, 1, 0)
    assert copied == head_harms(
        ready.reader, schedule("sinks[window=2]"), text, "auto", last=COPIED
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patterns": ("full",)}, "needs two patterns or more"),
        ({"patterns": ("full", "full")}, "one twice"),
        ({"patterns": ("full", "masformer[full=2]")}, "got a schedule"),
        ({"excerpts": 0}, "at least one excerpt or copy"),
        ({"keys": "-1"}, "number of keys above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        expect_choice(asked(**changes))


def test_a_model_too_short_for_the_texts_is_refused() -> None:
    with pytest.raises(BadInput, match="the model has 64 positions"):
        calibrated(asked(copies=1), loaded(llama(64)))


def test_the_command_prints_a_schedule_that_evaluate_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text", tmp_path / "chosen"
    text.write_text("a text")
    monkeypatch.setattr(evaluating, "load", lambda *_: loaded())
    typed = ["choose", "tiny", "--text", str(text), "--length", "32", "--excerpts", "1"]
    typed += ["--copies", "0", "--device", "cpu", "--keys", "9", "--out", str(out)]
    typed += ["--pattern", "sinks[window=2|8]", "--pattern", "full"]
    assert run_bench.main(typed) == 0
    said, told = capsys.readouterr()
    chosen = schedule(said.strip())
    assert out.read_text() == said
    counts = Counter(
        one.spec
        for layer in chosen.patterns(3)
        for one, heads in heads_of(layer, HEADS).items()
        for _ in heads
    )
    assert sum(counts.values()) == 3 * HEADS
    assert len(counts) > 1
    for spec, count in counts.items():
        assert f"{count:5d} heads: {spec}" in told
    keys = float(told.split("heads in all, ")[1].split()[0])
    assert 8 < keys <= 9
