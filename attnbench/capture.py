"""Capture q, k, v of a trained model's layers while it reads a text.

``python -m attnbench.capture smollm2 --text FILE --length 2048 --out FILE`` does it from a shell.
Needs the extra `models` and the package that holds the model (docs/captures.md).
"""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from attnbench.interface import (
    BEYOND,
    layer_numbers,
    output_weight,
    own_attention,
    own_mask,
    replace_attention,
    require_transformers,
)
from attnbench.models import MODELS, is_on_hub, load_model, tokenize
from attnbench.qkv import Header, Layer, Rotary, save_layers
from attnbench.text_file import read_text
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match, parse_size

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What one forward pass left behind: the layers, and what is true of all of them."""

    layers: dict[str, Layer]
    causal: bool
    scale: float
    rotary: Rotary | None


def capture(
    model: str,
    text: str,
    length: int,
    layers: Sequence[int] | None = None,
    *,
    out: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    keep_text: bool = False,
    note: str | None = None,
) -> Header:
    """Run a model on a text and write the q, k, v of its layers as a capture.

    Args:
        model: what `load_model` takes.
        text: what it reads.
        length: how many of the text's first tokens.
        layers: layer numbers; None takes all.
        out: the file to write.
        dtype: what the tensors are stored as; the model runs in float32.
        keep_text: store the text of the tokens in the file, beside their ids.
        note: anything a reader should know.

    Returns:
        What `attnbench.qkv.read_header` says of the file.

    Raises:
        BadInput: an unknown model or layer, one that cannot be loaded, a text of fewer
            tokens, or a file that cannot be written.
        Unsupported: a package is missing, or the attention is not plain softmax attention.
    """
    if not Path(out).parent.is_dir():  # said now, not after the forward pass
        raise BadInput(f"cannot write {out}: {Path(out).parent} is not a folder")
    loaded, tokenizer = load_model(model)
    ids = tokenize(tokenizer, text, length)
    found = collect(loaded, ids, layers, dtype=dtype)
    packaged = MODELS.get(model)
    return save_layers(
        out,
        found.layers,
        causal=found.causal,
        scale=found.scale,
        rotary=found.rotary,
        model=packaged.name if packaged else model if is_on_hub(model) else Path(model).name,
        weights=packaged.weights if packaged else None,
        token_ids=ids,
        token_text=[tokenizer.decode([number]) for number in ids] if keep_text else None,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=f"model: {packaged.licence}" if packaged else None,
        note=note,
    )


def collect(
    model: Any,
    token_ids: Sequence[int],
    layers: Sequence[int] | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    heads: slice = slice(None),
    kv_heads: slice = slice(None),
) -> Collected:
    """Run a transformers model once and keep q, k, v of some layers as attention sees them.

    Each layer hands over q and k after their rotary embedding, with grouped heads as they are; it
    is reduced to what is kept before the next one runs.

    Args:
        model: a transformers model whose attention goes through `AttentionInterface`.
        token_ids: what it reads.
        layers: layer numbers; None takes all.
        dtype: what the kept tensors are cast to.
        heads: the query heads to keep.
        kv_heads: the key-value heads to keep.

    Raises:
        BadInput: a layer that the model does not have, or more tokens than it has positions.
        Unsupported: the attention is more than a softmax of q k^T, or never went through here.
    """
    most = getattr(model.config, "max_position_embeddings", len(token_ids))
    if 0 < most < len(token_ids):
        raise BadInput(f"the model has {most} positions, got {len(token_ids)} tokens")
    found: dict[str, Layer] = {}
    numbers: list[int] = []
    facts: set[tuple[bool, float]] = set()
    known = layer_numbers(model)
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}

    def keep(module: Any, seen: Layer, mask: Tensor | None, scaling: float | None) -> None:
        number = known.get(module, len(numbers))
        if number in numbers:  # layers that share one module, as in ALBERT
            number = len(numbers)
        numbers.append(number)
        if layers is not None and number not in layers:
            return
        causal = bool(getattr(module, "is_causal", True))
        if not _is_plain(mask, causal=causal):
            raise Unsupported(f"layer {number} has a mask beyond causality, such as a window")
        (_, count, _, dim), projection = seen.q.shape, None
        facts.add((causal, dim**-0.5 if scaling is None else scaling))
        if (weight := output_weight(module, parents.get(id(module)), count * dim)) is not None:
            projection = weight.detach().reshape(count, dim, -1)[heads].to(dtype, copy=True)
        found[str(number)] = Layer(
            q=seen.q[:, heads].to(dtype, copy=True),
            k=seen.k[:, kv_heads].to(dtype, copy=True),
            v=seen.v[:, kv_heads].to(dtype, copy=True),
            output_projection=projection,
        )

    _run(model, token_ids, keep)
    if not numbers:
        raise Unsupported(f"{type(model).__name__} does not let its attention be replaced")
    for number in layers or ():
        if number not in numbers:
            hint = near_match(str(number), map(str, numbers))
            raise BadInput(f"the model has no layer {number}: {hint}")
    if len(facts) != 1:
        raise Unsupported("expected one scale and one causality in all layers")
    ((causal, scale),) = facts
    rotary = _rotary(model.config, next(iter(known), None))
    return Collected(layers=found, causal=causal, scale=scale, rotary=rotary)


def _run(model: Any, token_ids: Sequence[int], keep: Callable[..., None]) -> None:
    """One forward pass, in which each layer's attention shows its inputs to `keep`."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
    ) -> Any:
        for name in BEYOND:
            if more.get(name) is not None:
                raise Unsupported(f"{type(module).__name__} uses {name}, which a capture lacks")
        keep(module, Layer(q=query, k=key, v=value), attention_mask, more.get("scaling"))
        return own_attention("sdpa", module)(module, query, key, value, attention_mask, **more)

    require_transformers()
    replaced = replace_attention(model, attend, own_mask("sdpa"))
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
    finally:
        replaced.restore()


