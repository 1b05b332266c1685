"""Each source has the structure it claims in every size; the sample is what it says it is."""

import hashlib
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attnbench.qkv import load_layer, read_header, save_qkv
from attnbench.sources import DATA, SAMPLE, SOURCES, Inputs, Setting, load, offers, settings
from attnbench.synthetic import Clustered, HeavyHitter, Needle, Shape
from patterns.errors import BadInput
from patterns.grammar import near_match

SYNTHETIC = sorted(set(SOURCES) - {"captured"})


def one(spec: str, causal: bool = True) -> Setting:
    """The only setting of a spec."""
    (setting,) = settings(spec, causal=causal)
    return setting


def draw(
    spec: str, length: int, seed: int = 0, heads: int = 4, kv_heads: int = 2, **more
) -> Inputs:
    """Float32 inputs on the CPU."""
    asked = {"device": "cpu", "dtype": torch.float32, "dim": 64, **more}
    return load(one(spec), length=length, seed=seed, heads=heads, kv_heads=kv_heads, **asked)


def logits(inputs: Inputs) -> Tensor:
    """What softmax attention takes the softmax of, ``[B, Hq, L, L]``, without a mask."""
    scale = inputs.scale or inputs.q.shape[-1] ** -0.5
    q, k = inputs.q.float(), inputs.k.float()
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT * scale


def attention(inputs: Inputs, *, causal: bool) -> Tensor:
    """The full softmax map, ``[B, Hq, L, L]``."""
    scores = logits(inputs)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return scores.softmax(-1)


def entropy(weights: Tensor) -> Tensor:
    """In nats, of each row."""
    return -torch.xlogy(weights, weights).sum(-1)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_entropy_in_the_docstring_is_the_one_measured(name: str):
    said = re.search(r"(\d+\.\d) nats", SOURCES[name].__doc__ or "")
    measured = entropy(attention(draw(name, 2048), causal=True)).mean().item()
    assert said is not None
    assert measured == pytest.approx(float(said[1]), abs=0.06)


@pytest.mark.parametrize("name", sorted(set(SYNTHETIC) - {"gaussian"}))
def test_entropies_resemble_those_of_trained_layers(name: str):
    assert 1.7 < entropy(attention(draw(name, 2048), causal=True)).mean() < 5.7


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 257])
def test_every_length_has_the_shapes_asked_for(name: str, length: int):
    inputs = draw(name, length, heads=6, kv_heads=3, dim=16, batch=2)
    assert inputs.q.shape == (2, 6, length, 16)
    assert inputs.k.shape == inputs.v.shape == (2, 3, length, 16)
    for tensor in (inputs.q, inputs.k, inputs.v):
        assert torch.isfinite(tensor).all()
    assert (inputs.scale, inputs.tokens, inputs.rotary, inputs.output_projection) == (None,) * 4


@pytest.mark.parametrize("name", sorted(set(SYNTHETIC) - {"low-rank"}))
@pytest.mark.parametrize("dim", [1, 2, 3, 7])
def test_narrow_heads_are_served(name: str, dim: int):
    assert torch.isfinite(draw(name, 9, dim=dim).q).all()


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_seed_gives_the_same_numbers_in_every_dtype(name: str):
    first, again, other = draw(name, 50, 1), draw(name, 50, 1), draw(name, 50, 2)
    half = draw(name, 50, 1, dtype=torch.bfloat16)
    for part in "qkv":
        assert torch.equal(getattr(first, part), getattr(again, part))
        assert not torch.equal(getattr(first, part), getattr(other, part))
        assert torch.equal(getattr(first, part).bfloat16(), getattr(half, part))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_numbers_do_not_depend_on_what_ran_before(name: str):
    first = draw(name, 20)
    torch.manual_seed(123)
    assert torch.equal(first.q, draw(name, 20).q)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_inputs_go_to_the_device(name: str):
    inputs = load(one(name), length=8, seed=0, device="meta", dtype=torch.float16)
    assert (inputs.q.device.type, inputs.q.dtype) == ("meta", torch.float16)
    assert inputs.q.shape == (1, 8, 8, 64)


def test_sequences_of_a_batch_and_heads_of_a_group_differ():
    for name in SYNTHETIC:
        maps = attention(draw(name, 64, batch=2), causal=False)
        assert not torch.allclose(maps[0], maps[1])
        assert not torch.allclose(maps[:, 0], maps[:, 1])


def test_gaussian_has_the_deviation_asked_for():
    inputs = draw("gaussian[sigma=0.5]", 4096)
    assert inputs.q.std().item() == pytest.approx(0.5, rel=0.01)
    assert inputs.v.std().item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("causal", [True, False])
