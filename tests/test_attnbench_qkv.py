"""A capture comes back as it was written, and nothing else is ever taken for one."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.qkv import Layer, Rotary, load_layer, read_header, save_layers, save_qkv
from patterns.errors import BadInput

ROOT = Path(__file__).parents[1]
ROTARY = Rotary(base=1e5, width=4, layout="half")


def tensors(length: int = 6, heads: int = 4, kv_heads: int = 2, dtype=torch.float32) -> Layer:
    q = torch.randn(1, heads, length, 8).to(dtype)
    k, v = torch.randn(2, 1, kv_heads, length, 8).to(dtype)
    return Layer(q=q, k=k, v=v, output_projection=torch.randn(heads, 8, 5).to(dtype))


def document(**changes) -> dict:
    """The JSON of a valid capture of one layer, and what to change in it."""
    return {"schema": 1, "causal": True, "layers": {"0": {"length": 6}}, **changes}


def parts(layer: str = "0", **changes) -> dict[str, torch.Tensor]:
    """The tensors of a valid capture of one layer, and what to change; None leaves one out."""
    made = tensors()
    named = {"q": made.q, "k": made.k, "v": made.v, **changes}
    return {f"layers.{layer}.{part}": x for part, x in named.items() if x is not None}


def write_raw(path: Path, metadata: object, content: dict[str, torch.Tensor]) -> Path:
    """Write a safetensors file without any of the checks that save_qkv makes."""
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    path.write_bytes(safetensors.torch.save(content, {"attnbench": text}))
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_layer_comes_back_as_it_was_written(tmp_path: Path, dtype: torch.dtype):
    made = tensors(dtype=dtype)
    path = tmp_path / "a.safetensors"
    save_qkv(path, made.q, made.k, made.v, causal=True, output_projection=made.output_projection)
    read = load_layer(path, "0")
    for part in ("q", "k", "v", "output_projection"):
        assert torch.equal(getattr(read, part), getattr(made, part))
        assert getattr(read, part).dtype == dtype


def test_the_header_tells_everything_that_was_said(tmp_path: Path):
    said = {
        "causal": False,
        "scale": 0.25,
        "model": "m",
        "weights": "Q4_1",
        "rotary": ROTARY,
        "query_heads": (4, 5, 6, 7),
        "kv_heads": (2, 3),
        "token_ids": (3, 1, 4, 1, 5, 9),
        "token_text": ("a", "b", "c", "d", "é", "\ufffd"),
        "text_sha256": "0" * 64,
        "licence": "MIT",
        "note": "n",
    }
    written = save_layers(tmp_path / "a", {"7": tensors()}, **said)
    read = read_header(tmp_path / "a")
    assert read == written
    assert {name: getattr(read, name) for name in said} == said
    (layer,) = read.layers
    assert (layer.layer, layer.length, layer.heads, layer.kv_heads) == ("7", 6, 4, 2)
    assert (layer.dim, layer.width, layer.dtype) == (8, 5, torch.float32)


def test_layers_of_different_lengths_stand_in_the_order_of_their_numbers(tmp_path: Path):
    layers = {"10": tensors(3), "2": tensors(6), "encoder.0": tensors(1)}
    header = save_layers(tmp_path / "a", layers, causal=True, token_ids=range(6))
    assert [(one.layer, one.length) for one in header.layers] == [
        ("2", 6),
        ("10", 3),
        ("encoder.0", 1),
    ]
    assert read_header(tmp_path / "a") == header
    assert torch.equal(load_layer(tmp_path / "a", "10").q, layers["10"].q)


def test_views_that_share_memory_can_be_written(tmp_path: Path):
    x = torch.randn(1, 6, 2, 8).transpose(1, 2)
    save_qkv(tmp_path / "a", x, x, x, causal=True)
    assert torch.equal(load_layer(tmp_path / "a", "0").v, x)


def test_others_may_read_a_capture_as_any_new_file(tmp_path: Path):
    (tmp_path / "plain").write_bytes(b"")
    save_layers(tmp_path / "a", {"0": tensors()}, causal=True)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": torch.randn(1, 4, 5, 8)}, "have q's length"),
        ({"v": torch.randn(1, 2, 5, 8)}, "k and v must agree"),
        ({"q": torch.randn(1, 3, 6, 8)}, "must be a multiple"),
        ({"q": torch.randn(4, 6, 8)}, r"shapes \[1, heads, length, width\]"),
        ({"q": torch.randn(2, 4, 6, 8)}, r"shapes \[1, heads, length, width\]"),
        ({"q": torch.randn(1, 4, 6, 8, dtype=torch.float64)}, "must have one dtype"),
        ({"q": torch.ones(1, 4, 6, 8, dtype=torch.int32)}, "expected floats"),
        ({"q": torch.full((1, 4, 6, 8), torch.nan)}, "layers.0.q holds NaN or Inf"),
        ({"v": torch.full((1, 2, 6, 8), torch.inf)}, "layers.0.v holds NaN or Inf"),
        ({"q": [1.0]}, "expected a tensor as q, got list"),
        ({"k": torch.empty(1, 0, 6, 8), "v": torch.empty(1, 0, 6, 8)}, "make no sense"),
        ({"output_projection": torch.randn(2, 8, 5)}, r"expected o \[4, 8, width\]"),
        ({"layer": "a/b"}, "cannot be a layer's name"),
        ({"layer": "auto"}, "cannot be a layer's name"),
        ({"scale": float("nan")}, "expected a scale above 0"),
        ({"scale": 0.0}, "expected a scale above 0"),
        ({"causal": None}, "does not say whether"),
        ({"token_ids": [1, 2]}, "expected 6 token ids, got 2"),
        ({"token_text": ["a"]}, "expected 6 token texts, got 1"),
        ({"query_heads": [0]}, "expected 4 query head numbers"),
        ({"kv_heads": [0]}, "expected 2 key-value head numbers"),
        ({"rotary": Rotary(base=0.0, width=4, layout="half")}, "rotary expects a base above 0"),
        ({"rotary": Rotary(base=1e4, width=10, layout="half")}, "even width up to 8"),
        ({"rotary": Rotary(base=1e4, width=4, layout="odd")}, "expects half or interleaved"),
        ({"note": 3}, "'note' expects str, got 3"),
    ],
)
def test_what_makes_no_sense_is_not_written(tmp_path: Path, changes: dict, sentence: str):
    made = tensors()
    arguments = {"q": made.q, "k": made.k, "v": made.v, "causal": True, **changes}
    with pytest.raises(BadInput, match=sentence):
        save_qkv(tmp_path / "a", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "content", "sentence"),
    [
        ("{", parts(), "not valid JSON"),
        ("[" * 100_000, parts(), "not valid JSON"),
        ("[]", parts(), "expected an object"),
        (document(schema=2), parts(), "has schema 2, and this attnbench reads schema 1"),
        (document(schema=None), parts(), "has schema None"),
        (document(causal="yes"), parts(), "'causal' expects bool, got 'yes'"),
        (document(causal=1), parts(), "'causal' expects bool, got 1"),
        (document(scale=True), parts(), "'scale' expects float"),
        (document(scale=10**400), parts(), "'scale' expects float"),
        (document(scale=float("inf")), parts(), "expected a scale above 0"),
        (document(layers={}), parts(), "lists no layers"),
        (document(layers=[0]), parts(), "'layers' expects dict"),
        (document(layers={"0": 6}), parts(), "expected an object, got 6"),
        (document(layers={"0": {"length": 7}}), parts(), "claims length 7, but q has 6"),
        (document(layers={"0": {}}), parts(), "claims length None"),
        (document(), parts(v=None), "layer 0 has no v"),
        (document(), parts("1"), "'layers.1.[qkv]' that its metadata does not list"),
        (document(), {**parts(), "extra": torch.ones(1)}, "'extra' that its metadata"),
        (document(), parts(q=torch.ones(1, 4, 6, 8, dtype=torch.int8)), "q is I8"),
        (document(), parts(q=torch.ones(1, 3, 6, 8)), "must be a multiple"),
        (document(), parts(k=torch.ones(1, 2, 5, 8)), "k and v must agree"),
        (document(tokens={"ids": [1] * 6, "ids_sha256": "0"}), parts(), "was altered"),
        (document(tokens={"ids": ["1"] * 6}), parts(), "'ids' expects a list of int"),
        (document(tokens={"ids": [1, 2, 3, 4, 5, None]}), parts(), "'ids' expects a list of int"),
        (document(rotary={"base": 1e4, "width": 4}), parts(), "layout expects"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused(
    tmp_path: Path, metadata: object, content: dict, sentence: str
):
    path = write_raw(tmp_path / "a.safetensors", metadata, content)
    for read in (read_header, lambda path: load_layer(path, "0")):
        with pytest.raises(BadInput, match=sentence) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_a_valid_file_of_somebody_else_is_refused(tmp_path: Path):
    safetensors.torch.save_file(parts(), tmp_path / "a")
    with pytest.raises(BadInput, match="not a capture"):
        read_header(tmp_path / "a")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_inf_are_found_when_the_layer_is_loaded(tmp_path: Path, value: float):
    content = parts()
    content["layers.0.k"][0, 1, 3, 5] = value
    path = write_raw(tmp_path / "a", document(), content)
    assert read_header(path).causal
    with pytest.raises(BadInput, match=r"layers\.0\.k holds NaN or Inf"):
        load_layer(path, "0")


def test_a_layer_that_is_not_there_is_named(tmp_path: Path):
    save_layers(tmp_path / "a", {"15": tensors(), "5": tensors()}, causal=True)
    with pytest.raises(BadInput, match="has no layer '16': There are: 15, 5"):
        load_layer(tmp_path / "a", "16")


class Canary:
    """Unpickling this would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path: Path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(Canary(tmp_path / "x"), protocol))
    torch.save({"q": torch.ones(3)}, tmp_path / "a.pt")
    torch.save(Canary(tmp_path / "x"), tmp_path / "b.pt")
    for path in list(tmp_path.iterdir()):
        with pytest.raises(BadInput, match=f"{path.name} is not a valid safetensors file"):
            read_header(path)
    assert not (tmp_path / "x").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    save_layers(tmp_path / "a", {"0": tensors()}, causal=True)
    whole = (tmp_path / "a").read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(BadInput, match="not a valid safetensors file"):
            read_header(tmp_path / "b")


