"""Evaluation of a language model: the numbers are what they say, and a run goes on where it was."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

import attnbench  # noqa: E402 - after the guard
import run_bench  # noqa: E402 - after the guard
from attnbench import dropin  # noqa: E402 - after the guard
from attnbench import evaluate as evaluating  # noqa: E402 - after the guard
from attnbench.evaluate import Loaded, evaluate  # noqa: E402 - after the guard
from attnbench.evaluation import Evaluation  # noqa: E402 - after the guard
from attnbench.language import Reader  # noqa: E402 - after the guard
from attnbench.records import read  # noqa: E402 - after the guard
from patterns import BadInput, Unsupported  # noqa: E402 - after the guard
from patterns.sparse.local import Local  # noqa: E402 - after the guard

WORDS = 40
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": WORDS, "max_position_embeddings": 1024,
    "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3,
}  # fmt: skip
SPEC = "0:full,1-:local[window=3]"


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, **changes})
    return transformers.LlamaForCausalLM(config).eval()


def loaded(model: Any = None, tokens: int = 400) -> Loaded:
    ids = random.Random(0).choices(range(WORDS), k=tokens)
    return Loaded(reader=Reader(model or llama()), tokens=ids)


def asked(**changes: Any) -> Evaluation:
    given: dict[str, Any] = {"schedules": (SPEC,), "lengths": (32,), "excerpts": 3}
    return Evaluation(model="tiny", **{**given, **changes})


def by_name(folder: Path) -> dict[Any, dict[str, Any]]:
    return {(one["case"]["asked"], one["case"]["layer"]): one for one in read(folder)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    result = evaluate(asked(sensitivity=(SPEC,)), loaded(tokens=2000), folder)
    assert result.exit_code == 0
    return by_name(folder)


def by_hand(spec: str, layers: list[int] | None = None) -> list[torch.Tensor]:
    """The log-probabilities [L, N] of each excerpt, by the model's own forward pass."""
    from attnbench.excerpts import excerpts

    model, found = llama(), []
    with dropin.use(model, spec, layers=layers), torch.no_grad():
        for one in excerpts(loaded(tokens=2000).tokens, 32, 3, seed=0):
            found.append(model(input_ids=torch.tensor([one])).logits[0].log_softmax(dim=-1))
    return found


def losses_by_hand(logs: list[torch.Tensor]) -> list[torch.Tensor]:
    from attnbench.excerpts import excerpts

    texts = excerpts(loaded(tokens=2000).tokens, 32, 3, seed=0)
    return [
        -one[:-1].gather(1, torch.tensor(text[1:])[:, None]).squeeze(1)
        for one, text in zip(logs, texts, strict=True)
    ]


@pytest.mark.parametrize(("spec", "layer"), [("full", None), (SPEC, None), (SPEC, 2)])
def test_the_numbers_are_those_of_the_model_itself(run: dict, spec: str, layer: int | None):
    found = run[spec, layer]["evaluation"]
    full, ours = by_hand("full"), by_hand(spec, None if layer is None else [layer])
    losses, own = losses_by_hand(ours), losses_by_hand(full)
    expected = {
        "loss": [float(one.mean()) for one in losses],
        "later_half_loss": [float(one[16:].mean()) for one in losses],
        "kl_to_full": [
            float((b.exp() * (b - a)).sum(1)[:-1].mean()) for a, b in zip(ours, full, strict=True)
        ],
        "top1_agreement": [
            float((a.argmax(1) == b.argmax(1))[:-1].float().mean())
            for a, b in zip(ours, full, strict=True)
        ],
    }
    for name, values in expected.items():
        assert found[name]["per_excerpt"] == pytest.approx(values, abs=1e-5), name
    above = sum(float(a.mean() - b.mean()) for a, b in zip(losses, own, strict=True)) / 3
    assert found["loss_above_full"]["mean"] == pytest.approx(above, abs=1e-5)
    if spec != "full":
        assert found["kl_to_full"]["mean"] > 0.01