def test_local_decay_falls_with_distance(causal: bool):
    weights = attention(draw("local-decay", 1024), causal=causal)[0, :, 512:]
    distance = (torch.arange(512, 1024)[:, None] - torch.arange(1024)).abs()
    bins = [weights[:, (distance >= a) & (distance < 4 * a)].mean(-1) for a in (1, 4, 16, 64)]
    for near, far in pairwise(bins):
        assert (near > 1.5 * far).all()


def test_local_decay_heads_run_from_far_to_near():
    near = attention(draw("local-decay", 1024), causal=True)[0, :, 512:].tril(512).triu(448)
    mass = near.sum(-1).mean(-1)
    assert (mass.diff() > 0).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spec", ["clustered", "clustered[clusters=4,mass=0.95]"])
def test_clustered_tokens_attend_within(spec: str, causal: bool):
    source = Clustered() if spec == "clustered" else Clustered(clusters=4, mass=0.95)
    shape = Shape(batch=1, heads=4, kv_heads=2, length=1024, dim=64)
    members = source.members(shape, torch.Generator().manual_seed(0))
    within = (members[..., :, None] == members[..., None, :]).repeat_interleave(2, dim=1)
    mass = (attention(draw(spec, 1024), causal=causal) * within).sum(-1)[..., 512:].mean(-1)
    assert mass.mean().item() == pytest.approx(source.mass, abs=0.1)
    assert within.float().mean() < 2 / source.clusters


