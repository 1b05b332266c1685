"""What the kernels of Combiner-Fixed and -Logsparse are asked for, and the sizes of inputs."""

from dataclasses import dataclass

import torch

KINDS = {"max": 0, "mean": 1, "mean+size": 2, "variational": 3}
LOG2E = 1.4426950408889634


@dataclass(frozen=True, kw_only=True)
class Form:
    """A resolved Combiner-Fixed, or -Logsparse with `block` a power of two.

    kind: of summaries.
    scale: factor on the scores.
    """

    block: int
    near: int
    sink: int
    kind: str
    causal: bool
    scale: float


@dataclass(frozen=True)
class InputSizes:
    """Of q, k and v, and what they are asked for.

    shape: B batch, H query heads, L length, D head width.
    kv_heads: Hkv.
    exactness: of the products of float32 numbers.
    """

    shape: tuple[int, ...]
    kv_heads: int
    dtype: torch.dtype
    exactness: str
    form: Form

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
    def width(self) -> int:
        """D as a power of two that a matrix product takes."""
        return max(16, power(self.dim))

    @property
    def half(self) -> bool:
        return self.dtype.itemsize == 2

    @property
    def kind(self) -> int:
        return KINDS[self.form.kind]

    @property
    def biased(self) -> bool:
        """Whether summaries have a bias."""
        return self.kind >= KINDS["mean+size"]

    @property
    def scale(self) -> float:
        """The factor on the scores, in units of log 2."""
        return self.form.scale * LOG2E


def power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, count - 1).bit_length()
