"""Noise: no structure at all."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from attnbench.synthetic.base import Shape, Synthetic, expect, normal


@dataclass(frozen=True, kw_only=True)
class Gaussian(Synthetic):
    """Independent normal q, k, v: no structure at all, so it times well and judges badly.

    No real layer looks like it. At sigma = 1 the mean entropy is 6.1 nats, half a nat below
    uniform attention.
    """

    sigma: float = 1.0  # standard deviation of the entries of q and k; those of v have 1

    drawn_anywhere: ClassVar = True

    def __post_init__(self) -> None:
        """Refuse a sigma that is no spread."""
        expect(self.sigma >= 0, "gaussian", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        queries = normal(generator, shape, shape.heads).mul_(self.sigma)
        keys = normal(generator, shape, shape.kv_heads).mul_(self.sigma)
        return queries, keys, normal(generator, shape, shape.kv_heads)