def attended(spec: str, layers: list[int]) -> list[torch.Tensor]:
    """What the attention of each of these layers gives on the first excerpt, [L, heads, D]."""
    from attnbench.excerpts import excerpts

    model, seen = llama(), []
    config = model.config
    (text, *_) = excerpts(loaded(tokens=2000).tokens, 32, 3, seed=0)
    for number in layers:
        model.model.layers[number].self_attn.o_proj.register_forward_pre_hook(
            lambda _, inputs: seen.append(
                inputs[0][0].unflatten(-1, (config.num_attention_heads, -1))
            )
        )
    with dropin.use(model, spec, layers=layers), torch.no_grad():
        model(input_ids=torch.tensor([text]))
    return seen


def test_the_error_at_a_layer_is_on_the_models_own_inputs(run: dict):
    found = run[SPEC, None]["evaluation"]["layer_error"]
    own = attended("full", list(range(len(found["per_layer"]))))
    for number, wanted in enumerate(own):
        (one,) = attended(SPEC, [number])  # those before it as they were: the same q, k, v
        heads = (one - wanted).norm(dim=(0, 2)) / wanted.norm(dim=(0, 2))
        assert found["per_layer"][number] == pytest.approx(float(heads.mean()), abs=1e-5)
    assert found["mean"] == pytest.approx(sum(found["per_layer"]) / len(found["per_layer"]))
    assert found["mean"] > 0.01
    assert run["full", None]["evaluation"]["layer_error"] is None


def test_full_is_no_distance_from_full(run: dict):
    found = run["full", None]["evaluation"]
    assert found["loss_above_full"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert found["kl_to_full"]["mean"] == pytest.approx(0.0, abs=1e-7)
    assert found["top1_agreement"]["mean"] == 1.0


def test_the_window_at_equal_keys_is_there_and_time_and_memory(run: dict):
    own = run[SPEC, None]
    rival = run[own["evaluation"]["rival"]["asked"], None]
    assert rival["role"] == "comparison"
    assert rival["cost"]["keys_per_query"] == own["evaluation"]["rival"]["keys_per_query"]
    assert run["uniform", None]["status"] == "ok"
    for one in (own, rival):
        assert one["time"]["prefill_ms"]["n"] == 3
        assert one["memory"]["peak_bytes"] > 0
    alone = run[SPEC, 1]
    assert (alone["time"], alone["memory"]) == (None, None)
    assert (SPEC, 0) not in run  # full attention there, so that nothing changes


def test_the_second_copy_is_judged_on_its_own_tokens(run: dict):
    """A model that repeats the token 640 places before the next one reads the second copy."""
    tokens = evaluating.copies(loaded(tokens=2000).tokens, 3, 0)
    found = run["full", None]["evaluation"]["second_copy_loss"]
    model = llama()
    for one, value in zip(tokens, found["per_excerpt"], strict=True):
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([one])).logits[0].log_softmax(dim=-1)
        losses = -logs[:-1].gather(1, torch.tensor(one[1:])[:, None]).squeeze(1)
        assert value == pytest.approx(float(losses[-384:].mean()), abs=1e-5)


def test_what_cannot_be_copied_is_said(tmp_path: Path):
    evaluate(asked(lengths=(16,)), loaded(llama(max_position_embeddings=1023)), tmp_path / "a")
    found = by_name(tmp_path / "a")["full", None]["evaluation"]
    assert found["second_copy_loss"] is None
    assert "expected 640 or more" in found["notes"]["second_copy_loss"]
    long = loaded(llama(max_position_embeddings=1023), tokens=3000)
    evaluate(asked(lengths=(16,)), long, tmp_path / "b")
    notes = by_name(tmp_path / "b")["full", None]["evaluation"]["notes"]
    assert notes == {"second_copy_loss": "the model has 1023 positions, the copies need 1024"}


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    evaluate(asked(), loaded(), tmp_path)
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    evaluate(asked(), loaded(), tmp_path)
    again = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["case_key"] == json.loads(lines[-1])["case_key"]
    assert (tmp_path / "records.torn").exists()
    same = loaded()
    monkeypatch.setattr(Reader, "read", None)  # nothing is read where nothing is missing
    assert evaluate(asked(), same, tmp_path).exit_code == 0


