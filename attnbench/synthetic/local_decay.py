"""Mass that falls with distance."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attnbench.synthetic.base import Shape, Synthetic, expect, normal, tilt, with_content


@dataclass(frozen=True, kw_only=True)
class LocalDecay(Synthetic):
    """Mass falls with distance as a power law, by the very mechanism of rotary embeddings.

    Three quarters of the width hold one fixed vector turned by the position, so the logit is a
    sum of cosines over log-spaced frequencies, which falls like ``-decay * log(distance)``
    (RoFormer, arXiv 2104.09864, section 3.4.3); the rest is content. Heads differ: their exponents
    run from 0.75 to 1.25 times `decay`, from far-sighted to nearly local. Mean entropy 3.2 nats.
    """

    decay: float = 1.25  # exponent of the power law, for the middle head
    base: float = 1e5  # of the rotary frequencies: the decay reaches about as far
    sigma: float = 1.0  # standard deviation of the content's logits

    def __post_init__(self) -> None:
        """Refuse a base that gives no decay."""
        expect(self.base > 1, "local-decay", "base", "above 1", self.base)
        expect(self.decay >= 0, "local-decay", "decay", "at least 0", self.decay)
        expect(self.sigma >= 0, "local-decay", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        pairs = max(3 * shape.dim // 8, 1) if shape.dim > 1 else 0
        frequencies = self.base ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        # Float64: at a million tokens a float32 angle would be off by a visible part of a turn.
        angles = torch.arange(shape.length, dtype=torch.float64)[:, None] * frequencies
        turned = torch.cat([angles.cos(), angles.sin()], dim=-1).float()  # [L, 2 * pairs]
        exponents = self.decay * (1 + 0.25 * tilt(shape))
        strengths = exponents * math.log(self.base) / max(pairs, 1)
        q, k = turned * strengths.view(1, -1, 1, 1), turned.expand(1, shape.kv_heads, -1, -1)
        q, k = with_content(q, k, self.sigma, shape, generator)
        return q, k, normal(generator, shape, shape.kv_heads)
