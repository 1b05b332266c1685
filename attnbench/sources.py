"""Where q, k, v come from: synthetic families and captured layers, under one grammar.

``needle[depth=0.5]`` is a synthetic family, ``captured`` the shipped sample of the right
causality, ``captured:FILE`` a capture of yours; ``[layer=5]`` restricts either to one layer.
Letters: B batch, H heads (Hq/Hkv), L length, D head width.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from attnbench.qkv import LayerShape, Rotary, load_layer, read_header
from attnbench.synthetic import (
    Clustered,
    Gaussian,
    HeavyHitter,
    LocalDecay,
    LowRank,
    Needle,
    Shape,
    Sink,
    Synthetic,
)
from patterns.errors import BadInput
from patterns.grammar import build_all, near_match, parse, spell

__all__ = ["SOURCES", "Captured", "Inputs", "Rotary", "Setting", "load", "offers", "settings"]

DATA = Path(__file__).parent / "data"
SAMPLE = {True: DATA / "smollm2.safetensors", False: DATA / "minilm.safetensors"}

_CAPTURED = re.compile(r"\s*captured(?::(?P<file>.*?))?\s*(?P<fields>\[[^\[\]]*\])?\s*", re.DOTALL)
_KINDS = {True: "causal", False: "bidirectional"}
_HEADS, _DIM = 8, 64  # of a synthetic source, where nobody asks for others


@dataclass(frozen=True, kw_only=True)
class Captured:
    """Layers of a trained model: the shipped sample, or with ``captured:FILE`` a file of yours.

    The sample holds layers 0, 5, 15 and 29 of SmolLM2-135M-Instruct at 2048 tokens and layer 20 at
    8192 (causal), and two layers of all-MiniLM-L6-v2 at 512 (bidirectional). docs/captures.md says
    more, and how to capture a model.
    """

    layer: str | None = None  # one layer; auto takes all


SOURCES: Mapping[str, type[Synthetic] | type[Captured]] = MappingProxyType(
    {
        "captured": Captured,
        "clustered": Clustered,
        "gaussian": Gaussian,
        "heavy-hitter": HeavyHitter,
        "local-decay": LocalDecay,
        "low-rank": LowRank,
        "needle": Needle,
        "sink": Sink,
    }
)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a source gives for one case.

    q is ``[B, Hq, L, D]``, k and v are ``[B, Hkv, L, D]``. `output_projection` ``[Hq, D, width]``
    has the heads' slices of the layer's output projection. `tokens` is the text of the L tokens:
    the shipped sample has it; that of a user's capture stays in its header, where
    `attnbench.qkv.read_header` finds it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float | None = None  # None: 1/sqrt(D)
    output_projection: Tensor | None = None
    tokens: tuple[str, ...] | None = None
    rotary: Rotary | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One layer of a source: what a fidelity case names."""

    source: str  # the canonical spec, such as needle[depth=0.5] or captured
    layer: str | None  # None for a synthetic source
    max_length: int | None  # None: any
    causal: bool | None  # None: any
    heads: int | None  # None: any
    kv_heads: int | None  # None: any
    dim: int | None  # None: any


def settings(spec: str, *, causal: bool) -> list[Setting]:
    """Every setting that one spec asks for: a synthetic source has one, a capture one a layer.

    Args:
        spec: such as ``gaussian``, ``needle[depth=0.25|0.5]``, ``captured:FILE[layer=5]``.
        causal: whether the inputs are for causal attention.

    Raises:
        BadInput: an unknown source, parameter or layer, or a capture that cannot be read or is
            of the other causality.
    """
    match = _CAPTURED.fullmatch(spec)
    if match is None:
        name, _ = parse(spec)
        built = build_all(spec, SOURCES, "source")
        return [_setting(spell(name, source)) for source in built]
    name = "captured" if match["file"] is None else f"captured:{match['file']}"
    chosen = {
        cast(Captured, source).layer
        for source in build_all(f"captured{match['fields'] or ''}", SOURCES, "source")
    }
    header = read_header(_path(name, causal))
    if header.causal != causal:
        raise BadInput(f"{name} holds {_KINDS[header.causal]} attention, expected {_KINDS[causal]}")
    known = {shape.layer for shape in header.layers}
    for layer in chosen - known - {None}:
        raise BadInput(f"{name} has no layer {layer!r}: {near_match(str(layer), known)}")
    return [
        _setting(name, shape, causal)
        for shape in header.layers
        if None in chosen or shape.layer in chosen
    ]


def offers(setting: Setting, length: int) -> bool:
    """Whether a setting has inputs of this length: where it has none, there is no case.

    A causal capture offers its prefixes. A bidirectional one offers its own length alone: there,
    each token has seen the whole text.
    """
    if setting.max_length is None:
        return length >= 1
    if setting.causal:
        return 1 <= length <= setting.max_length
    return length == setting.max_length