def test_what_the_budget_leaves_out_is_said_and_can_be_done_later(tmp_path: Path):
    result = evaluate(asked(), loaded(), tmp_path, until=0.0)
    assert (result.exit_code, dict(result.statuses)) == (0, {"skipped": 4})
    assert "budget was spent" in read(tmp_path)[0]["reason"]
    assert not evaluate(asked(), loaded(), tmp_path).statuses.get("ok")
    again = evaluate(asked(), loaded(), tmp_path, retry=("skipped",))
    assert dict(again.statuses) == {"ok": 4}


def test_how_close_the_keys_came_is_in_the_record(tmp_path: Path):
    evaluate(asked(schedules=("local",), keys="5"), loaded(), tmp_path)
    found = by_name(tmp_path)
    spec = next(name for name, _ in found if name.startswith("local"))
    keys = found[spec, None]["evaluation"]["keys"]
    assert keys["wanted"] == 5
    assert keys["off"] == pytest.approx(found[spec, None]["cost"]["keys_per_query"] / 5 - 1)
    assert keys["matched"] == (abs(keys["off"]) <= 0.02)
    assert all(
        one["evaluation"]["keys"] is None for (name, _), one in found.items() if name != spec
    )


def test_another_evaluation_needs_extend(tmp_path: Path):
    evaluate(asked(), loaded(), tmp_path)
    with pytest.raises(BadInput, match="holds another evaluation: --extend"):
        evaluate(asked(lengths=(16,)), loaded(), tmp_path)
    with pytest.raises(BadInput, match="holds another evaluation"):
        evaluate(asked(), loaded(tokens=300), tmp_path)  # another text
    count = len(read(tmp_path))
    evaluate(asked(lengths=(16,)), loaded(), tmp_path, extend=True)
    assert len(read(tmp_path)) == 2 * count
    assert len(json.loads((tmp_path / "run.json").read_text())["evaluations"]) == 2


def test_what_a_pattern_cannot_do_is_a_record_and_the_others_go_on(tmp_path: Path):
    result = evaluate(asked(schedules=(SPEC, "oracle-topk[top=4]")), loaded(), tmp_path)
    assert result.exit_code == 0
    assert result.statuses["ok"] >= 4
    broken = asked(schedules=(SPEC,), backend="flex")
    result = evaluate(broken, loaded(), tmp_path / "b")
    found = by_name(tmp_path / "b")
    assert found[SPEC, None]["status"] == "unsupported"
    assert "has no backend 'flex'" in found[SPEC, None]["reason"]
    assert found["full", None]["status"] == "ok"


def test_a_pattern_that_is_not_what_it_says_has_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = Local._attend

    def spoilt(self: Local, *inputs: Any) -> torch.Tensor:
        return own(self, *inputs) * 1.01

    monkeypatch.setattr(Local, "_attend", spoilt)
    result = evaluate(asked(), loaded(), tmp_path)
    assert result.exit_code == 1
    found = by_name(tmp_path)
    wrong = found[SPEC, None]
    assert (wrong["status"], wrong["evaluation"], wrong["time"]) == ("wrong", None, None)
    assert "local[window=3]@" in wrong["reason"]
    assert found["full", None]["status"] == "ok"


def test_what_ran_is_in_the_record(run: dict):
    found = run[SPEC, None]["evaluation"]["implementations"]
    assert found.keys() == {"full", "local[window=3]"}
    assert found["full"] == "sdpa, native"
    assert run["full", None]["evaluation"]["implementations"] == {}


def test_a_schedule_puts_each_pattern_into_its_layer():
    model, ids = llama(), torch.tensor([loaded().tokens[:20]])
    with torch.no_grad():
        with attnbench.use(model, SPEC):
            found = model(input_ids=ids).logits
        with attnbench.use(model, "local[window=3]", layers=[1, 2]):
            expected = model(input_ids=ids).logits
        with attnbench.use(model, SPEC, layers=[0, 2]):
            partly = model(input_ids=ids).logits
        with attnbench.use(model, "local[window=3]", layers=[2]):
            last = model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(partly, last, atol=1e-5, rtol=0)
    assert (found - last).abs().max() > 0.01
    with pytest.raises(BadInput, match="leaves out layer 1 of 3"):
        attnbench.use(model, "0:full")