@pytest.mark.parametrize("claimed", [2**64 - 1, 2**63, 99_000_000, 0, 7])
def test_a_header_of_a_wrong_length_is_refused(tmp_path: Path, claimed: int):
    save_layers(tmp_path / "a", {"0": tensors()}, causal=True)
    rest = (tmp_path / "a").read_bytes()[8:]
    (tmp_path / "a").write_bytes(claimed.to_bytes(8, "little") + rest)
    with pytest.raises(BadInput, match="not a valid safetensors file"):
        read_header(tmp_path / "a")


@pytest.mark.parametrize("shape", [[1, 4, 2**40, 8], [1, 2**62, 2**62, 8], [1, 4, -6, 8], "big"])
def test_absurd_shapes_are_refused(tmp_path: Path, shape: object):
    write_raw(tmp_path / "a", document(), parts())
    data = (tmp_path / "a").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["layers.0.q"]["shape"] = shape
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(BadInput, match="not a valid safetensors file"):
        read_header(tmp_path / "a")


@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=4))
def test_altered_bytes_give_a_sentence_or_a_capture(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("altered")
    save_layers(folder / "a", {"0": tensors()}, causal=True, token_ids=range(6), rotary=ROTARY)
    data = bytearray((folder / "a").read_bytes())
    for position, value in changes:
        data[position] = value
    (folder / "a").write_bytes(data)
    try:
        load_layer(folder / "a", read_header(folder / "a").layers[0].layer)
    except BadInput as error:
        assert str(folder / "a") in str(error)  # noqa: PT017 - either outcome is right


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, sentence in {
        "pipe": "expected a file",
        "folder": "expected a file",
        "absent": "No such file",
        "folder/absent": "No such file",
    }.items():
        with pytest.raises(BadInput, match=f"cannot read {tmp_path / name}: {sentence}"):
            read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("absent/a", "No such file"), ("file/a", "Not a directory"), ("folder", "Is a directory")],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, target: str, sentence: str):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=f"cannot write {tmp_path / target}: {sentence}"):
        save_layers(tmp_path / target, {"0": tensors()}, causal=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


IN_CHILD = """
import os, resource, sys, torch
from attnbench.qkv import read_header, save_qkv
from patterns.errors import BadInput
x = torch.ones(1, 1, 64, 64)
{prepare}
try:
    {act}
except BadInput as error:
    print(error)
"""


def say_in_child(prepare: str, act: str, path: Path) -> str:
    """What a Python of its own says when it gets BadInput; its limits and rights end with it."""
    done = subprocess.run(
        [sys.executable, "-c", IN_CHILD.format(prepare=prepare, act=act), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


# Root may read and write everything, so a child of root goes on as nobody.
DROP_RIGHTS = "os.getuid() or os.setuid(65534)"


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_layers(path, {"0": tensors()}, causal=True)
    before = path.read_bytes()
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    said = say_in_child(limit, "save_qkv(sys.argv[1], x, x, x, causal=True)", path)
    assert said == f"cannot write {path}: File too large"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_without_permission_is_named(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_layers(path, {"0": tensors()}, causal=True)
    path.chmod(0o000)
    tmp_path.chmod(0o500)
    said = say_in_child(DROP_RIGHTS, "read_header(sys.argv[1])", path)
    assert said == f"cannot read {path}: Permission denied"
    said = say_in_child(DROP_RIGHTS, "save_qkv(sys.argv[1], x, x, x, causal=True)", path)
    assert said == f"cannot write {path}: Permission denied"
    tmp_path.chmod(0o700)