def _is_plain(mask: Tensor | None, *, causal: bool) -> bool:
    """Whether a mask says no more than causality; a window wider than the text does not."""
    if mask is None or mask.dtype != torch.bool:
        return mask is None
    every = torch.ones(mask.shape[-2:], dtype=torch.bool)
    return bool((mask == (every.tril() if causal else every)).all())


def _rotary(config: Any, module: Any) -> Rotary | None:
    """The plain rotary embedding of all layers; None for others, scaled ones included."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type", "default") != "default" or "rope_theta" not in parameters:
        return None
    if (layout := _layout(module)) is None or not all(
        getattr(config, "no_rope_layers", None) or (True,)
    ):
        return None
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(dim * parameters.get("partial_rotary_factor", 1.0))
    return Rotary(base=float(parameters["rope_theta"]), width=width, layout=layout)


def _layout(module: Any) -> Literal["half", "interleaved"] | None:
    """Which entries of a head turn together, by what the model's own function does."""
    rotate = getattr(sys.modules[type(module).__module__], "rotate_half", None)
    if rotate is None:
        return None
    match rotate(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist():
        case [-3.0, -4.0, 1.0, 2.0]:
            return "half"
        case [-2.0, 1.0, -4.0, 3.0]:
            return "interleaved"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: capture one text; 0 where it worked, 2 with one line where it did not."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.capture", description=__doc__)
    parser.add_argument(
        "model", help=f"{', '.join(MODELS)}, a folder, a GGUF file, or owner/name on the hub"
    )
    parser.add_argument("--text", type=Path, required=True, help="what the model reads (UTF-8)")
    parser.add_argument("--length", default="2048", help="its first tokens (default 2048)")
    parser.add_argument("--layers", help="layer numbers, such as 0,5,15 (default all)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="what is stored")
    parser.add_argument("--keep-text", action="store_true", help="store the text of the tokens")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    asked = parser.parse_args(arguments)
    try:
        layers = asked.layers and [parse_size(number) for number in asked.layers.split(",")]
        header = capture(
            asked.model,
            read_text(asked.text),
            parse_size(asked.length),
            layers,
            out=asked.out,
            dtype=DTYPES[asked.dtype],
            keep_text=asked.keep_text,
        )
    except (BadInput, Unsupported, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{asked.out}: layers {', '.join(layer.layer for layer in header.layers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
