"""What a capture says about itself: the JSON document beside its tensors, and the check of both.

Letters: H heads (query or key-value), L length, D head width.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from patterns.errors import BadInput

SCHEMA = 1
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_LAYER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TENSOR_NAME = re.compile(r"layers\.(?P<layer>.+)\.[qkvo]")
_LONGEST, _WIDEST = 1 << 27, 1 << 16

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """The rotary embedding that the stored q and k have already been through.

    Position p turns pair i of the first `width` entries of a head by ``p * base ** (-2i / width)``.
    In the layout "half", pair i is entries i and i + width / 2; in "interleaved", 2i and 2i + 1.
    The first token stands at position 0.
    """

    base: float
    width: int
    layout: Literal["half", "interleaved"]


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One layer as the header describes it: its name, its sizes and its dtype."""

    layer: str
    length: int
    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    width: int | None  # of the output projection; None where the file has none


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a capture says about itself, known without loading a tensor.

    `scale` None means 1/sqrt(D). `query_heads` and `kv_heads` are the numbers that the stored
    heads had in the model. `token_ids` and `token_text` belong to the longest layer; the others
    hold its first tokens.
    """

    causal: bool
    layers: tuple[LayerShape, ...]
    scale: float | None = None
    model: str | None = None
    weights: str | None = None
    rotary: Rotary | None = None
    query_heads: tuple[int, ...] | None = None
    kv_heads: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    token_text: tuple[str, ...] | None = None
    text_sha256: str | None = None
    licence: str | None = None
    note: str | None = None


def hash_of_ids(token_ids: Sequence[int]) -> str:
    """SHA-256 of the ids in decimal, joined by single spaces: easy to repeat in any language."""
    return hashlib.sha256(" ".join(map(str, token_ids)).encode("ascii")).hexdigest()


def checked(document: Any, tensors: Mapping[str, tuple[Shape, Any]], path: Path) -> Header:
    """Check a JSON document against the tensors that stand beside it, for writing and reading.

    Args:
        document: what the JSON says.
        tensors: tensor name -> shape and dtype.
        path: the file, for the errors.

    Raises:
        BadInput: the document or a tensor is not as the format says, or they disagree.
    """
    fields = _Fields(document, path)
    schema = fields.take("schema", int)
    if schema != SCHEMA:
        raise BadInput(f"{path} has schema {schema!r}, and this attnbench reads schema {SCHEMA}")
    causal = fields.take("causal", bool)
    if causal is None:
        raise BadInput(f"the metadata of {path} does not say whether the layers are causal")
    scale = fields.take("scale", float)
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise BadInput(f"{path}: expected a scale above 0, got {scale}")
    lengths = {
        name: _Fields(layer, path).take("length", int)
        for name, layer in (fields.take("layers", dict) or {}).items()
    }
    layers = _layers(lengths, tensors, path)
    heads = _Fields(fields.take("heads", dict) or {}, path)
    tokens = _Fields(fields.take("tokens", dict) or {}, path)
    header = Header(
        causal=causal,
        layers=layers,
        scale=scale,
        model=fields.take("model", str),
        weights=fields.take("weights", str),
        rotary=_rotary(fields.take("rotary", dict), layers, path),
        query_heads=heads.take_all("query", int),
        kv_heads=heads.take_all("key_value", int),
        token_ids=tokens.take_all("ids", int),
        token_text=tokens.take_all("text", str),
        text_sha256=fields.take("text_sha256", str),
        licence=fields.take("licence", str),
        note=fields.take("note", str),
    )
    ids = header.token_ids
    if ids is not None and tokens.take("ids_sha256", str) != hash_of_ids(ids):
        raise BadInput(f"{path} was altered: the token ids do not match their SHA-256")
    _check_counts(header, path)
    return header


def _check_counts(header: Header, path: Path) -> None:
    """Lists that name heads or tokens must be as long as there are heads or tokens."""
    longest = max(layer.length for layer in header.layers)
    lists: list[tuple[str, Sized | None, int]] = [
        ("token ids", header.token_ids, longest),
        ("token texts", header.token_text, longest),
    ]
    for layer in header.layers:
        lists.append(("query head numbers", header.query_heads, layer.heads))
        lists.append(("key-value head numbers", header.kv_heads, layer.kv_heads))
    for what, values, expected in lists:
        if values is not None and len(values) != expected:
            raise BadInput(f"{path}: expected {expected} {what}, got {len(values)}")


def _layers(
    lengths: Mapping[str, int | None], tensors: Mapping[str, tuple[Shape, Any]], path: Path
) -> tuple[LayerShape, ...]:
    """Every layer that the document lists, its tensors checked against each other."""
    if not lengths:
        raise BadInput(f"the metadata of {path} lists no layers")
    for name in lengths:
        # `auto` means "every layer" in a source's spec.
        if not _LAYER_NAME.fullmatch(name) or name == "auto":
            raise BadInput(f"{path}: {name!r} cannot be a layer's name: use its number")
    for name in tensors:
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match["layer"] not in lengths:
            raise BadInput(f"{path} holds a tensor {name!r} that its metadata does not list")
    found = []
    for layer, length in lengths.items():
        shape = _layer_shape(layer, tensors, path)
        if shape.length != length:
            raise BadInput(
                f"{path}: layer {layer} claims length {length}, but q has {shape.length}"
            )
        found.append(shape)
    return tuple(sorted(found, key=lambda shape: _natural(shape.layer)))


def _layer_shape(layer: str, tensors: Mapping[str, tuple[Shape, Any]], path: Path) -> LayerShape:
    where = f"{path}: layer {layer}"
    parts = {part: tensors.get(f"layers.{layer}.{part}") for part in "qkvo"}
    for part, entry in parts.items():
        if entry is None and part != "o":
            raise BadInput(f"{where} has no {part}: expected layers.{layer}.q, .k and .v")
        if entry is not None and entry[1] not in DTYPES:
            raise BadInput(f"{where}: expected floats of 16 to 64 bits, {part} is {entry[1]}")
    (q, dtype), (k, _), (v, _) = (tensors[f"layers.{layer}.{part}"] for part in "qkv")
    got = f"got q {list(q)}, k {list(k)}, v {list(v)}"
    if any(len(shape) != 4 or shape[0] != 1 for shape in (q, k, v)):
        raise BadInput(f"{where}: expected shapes [1, heads, length, width], {got}")
    (_, heads, length, dim), kv_heads = q, k[1]
    if k != v or k[2:] != q[2:]:
        raise BadInput(f"{where}: k and v must agree, and have q's length and width; {got}")
    if min(heads, kv_heads, length, dim) < 1 or length > _LONGEST or max(heads, dim) > _WIDEST:
        raise BadInput(f"{where}: these sizes make no sense: {got}")
    if heads % kv_heads:
        raise BadInput(f"{where}: query heads must be a multiple of key-value heads; {got}")
    dtypes = [tensors[f"layers.{layer}.{part}"][1] for part in "qkv"]
    if len(set(dtypes)) > 1:
        raise BadInput(f"{where}: q, k and v must have one dtype, got {dtypes}")
    width = None
    if (projection := parts["o"]) is not None:
        o = projection[0]
        if len(o) != 3 or o[:2] != (heads, dim) or o[2] < 1:
            raise BadInput(f"{where}: expected o [{heads}, {dim}, width], got {list(o)}")
        width = o[2]
    return LayerShape(
        layer=layer,
        length=length,
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        dtype=dtype,
        width=width,
    )


def _rotary(document: Any, layers: Sequence[LayerShape], path: Path) -> Rotary | None:
    if document is None:
        return None
    fields = _Fields(document, path)
    base, width = fields.take("base", float), fields.take("width", int)
    layout: Any = fields.take("layout", str)
    narrowest = min(layer.dim for layer in layers)
    sensible = base is not None and math.isfinite(base) and base > 0
    if not sensible or width is None or not 2 <= width <= narrowest or width % 2:
        raise BadInput(
            f"{path}: rotary expects a base above 0 and an even width up to {narrowest}, "
            f"got base {base} and width {width}"
        )
    if layout not in ("half", "interleaved"):
        raise BadInput(f"{path}: rotary layout expects half or interleaved, got {layout!r}")
    return Rotary(base=base, width=width, layout=layout)


class _Fields:
    """Typed reading of one JSON object: a value of the wrong type is one clear sentence."""

    def __init__(self, document: Any, path: Path) -> None:
        if not isinstance(document, dict):
            raise BadInput(f"the metadata of {path}: expected an object, got {document!r:.60}")
        self._document, self._path = document, path

    def take(self, key: str, kind: type) -> Any:
        value = self._document.get(key)
        if value is not None and not self._fits(value, kind):
            raise BadInput(
                f"the metadata of {self._path}: {key!r} expects {kind.__name__}, got {value!r:.60}"
            )
        return float(value) if kind is float and value is not None else value

    def take_all(self, key: str, kind: type) -> tuple[Any, ...] | None:
        values = self.take(key, list)
        if values is None:
            return None
        if not all(self._fits(value, kind) for value in values):
            raise BadInput(
                f"the metadata of {self._path}: {key!r} expects a list of {kind.__name__}"
            )
        return tuple(values)

    @staticmethod
    def _fits(value: Any, kind: type) -> bool:
        # bool is an int to Python, a whole number is a fine float, and JSON's have no bounds.
        if isinstance(value, bool):
            return kind is bool
        if isinstance(value, int):
            return kind in (int, float) and abs(value) < 1 << 63
        return isinstance(value, kind)


def _natural(layer: str) -> tuple[bool, int, str]:
    return (not layer.isdigit(), int(layer) if layer.isdigit() else 0, layer)
