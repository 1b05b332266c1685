"""One early key that the last queries must find."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attnbench.synthetic.base import (
    Shape,
    Synthetic,
    expect,
    expect_mass,
    logit_for,
    normal,
    with_content,
)


@dataclass(frozen=True, kw_only=True)
class Needle(Synthetic):
    """The last queries must find one early key; all others attend to whatever they like.

    What retrieval heads do (arXiv 2404.15574) and passkey tests ask for (arXiv 2305.16300): a
    pattern that drops the key, or drowns it in a summary, loses nearly all of their output. The
    other queries see the key as any other. Mean entropy 4.8 nats.
    """

    depth: float = 0.25  # where the key stands: 0 is the first token, 1 the last one
    queries: int = 16  # late queries that look for it
    mass: float = 0.9  # their mass on it
    sigma: float = 2.0  # standard deviation of all other logits

    def __post_init__(self) -> None:
        """Refuse numbers that describe no needle."""
        expect(0 <= self.depth <= 1, "needle", "depth", "0 to 1", self.depth)
        expect(self.queries >= 1, "needle", "queries", "at least 1", self.queries)
        expect_mass("needle", self.mass)
        expect(self.sigma >= 0, "needle", "sigma", "at least 0", self.sigma)

    def key_position(self, length: int) -> int:
        """Where the key stands in a sequence of this length."""
        return int(self.depth * (length - 1))

    def query_positions(self, length: int) -> range:
        """The late queries: the last ones, and none before the key but the key's own."""
        return range(
            max(length - self.queries, min(self.key_position(length) + 1, length - 1)), length
        )

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        key, late = self.key_position(shape.length), self.query_positions(shape.length)
        keys = torch.zeros(1, shape.kv_heads, shape.length, 1)
        keys[:, :, key] = 1
        queries = torch.zeros(1, shape.heads, shape.length, 1)
        queries[:, :, late.start :] = logit_for(self.mass, 1, shape.length, self.sigma)
        queries, keys = with_content(queries, keys, self.sigma, shape, generator, quiet_key=key)
        return queries, keys, normal(generator, shape, shape.kv_heads)
