"""What the kernels of Combiner-Fixed are asked for, and the sizes that follow from it.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from dataclasses import dataclass
from typing import Any

import torch

KINDS = {"max": 0, "mean": 1, "mean+size": 2, "variational": 3}
_LOG2E = 1.4426950408889634


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A resolved Combiner-Fixed; `scale` is the factor on the scores."""

    block: int
    near: int
    sink: int
    kind: str
    causal: bool
    scale: float


@dataclass(frozen=True)
class Sizes:
    """Sizes and constants that all launches of a call share.

    shape: B, H, L, D.
    exactness: of the products of float32 numbers.
    """

    shape: tuple[int, ...]
    kv_heads: int
    dtype: torch.dtype
    exactness: str
    form: Fixed

    @property
    def heads(self) -> int:
        return self.shape[1]

    @property
    def length(self) -> int:
        return self.shape[2]

    @property
    def dim(self) -> int:
        return self.shape[3]

    @property
    def lines(self) -> int:
        """Query heads of all sequences."""
        return self.shape[0] * self.shape[1]

    @property
    def group(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def blocks(self) -> int:
        return -(-self.length // self.form.block)

    @property
    def far(self) -> bool:
        """Whether any query has keys beyond its neighbourhood."""
        return self.blocks > self.form.near + 1

    @property
    def sink(self) -> int:
        """Sinks that some query may find far: none, if there is nothing far."""
        return min(self.form.sink, self.length) if self.far else 0

    @property
    def regions(self) -> int:
        """Blocks that are told by a summary."""
        return self.blocks if self.far else 0

    @property
    def columns(self) -> int:
        """Far keys: copies of the sinks, then the summaries."""
        return self.sink + self.regions

    @property
    def biases(self) -> int:
        """Far keys that have a bias."""
        return self.columns if KINDS[self.form.kind] >= KINDS["mean+size"] else 0

    @property
    def width(self) -> int:
        """D as a power of two that a matrix product takes."""
        return max(16, 1 << (self.dim - 1).bit_length())

    @property
    def half(self) -> bool:
        return self.dtype.itemsize == 2

    @property
    def counts(self) -> tuple[int, int, int, float, int]:
        """Numbers that every kernel but `row_products` takes."""
        return self.length, self.blocks, self.sink, self.form.scale * _LOG2E, self.heads

    @property
    def constants(self) -> dict[str, Any]:
        """Constants that those kernels take."""
        return {"BLOCK": self.form.block, "DIM": self.dim, "WIDTH": self.width}

    @property
    def reading(self) -> dict[str, Any]:
        """Constants of the kernels that multiply matrices."""
        form = self.form
        return {
            **self.constants,
            "NEAR": form.near,
            "CAUSAL": form.causal,
            "PRECISION": self.exactness,
        }

    @property
    def far_reading(self) -> dict[str, Any]:
        """Constants of those that read far keys."""
        return {
            **self.reading,
            "PLAIN": self.form.causal and self.sink < self.form.block,
            "BIASED": KINDS[self.form.kind] >= KINDS["mean+size"],
        }