def test_clusters_come_in_runs_of_the_length_asked_for():
    shape = Shape(batch=1, heads=2, kv_heads=2, length=20_000, dim=64)
    members = Clustered(run=20.0, clusters=64).members(shape, torch.Generator().manual_seed(0))
    changes = (members.diff() != 0).float().mean().item()
    assert 1 / changes == pytest.approx(20 * 64 / 63, rel=0.1)
    assert members.unique().numel() == 64


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [64, 2048])
def test_sinks_take_most_of_the_mass(causal: bool, length: int):
    inputs = draw("sink", length)
    mass = attention(inputs, causal=causal)[..., :4].sum(-1)[..., length // 2 :].mean(-1)
    assert (mass > 0.5).all()
    assert inputs.v[:, :, :4].norm(dim=-1).mean() < 0.2 * inputs.v[:, :, 4:].norm(dim=-1).mean()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("length", [64, 2048])
def test_late_queries_find_the_needle_and_others_do_not(causal: bool, depth: float, length: int):
    source = Needle(depth=depth)
    key, late = source.key_position(length), source.query_positions(length)
    assert key == int(depth * (length - 1))
    assert late.stop == length
    weights = attention(draw(f"needle[depth={depth}]", length), causal=causal)[..., key]
    assert (weights[..., late.start :].mean(-1) > 0.75).all()
    if not causal:
        assert weights[..., : late.start].mean() < 2 / length


def test_a_needle_stands_before_the_queries_that_look_for_it():
    for length in range(1, 40):
        for depth in (0.0, 0.3, 0.99, 1.0):
            key = Needle(depth=depth).key_position(length)
            late = Needle(depth=depth).query_positions(length)
            assert 1 <= len(late) <= 16
            assert key < late.start or key == late.start == length - 1


@pytest.mark.parametrize("causal", [True, False])
def test_heavy_hitters_get_much_mass_from_all_queries(causal: bool):
    shape = Shape(batch=1, heads=4, kv_heads=2, length=1024, dim=64)
    positions = HeavyHitter().positions(shape, torch.Generator().manual_seed(0))
    assert positions.shape == (1, 2, 16)
    weights = attention(draw("heavy-hitter", 1024), causal=causal)[:, :, 512:]
    index = positions.repeat_interleave(2, dim=1)[:, :, None].expand(-1, -1, 512, -1)
    mass = weights.gather(-1, index).sum(-1)
    assert (mass.mean(-1) > 0.3).all()
    assert mass.mean().item() == pytest.approx(0.6, abs=0.1)


def test_low_rank_logits_have_the_rank_asked_for():
    values = torch.linalg.svdvals(logits(draw("low-rank[rank=5]", 128))[0, 0].double())
    assert values[4] > 0.3 * values[0]
    assert values[5] < 1e-5 * values[0]


@pytest.mark.parametrize("name", ["clustered", "low-rank", "needle", "local-decay"])
def test_structure_lies_along_no_axis(name: str):
    spread = draw(name, 512).k.var(dim=-2)  # of each entry
    assert (spread.amax(-1) < 10 * spread.mean(-1)).all()
    assert (spread > 0.001).all()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("neddle", "unknown source 'neddle': did you mean 'needle'"),
        ("needle[deep=1]", "has no parameter 'deep': did you mean 'depth'"),
        ("needle[depth=x]", "expected a number"),
        ("needle[depth=1.5]", r"needle\[depth=...\] expects 0 to 1, got 1.5"),
        ("needle[queries=0]", "expects at least 1"),
        ("sink[mass=1]", "above 0 and below 1"),
        ("sink[tokens=0]", "expects at least 1"),
        ("gaussian[sigma=nan]", "expects at least 0"),
        ("gaussian[sigma=inf]", "expects at least 0"),
        ("clustered[clusters=0]", "expects at least 1"),
        ("clustered[run=0.5]", "expects at least 1"),
        ("heavy-hitter[keys=0]", "expects at least 1"),
        ("low-rank[rank=0]", "expects at least 1"),
        ("local-decay[base=1]", "expects above 1"),
        ("captured[layer=6]", "captured has no layer '6'"),
        ("captured[head=6]", "has no parameter 'head'"),
        ("captured[layer=5", "cannot read"),
        ("captured:", "expects a file after the colon"),
        ("captured:absent.safetensors", "cannot read absent.safetensors"),
        ("capturd", "did you mean 'captured'"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_a_sentence(spec: str, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        settings(spec, causal=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 6, "kv_heads": 4}, "a multiple of the key-value heads"),
        ({"heads": 0}, "expected sizes of at least 1"),
        ({"batch": 0}, "expected sizes of at least 1"),
        ({"dim": -1}, "expected sizes of at least 1"),
        ({"length": 0}, "expected a length of at least 1, got 0"),
        ({"seed": -1}, "expected a seed from 0"),
        ({"dim": 4}, "needs a head width of at least 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, sentence: str):
    asked = {"length": 8, "seed": 0, "device": "cpu", "dtype": torch.float32, **changes}
    with pytest.raises(BadInput, match=sentence):
        load(one("low-rank"), **asked)


def test_specs_are_made_canonical_and_swept():
    found = settings("needle[ depth = 0.25 | 0.5, queries=8]", causal=False)
    assert [setting.source for setting in found] == [
        "needle[queries=8]",
        "needle[depth=0.5,queries=8]",
    ]
    assert [settings(setting.source, causal=True) for setting in found] == [[x] for x in found]


def test_the_sources_can_only_be_read():
    with pytest.raises(TypeError):
        SOURCES["mine"] = Needle  # type: ignore[index]
    assert list(SOURCES) == sorted(SOURCES)
    assert near_match("sinc", SOURCES).startswith("did you mean 'sink'")


def test_the_shipped_sample_has_these_layers():
    causal = [(one.layer, one.max_length) for one in settings("captured", causal=True)]
    assert causal == [("0", 2048), ("5", 2048), ("15", 2048), ("20", 8192), ("29", 2048)]
    both = settings("captured", causal=False)
    assert [(one.layer, one.max_length, one.heads) for one in both] == [
        ("1", 512, 8),
        ("5", 512, 8),
    ]
    for setting in settings("captured", causal=True):
        assert (setting.heads, setting.kv_heads, setting.dim) == (3, 1, 64)
        assert (setting.source, setting.causal) == ("captured", True)


def test_layers_can_be_chosen():
    assert one("captured[layer=5]").layer == "5"
    chosen = settings("captured[layer=29|0]", causal=True)
    assert [setting.layer for setting in chosen] == ["0", "29"]
    assert {setting.source for setting in chosen} == {"captured"}
    assert len(settings("captured[layer=auto]", causal=True)) == 5


def test_a_causal_capture_offers_prefixes_and_a_bidirectional_one_does_not():
    causal, both = one("captured[layer=5]"), one("captured[layer=5]", causal=False)
    assert [offers(causal, n) for n in (0, 1, 2048, 2049)] == [False, True, True, False]
    assert [offers(both, n) for n in (511, 512, 513)] == [False, True, False]
    assert [offers(one("sink"), n) for n in (0, 1, 1 << 20)] == [False, True, True]


def test_a_prefix_is_the_start_of_the_whole():
    setting = one("captured[layer=20]")
    asked = {"seed": 0, "device": "cpu", "dtype": torch.bfloat16}
    whole, part = load(setting, length=8192, **asked), load(setting, length=100, **asked)
    for name in "qkv":
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, :, :100])
    assert len(whole.tokens) == 8192
    assert part.tokens == whole.tokens[:100]
    assert part.output_projection.shape == (3, 64, 576)
    assert (part.rotary.base, part.rotary.width, part.rotary.layout) == (1e5, 64, "half")
    assert part.scale == 0.125


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"length": 2049}, "captured, layer 5, has 2048 tokens, too few for a length of 2049"),
        ({"causal": False, "length": 100}, "cannot be cut: its length is 512, got 100"),
        ({"heads": 9}, "has sizes"),
        ({"kv_heads": 3}, "has sizes"),
        ({"dim": 32}, "has sizes"),
        ({"batch": 2}, "has sizes"),
    ],
)
def test_a_capture_gives_only_what_it_has(changes: dict, sentence: str):
    asked = {"length": 8, "seed": 0, "device": "cpu", "dtype": torch.float32, **changes}
    with pytest.raises(BadInput, match=sentence):
        load(one("captured[layer=5]", causal=asked.pop("causal", True)), **asked)