def load(
    setting: Setting,
    *,
    length: int,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype,
    batch: int = 1,
    heads: int | None = None,
    kv_heads: int | None = None,
    dim: int | None = None,
) -> Inputs:
    """Make or read the inputs of one case.

    Args:
        setting: from `settings`.
        length: tokens.
        seed: of a synthetic source; a capture has no use for it.
        device: where the tensors go.
        dtype: what q, k, v and the output projection are cast to.
        batch: sequences; a capture has one.
        heads: query heads. None: those of the capture, or 8.
        kv_heads: key-value heads. None: those of the capture, or as many as query heads.
        dim: head width. None: that of the capture, or 64.

    Raises:
        BadInput: the setting offers no such length or sizes, or its file cannot be read.
    """
    if not offers(setting, length):
        raise BadInput(_why_not(setting, length))
    asked = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "dim": dim}
    shape = _shape(setting, length, asked)
    if setting.layer is None:
        inputs = _draw(setting.source, shape, seed, torch.device(device))
    else:
        inputs = _read(setting, length)
    projection = inputs.output_projection
    return replace(
        inputs,
        q=inputs.q.to(device, dtype),
        k=inputs.k.to(device, dtype),
        v=inputs.v.to(device, dtype),
        output_projection=None if projection is None else projection.to(device, dtype),
    )


def text_of(setting: Setting) -> tuple[str, ...] | None:
    """The text of a capture's tokens, if its header has it; also of somebody's own capture."""
    if setting.layer is None:
        return None
    return read_header(_path(setting.source, setting.causal)).token_text


@cache
def sample_text(causal: bool) -> tuple[str, ...] | None:
    """The text of the shipped sample's tokens; all its layers hold the same, or its start."""
    return read_header(SAMPLE[causal]).token_text


def _setting(source: str, shape: LayerShape | None = None, causal: bool | None = None) -> Setting:
    return Setting(
        source=source,
        layer=None if shape is None else shape.layer,
        max_length=None if shape is None else shape.length,
        causal=causal,
        heads=None if shape is None else shape.heads,
        kv_heads=None if shape is None else shape.kv_heads,
        dim=None if shape is None else shape.dim,
    )


def _path(source: str, causal: bool | None) -> Path:
    if source == "captured":
        return SAMPLE[bool(causal)]
    file = source.removeprefix("captured:").strip()
    if not file:
        raise BadInput("captured: expects a file after the colon, such as captured:my.safetensors")
    return Path(file).expanduser()


def _why_not(setting: Setting, length: int) -> str:
    name = setting.source if setting.layer is None else f"{setting.source}, layer {setting.layer},"
    if length < 1 or setting.max_length is None:
        return f"expected a length of at least 1, got {length}"
    if setting.causal:
        return f"{name} has {setting.max_length} tokens, too few for a length of {length}"
    return (
        f"{name} is bidirectional, so it cannot be cut: its length is {setting.max_length}, "
        f"got {length}"
    )


def _shape(setting: Setting, length: int, asked: Mapping[str, int | None]) -> Shape:
    """The sizes of a case: those asked for, which a capture must have, or else the usual ones."""
    heads = setting.heads or asked["heads"] or _HEADS
    has = {
        "batch": 1,
        "heads": heads,
        "kv_heads": setting.kv_heads or heads,
        "dim": setting.dim or _DIM,
    }
    sizes = {what: has[what] if size is None else size for what, size in asked.items()}
    if setting.layer is not None and sizes != has:
        raise BadInput(f"{setting.source}, layer {setting.layer}, has sizes {has}, got {sizes}")
    if min(sizes.values()) < 1 or sizes["heads"] % sizes["kv_heads"]:
        raise BadInput(
            "expected sizes of at least 1, and query heads that are a multiple of the key-value "
            f"heads, got {sizes}"
        )
    return Shape(length=length, **sizes)


def _draw(source: str, shape: Shape, seed: int, device: torch.device) -> Inputs:
    if not 0 <= seed < 1 << 63:
        raise BadInput(f"expected a seed from 0 to 2**63 - 1, got {seed}")
    family = cast(Synthetic, build_all(source, SOURCES, "source")[0])
    there = family.drawn_anywhere and device.type == "cuda"
    generator = torch.Generator(device if there else "cpu")
    q, k, v = family.draw(shape, generator.manual_seed(seed))
    return Inputs(q=q, k=k, v=v)


def _read(setting: Setting, length: int) -> Inputs:
    path = _path(setting.source, setting.causal)
    header, layer = read_header(path), load_layer(path, str(setting.layer))
    # The text of somebody's own capture shows itself only to who reads its header.
    text = header.token_text if setting.source == "captured" else None
    return Inputs(
        q=layer.q[:, :, :length],
        k=layer.k[:, :, :length],
        v=layer.v[:, :, :length],
        scale=header.scale,
        output_projection=layer.output_projection,
        tokens=None if text is None else text[:length],
        rotary=header.rotary,
    )
