"""What `inspect` draws: the right layers and heads, checked first, the worst rows one to one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import run_bench
from attnbench import maps
from attnbench.crops import with_worst, worst_place
from attnbench.inspection import Wanted, Wrong, inspected
from attnbench.qkv import Layer, save_layers
from attnbench.reference import scale_of
from attnbench.sources import Inputs
from patterns import pattern
from patterns.errors import BadInput
from patterns.full import Full
from patterns.sparse.local import Local

SOURCE = "needle"


def drawn(length: int, heads: int = 3, kv_heads: int = 1) -> Inputs:
    q = torch.randn(1, heads, length, 8)
    k, v = torch.randn(2, 1, kv_heads, length, 8)
    return Inputs(q=3 * q, k=k, v=v)


@pytest.mark.parametrize("spec", ["combiner-fixed[block=16]", "local[window=40]"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_worst_rows_are_those_of_the_definitions(spec: str, causal: bool, monkeypatch):
    monkeypatch.setattr(maps, "CROP", 32)
    one, inputs = replace(pattern(spec), causal=causal), drawn(203)
    made = maps.make(one, inputs, bins=30, heads=[0, 2])
    found = with_worst(made, one, inputs)
    query, key = found.meta["worst"]["query"], found.meta["worst"]["key"]
    rows = torch.arange(query, query + 32)
    for name, exact in (("crop_full", Full(causal=causal)), ("crop_effective", one)):
        weights = exact.resolve(203).weights(
            inputs.q.double(), inputs.k.double(), rows=rows, scale=scale_of(inputs)
        )
        expected = weights[0, [0, 2], :, key : key + 32].numpy()
        assert getattr(found, name).shape == (2, 3, 32, 32)
        np.testing.assert_allclose(getattr(found, name)[:, 2], expected, atol=2e-6)
        assert np.array_equal(getattr(found, name)[:, :2], getattr(made, name))


def test_the_worst_place_holds_the_worst_row_and_the_keys_that_differ():
    made = maps.make(pattern("full"), drawn(256), bins=64)
    absolute = np.zeros_like(made.absolute)
    absolute[:, 50, 13:15] = 0.1
    planted = replace(made, absolute=absolute, crop_full=np.zeros((3, 2, 16, 16), np.float32))
    query, key = worst_place(planted)
    assert 51 * 4 - 16 <= query <= 50 * 4
    assert 15 * 4 - 16 <= key <= 13 * 4


def test_a_map_of_single_pairs_and_its_file_stay_as_they_are(tmp_path: Path):
    inputs = drawn(96)
    small = maps.make(pattern("full"), inputs)
    assert with_worst(small, pattern("full"), inputs) is small
    wide = with_worst(maps.make(pattern("full"), inputs, bins=32), pattern("full"), inputs)
    maps.save_map(tmp_path / "m.npz", wide)
    again = maps.load_map(tmp_path / "m.npz")
    assert again.crop_full.shape == (3, 3, 96, 96)
    assert again.meta["worst"] == wide.meta["worst"]


def test_the_usual_heads_and_the_layers_that_were_asked_for():
    wanted = Wanted(pattern=pattern("local[window=8]"), source="captured", length=64, bins=16)
    (first,) = inspected(wanted)
    assert first.meta["case"]["layer"] == "0"
    assert first.meta["heads"] == [0, 1, 2]
    assert "".join(first.meta["tokens"]).startswith('The "assert" statement')
    assert len(first.meta["tokens"]) == 64
    some = inspected(replace(wanted, layers=("15", "5"), heads=(2,)))
    assert [(one.meta["case"]["layer"], one.meta["heads"]) for one in some] == [
        ("5", [2]), ("15", [2]),
    ]  # fmt: skip
    (long,) = inspected(replace(wanted, length=2500, heads=(0,)))
    assert long.meta["case"]["layer"] == "20"
    (synthetic,) = inspected(replace(wanted, source=SOURCE))
    assert synthetic.meta["heads"] == [0, 1, 2, 3]
    assert "tokens" not in synthetic.meta


def test_the_text_of_a_capture_is_shown_only_where_it_was_asked_for(tmp_path: Path):
    held = drawn(40)
    path = tmp_path / "mine.safetensors"
    layer = Layer(q=held.q, k=held.k, v=held.v)
    save_layers(path, {"0": layer}, causal=True, token_text=[f"secret {i}" for i in range(40)])
    wanted = Wanted(pattern=pattern("full"), source=f"captured:{path}", length=20)
    assert "tokens" not in inspected(wanted)[0].meta
    shown = inspected(replace(wanted, tokens=True))[0].meta["tokens"]
    assert shown == [f"secret {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": ("77",)}, "no layer '77'"),
        ({"heads": (3,)}, "heads 0 to 2, got head 3"),
        ({"length": 9000}, "too few for a length of 9000"),
        ({"pattern": pattern("local[window=4k]"), "length": 64}, "longer than the length 64"),
        ({"source": "gaussian", "layers": ("1",)}, "leave it out"),
    ],
)
def test_what_cannot_be_drawn_is_said(changes: dict, said: str):
    wanted = Wanted(pattern=pattern("full"), source="captured", length=64)
    with pytest.raises(BadInput, match=said):
        inspected(replace(wanted, **changes))


@pytest.mark.parametrize("factor", [float("nan"), 1.01])
def test_a_form_that_is_wrong_has_no_map(factor: float, tmp_path: Path, monkeypatch, capsys):
    right = Local._attend
    monkeypatch.setattr(Local, "_attend", lambda *given: right(*given) * factor)
    with pytest.raises(Wrong):
        inspected(Wanted(pattern=pattern("local[window=8]"), source=SOURCE, length=64))
    out = tmp_path / "out"
    typed = ["inspect", "local[window=8]", "--source", SOURCE, "--length", "64", "--out", str(out)]
    assert run_bench.main(typed) == 1
    said = capsys.readouterr()
    assert said.err.startswith("no map of local[window=8] is drawn, its check failed on ")
    assert said.err.count("\n") == 1
    assert not out.exists()
