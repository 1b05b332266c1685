"""How far patterns are from full attention on captured layers: ``python -m attnbench.layer_table``.

    python -m attnbench.layer_table captured --length 2048
    python -m attnbench.layer_table captured:FILE --length 2048 'combiner-fixed[block=32|64]'

For each pattern it prints the mean, over layers and heads, of the relative output error and of the
total variation, and then each layer's. Error at a layer is not quality of a model.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnbench.fidelity import measure
from attnbench.reference import reference
from attnbench.sources import load, settings
from patterns.base import Pattern
from patterns.dense import Visibility
from patterns.errors import BadInput
from patterns.mask import MaskPattern
from patterns.pieces import Piece, Whole, attend_pieces
from patterns.registry import patterns


@dataclass(frozen=True, kw_only=True)
class Blocks(MaskPattern):
    """What a Combiner has without its regions: the own block, `near` before it, and sinks."""

    causal: bool = True
    block: int = 32
    near: int = 0
    sink: int = 0

    name: ClassVar = "blocks"
    aim: ClassVar = "subset"
    tiny: ClassVar = {"block": 4}
    quadratic: ClassVar = True

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        away = query // self.block - key // self.block
        return (away.abs() <= self.near) | (key < self.sink)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        whole = Whole(q.shape[2])
        mask = self._support(torch.arange(q.shape[2], device=q.device), q.shape[2])
        k, v = whole.arrange(k), whole.arrange(v)
        piece = Piece(layout=whole, k=k, v=v, visible=Visibility(mask=mask))
        return attend_pieces(q, [piece], scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        return int(self._support(torch.arange(length), length).sum()), 0


DEFAULT: tuple[Pattern, ...] = (
    *patterns("combiner-fixed[block=32,summary=max|mean+size|variational]"),
    *patterns("combiner-fixed[block=32,summary=variational,sink=4,near=0|1]"),
    Blocks(),
    Blocks(near=1, sink=4),
    *patterns("sinks[window=80,sink=4]"),
    *patterns("oracle-topk[top=64]"),
    *patterns("local[window=128]"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pattern: layer -> mean over heads of the output error and of the total variation."""

    pattern: str
    errors: dict[str, float] = field(default_factory=dict)
    variations: dict[str, float] = field(default_factory=dict)

    @property
    def mean_error(self) -> float:
        """Over layers and heads."""
        return sum(self.errors.values()) / len(self.errors)

    @property
    def mean_variation(self) -> float:
        """Over layers and heads."""
        return sum(self.variations.values()) / len(self.variations)


def table(
    source: str, *, length: int, device: str = "cpu", chosen: Sequence[Pattern] = DEFAULT
) -> list[Row]:
    """Measure causal patterns on every layer of a source that has this many tokens, in float32.

    Raises:
        BadInput: the source cannot be read, or no layer is that long.
    """
    rows = [Row(pattern=pattern.resolve(length).spec) for pattern in chosen]
    layers = [
        setting
        for setting in settings(source, causal=True)
        if setting.max_length is None or setting.max_length >= length
    ]
    if not layers:
        raise BadInput(f"no layer of {source} has {length} tokens")
    for setting in layers:
        inputs = load(setting, length=length, seed=0, device=device, dtype=torch.float32)
        shared = reference(inputs, causal=True, gradients=False)
        for row, pattern in zip(rows, chosen, strict=True):
            found: dict[str, Any] = measure(pattern, inputs, shared=shared, gradients=False)
            name = setting.layer or setting.source
            row.errors[name] = found["output_error"]["mean"]
            row.variations[name] = found["map"]["total_variation"]["mean"]
    return rows


def show(rows: Sequence[Row]) -> str:
    """The table as text."""
    width = max(len(row.pattern) for row in rows)
    layers = list(rows[0].errors)
    head = ["error", "variation", *(f"layer {layer}" for layer in layers)]
    lines = [" " * width + "".join(f"{name:>12}" for name in head)]
    for row in rows:
        numbers = [row.mean_error, row.mean_variation, *row.errors.values()]
        lines.append(row.pattern.ljust(width) + "".join(f"{x:12.3f}" for x in numbers))
    return "\n".join(lines)


def main() -> int:
    """The command line; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="attnbench.layer_table", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("source", help="such as captured or captured:FILE")
    parser.add_argument("patterns", nargs="*", help="specs; a standard set if none are given")
    parser.add_argument("--length", type=int, default=2048, help="tokens (default: 2048)")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    try:
        chosen = [one for spec in asked.patterns for one in patterns(spec)] or DEFAULT
        rows = table(asked.source, length=asked.length, device=asked.device, chosen=chosen)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(show(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
