"""Make the shipped sample of captured q, k, v: ``python -m attnbench.sample OUT_DIR``.

It reads the shipped text, so that it gives the same tokens under every version of Python. What
is in the sample, and under which licences, stands in data/NOTICE.md.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnbench.capture import collect
from attnbench.models import MODELS, load_model, tokenize
from attnbench.qkv import Header, save_layers
from attnbench.sources import DATA, SAMPLE

_LICENCE = "model: Apache-2.0; text: Python documentation, PSF License Version 2 (see NOTICE.md)"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What one file of the sample holds."""

    model: str
    passes: Mapping[int, list[int]]  # length of a forward pass -> the layers taken from it
    heads: int  # the first query heads
    kv_heads: int  # and the key-value heads that they read


RECIPES = {
    SAMPLE[True].name: Recipe(
        model="smollm2", passes={2048: [0, 5, 15, 29], 8192: [20]}, heads=3, kv_heads=1
    ),
    SAMPLE[False].name: Recipe(model="minilm", passes={512: [1, 5]}, heads=8, kv_heads=8),
}


def make(recipe: Recipe, path: Path) -> Header:
    """Write one file of the sample.

    Raises:
        BadInput: the file cannot be written.
        Unsupported: transformers or the model's package is missing.
    """
    text = (DATA / "topics.txt").read_text(encoding="utf-8")
    model, tokenizer = load_model(recipe.model)
    ids = tokenize(tokenizer, text, max(recipe.passes))
    heads, kv_heads = slice(recipe.heads), slice(recipe.kv_heads)
    found = [
        collect(model, ids[:length], layers, heads=heads, kv_heads=kv_heads)
        for length, layers in recipe.passes.items()
    ]
    return save_layers(
        path,
        {number: layer for one in found for number, layer in one.layers.items()},
        causal=found[0].causal,
        scale=found[0].scale,
        rotary=found[0].rotary,
        model=MODELS[recipe.model].name,
        weights=MODELS[recipe.model].weights,
        query_heads=range(recipe.heads),
        kv_heads=range(recipe.kv_heads),
        token_ids=ids,
        token_text=[tokenizer.decode([number]) for number in ids],
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=_LICENCE,
        note="Layers of one length come from one forward pass over the first tokens.",
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in RECIPES.items():
        make(recipe, folder / name)
