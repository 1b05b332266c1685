"""A few keys that many queries attend to."""

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
    tilt,
    with_content,
)


@dataclass(frozen=True, kw_only=True)
class HeavyHitter(Synthetic):
    """A few keys at random positions get much of the mass of all queries that see them.

    H2O (arXiv 2306.14048) found such keys in trained models and keeps them in its cache. Each
    key-value head has its own; heads differ in how much they give them. Mean entropy 4.3 nats.
    """

    keys: int = 16  # heavy keys of a key-value head
    mass: float = 0.6  # their mass in a row that sees every key, for the middle head
    sigma: float = 1.5  # standard deviation of the content's logits

    def __post_init__(self) -> None:
        """Refuse numbers that describe no heavy hitters."""
        expect(self.keys >= 1, "heavy-hitter", "keys", "at least 1", self.keys)
        expect_mass("heavy-hitter", self.mass)
        expect(self.sigma >= 0, "heavy-hitter", "sigma", "at least 0", self.sigma)

    def positions(self, shape: Shape, generator: Generator) -> Tensor:
        """Where they stand, ``[B, Hkv, keys]``; the first thing that `draw` draws."""
        rows = shape.batch * shape.kv_heads
        drawn = [
            torch.randperm(shape.length, generator=generator)[: self.keys] for _ in range(rows)
        ]
        return torch.stack(drawn).view(shape.batch, shape.kv_heads, -1)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        positions = self.positions(shape, generator)
        keys = torch.zeros(shape.batch, shape.kv_heads, shape.length)
        keys = keys.scatter_(-1, positions, 1.0)[..., None]
        count = positions.shape[-1]
        logits = logit_for(self.mass, count, shape.length, self.sigma) + 0.75 * tilt(shape)
        queries = logits.view(1, -1, 1, 1).expand(-1, -1, shape.length, -1)
        queries, keys = with_content(queries, keys, self.sigma, shape, generator)
        return queries, keys, normal(generator, shape, shape.kv_heads)
