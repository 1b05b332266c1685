"""The file that holds captured q, k, v: safetensors, with one JSON document that describes them.

Letters: H heads (query or key-value), L length, D head width. docs/captures.md has the format.
"""

import json
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attnbench.header import SCHEMA, Header, LayerShape, Rotary, Shape, checked, hash_of_ids
from patterns.errors import BadInput
from patterns.grammar import near_match

__all__ = [
    "Header",
    "Layer",
    "LayerShape",
    "Rotary",
    "load_layer",
    "read_header",
    "save_layers",
    "save_qkv",
]

_KEY = "attnbench"
_ADVICE = "write captures with attnbench.qkv.save_qkv"
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The tensors of one layer.

    q is ``[1, Hq, L, D]``; k and v are ``[1, Hkv, L, D]`` with Hq a multiple of Hkv;
    `output_projection` is ``[Hq, D, width]``: head h adds ``O_h @ output_projection[h]`` to the
    layer's output.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    output_projection: Tensor | None = None


def save_qkv(
    path: str | Path,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    layer: str = "0",
    output_projection: Tensor | None = None,
    **about: Any,
) -> Header:
    """Write the q, k, v of one layer; `save_layers` writes several and lists the keywords.

    Args:
        path: the file to write; one that exists is replaced.
        q: ``[1, Hq, L, D]``, as the attention product sees it: after any rotary embedding.
        k: ``[1, Hkv, L, D]``.
        v: ``[1, Hkv, L, D]``.
        causal: whether the layer attended causally.
        layer: its name, usually its number in the model.
        output_projection: ``[Hq, D, width]``, the heads' slices of the output projection.
        about: everything else that `save_layers` takes.

    Raises:
        BadInput: the tensors do not fit together, or the file cannot be written.
    """
    tensors = Layer(q=q, k=k, v=v, output_projection=output_projection)
    return save_layers(path, {layer: tensors}, causal=causal, **about)


def save_layers(
    path: str | Path,
    layers: Mapping[str, Layer],
    *,
    causal: bool,
    scale: float | None = None,
    model: str | None = None,
    weights: str | None = None,
    rotary: Rotary | None = None,
    query_heads: Sequence[int] | None = None,
    kv_heads: Sequence[int] | None = None,
    token_ids: Sequence[int] | None = None,
    token_text: Sequence[str] | None = None,
    text_sha256: str | None = None,
    licence: str | None = None,
    note: str | None = None,
) -> Header:
    """Write the q, k, v of several layers in one file, whole or not at all.

    Args:
        path: the file to write; one that exists is replaced.
        layers: layer name -> tensors. Lengths may differ between layers.
        causal: whether the layers attended causally.
        scale: what q k^T is multiplied by; None for 1/sqrt(D).
        model: the model's name.
        weights: the precision of the weights that the model ran with, such as "Q4_1" or "bf16".
        rotary: the rotary embedding that q and k have been through.
        query_heads: the numbers of the stored query heads in the model.
        kv_heads: the numbers of the stored key-value heads in the model.
        token_ids: the tokens of the longest layer; the other layers hold the first of them.
        token_text: the text of each of these tokens.
        text_sha256: SHA-256 of the text's UTF-8 bytes, in hexadecimal.
        licence: of the model and the text.
        note: anything a reader should know.

    Returns:
        What `read_header` says of the file.

    Raises:
        BadInput: the tensors do not fit together, a value makes no sense, or the file cannot be
            written. No torn file is left, and a file that was there stays as it was.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        parts = {"q": layer.q, "k": layer.k, "v": layer.v, "o": layer.output_projection}
        for part, tensor in parts.items():
            if tensor is not None:
                if not isinstance(tensor, Tensor):
                    kind = type(tensor).__name__
                    raise BadInput(f"{path}: layer {name}: expected a tensor as {part}, got {kind}")
                _check_finite(tensor, f"layers.{name}.{part}", path)
                # A fresh copy: safetensors refuses views that share memory, such as k of q.
                tensors[f"layers.{name}.{part}"] = tensor.detach().cpu().contiguous().clone()
    document = {
        "schema": SCHEMA,
        "causal": causal,
        "scale": scale,
        "model": model,
        "weights": weights,
        "rotary": None if rotary is None else vars(rotary),
        "layers": {name: {"length": layer.q.shape[-2]} for name, layer in layers.items()},
        "heads": {"query": _listed(query_heads), "key_value": _listed(kv_heads)},
        "tokens": {
            "ids": _listed(token_ids),
            "ids_sha256": None if token_ids is None else hash_of_ids(token_ids),
            "text": _listed(token_text),
        },
        "text_sha256": text_sha256,
        "licence": licence,
        "note": note,
    }
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    header = checked(document, shapes, path)
    metadata = {_KEY: json.dumps(document, allow_nan=False, sort_keys=True)}
    # Not save_file: it leaves files that only their owner can read.
    _write_whole(path, safetensors.torch.save(tensors, metadata))
    return header


def read_header(path: str | Path) -> Header:
    """Read what a capture says about itself, and check it, without loading its tensors.

    Raises:
        BadInput: it cannot be read, or is not a valid capture.
    """
    path = Path(path)
    with _opened(path) as file:
        return _read_header(file, path)


def load_layer(path: str | Path, layer: str) -> Layer:
    """Load the tensors of one layer, on the CPU and in the dtype they are stored in.

    Raises:
        BadInput: the file is not a valid capture, has no such layer, or holds NaN or Inf.
    """
    path = Path(path)
    with _opened(path) as file:
        names = [shape.layer for shape in _read_header(file, path).layers]
        if layer not in names:
            raise BadInput(f"{path} has no layer {layer!r}: {near_match(layer, names)}")
        # Copies, so that nothing depends on the file once it is closed.
        tensors = {
            part: file.get_tensor(f"layers.{layer}.{part}").clone()
            for part in "qkvo"
            if f"layers.{layer}.{part}" in file.keys()  # noqa: SIM118 - a handle, not a mapping
        }
    for part, tensor in tensors.items():
        _check_finite(tensor, f"layers.{layer}.{part}", path)
    return Layer(q=tensors["q"], k=tensors["k"], v=tensors["v"], output_projection=tensors.get("o"))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file as safetensors; whatever is wrong with it becomes one sentence."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"cannot read {path}: expected a file, got a folder or a device")
        with safe_open(path, framework="pt") as opened:
            yield opened
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise BadInput(f"{path} is not a valid safetensors file ({error}): {_ADVICE}") from None


def _read_header(file: Any, path: Path) -> Header:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise BadInput(f"{path} has no {_KEY!r} metadata, so it is not a capture: {_ADVICE}")
    try:
        document = json.loads(text)
    # Deep nesting overflows the parser's stack before it is known to be wrong.
    except (ValueError, RecursionError):
        raise BadInput(f"the metadata of {path} is not valid JSON: {_ADVICE}") from None
    shapes: dict[str, tuple[Shape, Any]] = {}
    for name in file.keys():  # noqa: SIM118 - a handle, not a mapping
        tensor = file.get_slice(name)
        dtype = tensor.get_dtype()
        shapes[name] = (tuple(tensor.get_shape()), _DTYPES.get(dtype, dtype))
    return checked(document, shapes, path)


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _check_finite(tensor: Tensor, name: str, path: Path) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise BadInput(f"{path}: {name} holds NaN or Inf")


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside the target and then rename, so that a reader sees all of it or nothing."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # where even this fails, the error above says why
            part.unlink(missing_ok=True)
