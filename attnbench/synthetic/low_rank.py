"""Queries and keys in a few directions."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attnbench.synthetic.base import Shape, Synthetic, expect, normal, with_content
from patterns.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class LowRank(Synthetic):
    """The logits have a low rank: queries and keys live in a few directions of the head's width.

    Trained heads use far fewer directions than they have (Linformer, arXiv 2006.04768; the
    low-rank bottleneck, arXiv 2002.07028). Mean entropy 4.8 nats.
    """

    rank: int = 8  # of q k^T; at most the head's width
    sigma: float = 2.0  # standard deviation of the logits

    def __post_init__(self) -> None:
        """Refuse a rank or a sigma that makes no sense."""
        expect(self.rank >= 1, "low-rank", "rank", "at least 1", self.rank)
        expect(self.sigma >= 0, "low-rank", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`; BadInput where the head is narrower than the rank."""
        if self.rank > shape.dim:
            raise BadInput(f"low-rank[rank={self.rank}] needs a head width of at least {self.rank}")
        queries = torch.zeros(1, shape.heads, shape.length, 0)
        keys = torch.zeros(1, shape.kv_heads, shape.length, 0)
        queries, keys = with_content(queries, keys, self.sigma, shape, generator, width=self.rank)
        return queries, keys, normal(generator, shape, shape.kv_heads)
