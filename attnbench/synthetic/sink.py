"""First tokens that take most of the mass."""

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
class Sink(Synthetic):
    """The first tokens take most of the mass of every query, and their values are small.

    Trained causal models park unneeded mass there (StreamingLLM, arXiv 2309.17453; massive
    activations, arXiv 2402.17762); heads differ in how much. Mean entropy 2.2 nats.
    """

    tokens: int = 4  # leading tokens that are sinks
    mass: float = 0.8  # their mass in a row that sees every key, for the middle head
    sigma: float = 1.5  # standard deviation of the content's logits

    def __post_init__(self) -> None:
        """Refuse numbers that describe no sink."""
        expect(self.tokens >= 1, "sink", "tokens", "at least 1", self.tokens)
        expect_mass("sink", self.mass)
        expect(self.sigma >= 0, "sink", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        tokens = min(self.tokens, shape.length)
        keys = torch.zeros(1, shape.kv_heads, shape.length, 1)
        keys[:, :, :tokens] = 1
        logits = logit_for(self.mass, tokens, shape.length, self.sigma) + 0.75 * tilt(shape)
        queries = logits.view(1, -1, 1, 1).expand(-1, -1, shape.length, -1)
        queries, keys = with_content(queries, keys, self.sigma, shape, generator)
        values = normal(generator, shape, shape.kv_heads)
        values[:, :, :tokens] *= 0.1
        return queries, keys, values