def test_models_that_predict_no_next_token_are_refused():
    sizes = {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "vocab_size")}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **heads))
    with pytest.raises(BadInput, match="BertForMaskedLM does not predict the next token"):
        Reader(bert)


def test_logits_with_a_soft_cap_are_refused():
    more = {"head_dim": 8, "final_logit_softcapping": 2.0, "pad_token_id": 0}
    gemma = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**{**SIZES, **more})).eval()
    with pytest.raises(Unsupported, match="soft cap"):
        Reader(gemma)


def test_gpt2_is_read_like_llama(tmp_path: Path):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": WORDS}
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends)).eval()
    evaluate(asked(), loaded(gpt2), tmp_path)
    ids = evaluating.excerpts(loaded().tokens, 32, 3, 0)
    with torch.no_grad():
        expected = [float(gpt2(input_ids=(x := torch.tensor([one])), labels=x).loss) for one in ids]
    found = by_name(tmp_path)["full", None]
    assert found["evaluation"]["loss"]["per_excerpt"] == pytest.approx(expected, abs=1e-5)
    assert found["case"]["kv_heads"] == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer that starts every text with a token of its own."""
    names = ["<s>", *(f"w{number}" for number in range(1, WORDS))]
    words = tokenizers.models.WordLevel({word: n for n, word in enumerate(names)}, unk_token="w1")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    place = tmp_path / "my-model"
    llama().save_pretrained(place)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>").save_pretrained(
        place
    )
    return place


def test_a_folder_of_pieces_in_bfloat16_is_read_like_a_whole_one(folder: Path, text: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    whole = evaluating.load(_named(folder), text)
    model.save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    found = evaluating.load(_named(folder), text)
    assert found.digest == whole.digest
    hidden, expected = (one.reader.read([1, 2, 3])[0] for one in (found, whole))
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, expected, atol=0.1, rtol=0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    found = tmp_path / "text"
    found.write_text(" ".join(f"w{1 + number % (WORDS - 1)}" for number in range(200)))
    return found


def test_the_command_evaluates_lists_and_reports(
    folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    typed = ["evaluate", str(folder), "--pattern", SPEC, "--length", "24", "--text", str(text)]
    typed += ["--excerpts", "2", "--device", "cpu", "--out", str(out)]
    assert run_bench.main([*typed, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert SPEC in told
    assert "uniform" in told
    assert not out.exists()
    assert run_bench.main(typed) == 0
    told = capsys.readouterr()
    assert f"{out}: 4 ok" in told.out
    assert f"tiny {SPEC}" not in told.err
    assert f"{SPEC}@auto: perplexity" in told.err
    assert run_bench.main(["report", str(out)]) == 0
    assert "Perplexity" in (out / "report.html").read_text()


def test_excerpts_start_as_the_model_expects(folder: Path, text: Path):
    found = evaluating.load(_named(folder), text)
    assert list(found.prefix) == [0]
    assert found.tokens[:3] == [1, 2, 3]


def _named(folder: Path) -> Evaluation:
    return Evaluation(model=str(folder), schedules=(SPEC,), lengths=(16,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--pattern", "locl"), "did you mean 'local'"),
        (("--pattern", "0:full"), "leaves out layer 1 of 3"),
        (("--length", "2k"), "the model has 1024 positions, got length 2048"),
        (("--length", "128"), "2 excerpts of 127 need 254"),
        (("--excerpts", "0"), "at least 1 excerpt"),
        (("--text", "no-such-file"), "cannot read no-such-file"),
        (("--retry", "okay"), "unknown status 'okay'"),
        (("--times", "no-such-run", "--dry-run"), "no-such-run is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, text: Path, tmp_path: Path, capsys: Any, changes: tuple[str, ...], said: str
):
    typed = ["evaluate", str(folder), "--pattern", SPEC, "--length", "24", "--text", str(text)]
    typed += ["--excerpts", "2", "--device", "cpu", "--out", str(tmp_path / "out"), *changes]
    assert run_bench.main(typed) == 2
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line and "weights:" not in line]  # a bar of transformers
    assert len(told) == 1
    assert said in told[0]