@pytest.mark.parametrize("name", ["a.safetensors", "with [brackets].qkv", "a:b"])
def test_a_file_of_ones_own(tmp_path: Path, name: str):
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    path = tmp_path / name
    save_qkv(path, q, k, k, causal=False, layer="3", token_ids=range(6), token_text="abcdef")
    setting = one(f"captured:{path}", causal=False)
    assert setting == one(f" captured:{path}[layer=3] ", causal=False)
    assert setting == Setting(
        source=f"captured:{path}",
        layer="3",
        max_length=6,
        causal=False,
        heads=4,
        kv_heads=2,
        dim=8,
    )
    inputs = load(setting, length=6, seed=0, device="cpu", dtype=torch.float32)
    assert torch.equal(inputs.q, q)
    assert (inputs.scale, inputs.output_projection, inputs.rotary) == (None, None, None)
    assert inputs.tokens is None, "the text of a user's capture shows itself only where asked for"


def test_the_wrong_causality_is_said(tmp_path: Path):
    x = torch.randn(1, 1, 4, 8)
    save_qkv(tmp_path / "a", x, x, x, causal=True)
    with pytest.raises(BadInput, match="holds causal attention, expected bidirectional"):
        settings(f"captured:{tmp_path / 'a'}", causal=False)


@pytest.mark.parametrize("causal", [True, False])
def test_the_sample_says_where_it_comes_from(causal: bool):
    header = read_header(SAMPLE[causal])
    text = (DATA / "topics.txt").read_text(encoding="utf-8")
    assert header.causal == causal
    assert header.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert "Apache-2.0" in header.licence
    assert "PSF" in header.licence
    assert header.weights == ("Q4_1" if causal else "float32")
    assert len(header.token_text) == max(layer.length for layer in header.layers)
    assert all(layer.width for layer in header.layers)


def test_the_tokens_of_the_sample_spell_its_text():
    text = (DATA / "topics.txt").read_text(encoding="utf-8")
    spelled = "".join(read_header(SAMPLE[True]).token_text)
    # A character whose bytes fall into two tokens has no text of its own in either.
    assert re.match(re.escape(spelled).replace("\ufffd", ".?"), text)


def test_the_sample_attends_as_trained_layers_do():
    means = {}
    for causal, spec in ((True, "captured[layer=0|5|15|29]"), (False, "captured")):
        for setting in settings(spec, causal=causal):
            length = setting.max_length
            inputs = load(setting, length=length, seed=0, device="cpu", dtype=torch.float32)
            weights = attention(inputs, causal=causal)
            means[setting.causal, setting.layer] = entropy(weights).mean().item()
    assert means == pytest.approx(
        {
            (True, "0"): 6.10,
            (True, "5"): 3.71,
            (True, "15"): 2.14,
            (True, "29"): 2.66,
            (False, "1"): 3.69,
            (False, "5"): 5.42,
        },
        abs=0.01,
    )


def test_layers_of_the_sample_are_stored_in_bfloat16():
    for causal in (True, False):
        for shape in read_header(SAMPLE[causal]).layers:
            assert load_layer(SAMPLE[causal], shape.layer).q.dtype == torch.bfloat16


def test_the_sample_is_small_and_tells_its_licences():
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 14_000_000
    notice = (DATA / "NOTICE.md").read_text()
    for path in DATA.iterdir():
        assert path.name == "NOTICE.md" or path.name in notice
    for word in ("Apache License, Version 2.0", "Q4_1", "PSF"):
        assert word in notice
