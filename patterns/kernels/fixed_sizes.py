"""The sizes that follow from what the kernels of Combiner-Fixed are asked for.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from dataclasses import dataclass
from typing import Any

from patterns.kernels.combiner_form import InputSizes


@dataclass(frozen=True)
class Sizes(InputSizes):
    """Sizes and constants that all launches of a call share."""

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
        return self.columns if self.biased else 0

    @property
    def counts(self) -> tuple[int, int, int, float, int]:
        """Numbers that every kernel but `row_products` takes."""
        return self.length, self.blocks, self.sink, self.scale, self.heads

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
            "BIASED": self.biased,
        }
