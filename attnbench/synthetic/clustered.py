"""Tokens in clusters that attend within."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from attnbench.synthetic.base import (
    Shape,
    Synthetic,
    expect,
    expect_mass,
    normal,
    odds,
    per_query_head,
    tilt,
    with_content,
)


@dataclass(frozen=True, kw_only=True)
class Clustered(Synthetic):
    """Tokens belong to clusters and attend within: what hashing and routing attention assume.

    Clusters come in runs, as topics do in a text, and return later; values share their cluster's
    mean. Compare Reformer (arXiv 2001.04451) and the Routing Transformer (arXiv 2003.05997).
    Clusters are exactly orthogonal while there are at most D / 2 of them. Mean entropy 4.1 nats.
    """

    clusters: int = 16
    run: float = 8.0  # mean length of a run of one cluster, in tokens
    mass: float = 0.8  # mass within the own cluster, for equally large clusters
    sigma: float = 1.5  # standard deviation of the content's logits

    def __post_init__(self) -> None:
        """Refuse numbers that describe no clusters."""
        expect(self.clusters >= 1, "clustered", "clusters", "at least 1", self.clusters)
        expect(self.run >= 1, "clustered", "run", "at least 1", self.run)
        expect_mass("clustered", self.mass)
        expect(self.sigma >= 0, "clustered", "sigma", "at least 0", self.sigma)

    def members(self, shape: Shape, generator: Generator) -> Tensor:
        """The cluster of every token, ``[B, Hkv, L]``; the first thing that `draw` draws."""
        size = (shape.batch, shape.kv_heads, shape.length)
        starts = torch.rand(size, generator=generator) < 1 / self.run
        drawn = torch.randint(self.clusters, size, generator=generator)
        # Token i takes the cluster that was drawn where its run starts.
        positions = torch.arange(shape.length).expand(size)
        first = torch.where(starts, positions, 0).cummax(dim=-1).values
        return drawn.gather(-1, first)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        members = self.members(shape, generator)
        room = min(self.clusters, max(shape.dim // 2, 1))
        if room == self.clusters:
            centres = torch.eye(room)
        else:
            centres = torch.randn(self.clusters, room, generator=generator)
            centres = centres / centres.norm(dim=-1, keepdim=True)
        keys = centres[members]  # [B, Hkv, L, room]
        logit = math.log(max(self.clusters - 1, 1) * odds(self.mass))
        queries = per_query_head(keys, shape) * (logit + 0.5 * tilt(shape)).view(1, -1, 1, 1)
        means = torch.randn(
            shape.batch, shape.kv_heads, self.clusters, shape.dim, generator=generator
        )
        index = members[..., None].expand(-1, -1, -1, shape.dim)
        values = (means.gather(2, index) + normal(generator, shape, shape.kv_heads)) / math.sqrt(2)
        queries, keys = with_content(queries, keys, self.sigma, shape, generator)
        return queries, keys, values
