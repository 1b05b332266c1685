"""Synthetic q, k, v: families that each imitate one structure seen in real attention.

Letters: B batch, H heads (Hq/Hkv), L length, D head width. Logits are ``q k^T / sqrt(D)``. The
entropies in the docstrings are means over heads and causal rows, in nats, at 4 heads, L = 2048
and D = 64 (a uniform row of that length averages 6.6); captured layers have 1.7 to 5.7 there.

The numbers are drawn on the CPU in float32, so a seed gives the same ones for every device; only
`gaussian`, on which nothing is judged, is drawn where it is used, because it may be large.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from patterns.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of one draw: q is ``[batch, heads, length, dim]``, k and v have `kv_heads`."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int


class Synthetic(ABC):
    """A family of inputs; its fields are its parameters."""

    drawn_anywhere: ClassVar[bool] = False  # on the device of the generator, not only on the CPU

    @abstractmethod
    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """q ``[B, Hq, L, D]``, k and v ``[B, Hkv, L, D]``: float32, on the CPU."""


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
        _expect(self.sigma >= 0, "gaussian", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        queries = _normal(generator, shape, shape.heads).mul_(self.sigma)
        keys = _normal(generator, shape, shape.kv_heads).mul_(self.sigma)
        return queries, keys, _normal(generator, shape, shape.kv_heads)


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
        _expect(self.base > 1, "local-decay", "base", "above 1", self.base)
        _expect(self.decay >= 0, "local-decay", "decay", "at least 0", self.decay)
        _expect(self.sigma >= 0, "local-decay", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        pairs = max(3 * shape.dim // 8, 1) if shape.dim > 1 else 0
        frequencies = self.base ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        # Float64: at a million tokens a float32 angle would be off by a visible part of a turn.
        angles = torch.arange(shape.length, dtype=torch.float64)[:, None] * frequencies
        turned = torch.cat([angles.cos(), angles.sin()], dim=-1).float()  # [L, 2 * pairs]
        exponents = self.decay * (1 + 0.25 * _tilt(shape))
        strengths = exponents * math.log(self.base) / max(pairs, 1)
        q, k = turned * strengths.view(1, -1, 1, 1), turned.expand(1, shape.kv_heads, -1, -1)
        q, k = _with_content(q, k, self.sigma, shape, generator)
        return q, k, _normal(generator, shape, shape.kv_heads)


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
        _expect(self.clusters >= 1, "clustered", "clusters", "at least 1", self.clusters)
        _expect(self.run >= 1, "clustered", "run", "at least 1", self.run)
        _expect_mass("clustered", self.mass)
        _expect(self.sigma >= 0, "clustered", "sigma", "at least 0", self.sigma)

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
        logit = math.log(max(self.clusters - 1, 1) * _odds(self.mass))
        queries = _per_query_head(keys, shape) * (logit + 0.5 * _tilt(shape)).view(1, -1, 1, 1)
        means = torch.randn(
            shape.batch, shape.kv_heads, self.clusters, shape.dim, generator=generator
        )
        index = members[..., None].expand(-1, -1, -1, shape.dim)
        values = (means.gather(2, index) + _normal(generator, shape, shape.kv_heads)) / math.sqrt(2)
        queries, keys = _with_content(queries, keys, self.sigma, shape, generator)
        return queries, keys, values


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
        _expect(self.tokens >= 1, "sink", "tokens", "at least 1", self.tokens)
        _expect_mass("sink", self.mass)
        _expect(self.sigma >= 0, "sink", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`."""
        tokens = min(self.tokens, shape.length)
        keys = torch.zeros(1, shape.kv_heads, shape.length, 1)
        keys[:, :, :tokens] = 1
        logits = _logit_for(self.mass, tokens, shape.length, self.sigma) + 0.75 * _tilt(shape)
        queries = logits.view(1, -1, 1, 1).expand(-1, -1, shape.length, -1)
        queries, keys = _with_content(queries, keys, self.sigma, shape, generator)
        values = _normal(generator, shape, shape.kv_heads)
        values[:, :, :tokens] *= 0.1
        return queries, keys, values


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
        _expect(0 <= self.depth <= 1, "needle", "depth", "0 to 1", self.depth)
        _expect(self.queries >= 1, "needle", "queries", "at least 1", self.queries)
        _expect_mass("needle", self.mass)
        _expect(self.sigma >= 0, "needle", "sigma", "at least 0", self.sigma)

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
        queries[:, :, late.start :] = _logit_for(self.mass, 1, shape.length, self.sigma)
        queries, keys = _with_content(queries, keys, self.sigma, shape, generator, quiet_key=key)
        return queries, keys, _normal(generator, shape, shape.kv_heads)


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
        _expect(self.keys >= 1, "heavy-hitter", "keys", "at least 1", self.keys)
        _expect_mass("heavy-hitter", self.mass)
        _expect(self.sigma >= 0, "heavy-hitter", "sigma", "at least 0", self.sigma)

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
        logits = _logit_for(self.mass, count, shape.length, self.sigma) + 0.75 * _tilt(shape)
        queries = logits.view(1, -1, 1, 1).expand(-1, -1, shape.length, -1)
        queries, keys = _with_content(queries, keys, self.sigma, shape, generator)
        return queries, keys, _normal(generator, shape, shape.kv_heads)


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
        _expect(self.rank >= 1, "low-rank", "rank", "at least 1", self.rank)
        _expect(self.sigma >= 0, "low-rank", "sigma", "at least 0", self.sigma)

    def draw(self, shape: Shape, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Synthetic.draw`; BadInput where the head is narrower than the rank."""
        if self.rank > shape.dim:
            raise BadInput(f"low-rank[rank={self.rank}] needs a head width of at least {self.rank}")
        queries = torch.zeros(1, shape.heads, shape.length, 0)
        keys = torch.zeros(1, shape.kv_heads, shape.length, 0)
        queries, keys = _with_content(queries, keys, self.sigma, shape, generator, width=self.rank)
        return queries, keys, _normal(generator, shape, shape.kv_heads)


def _with_content(
    queries: Tensor,
    keys: Tensor,
    sigma: float,
    shape: Shape,
    generator: Generator,
    *,
    width: int | None = None,
    quiet_key: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Put normal content beside the structure, turn it all by a random rotation, and set the scale.

    The structure's logits are ``queries @ keys^T``; the content's have the deviation `sigma` and
    fill `width` entries (all that are left). Structure and content stay orthogonal, so neither
    disturbs the other. The rotation, one for each key-value head, changes no logit but spreads
    the structure over all entries, as in a trained model. `quiet_key` gets no content.
    """
    used = queries.shape[-1]
    width = shape.dim - used if width is None else width
    amplitude = math.sqrt(sigma) / max(width, 1) ** 0.25
    q = torch.zeros(shape.batch, shape.heads, shape.length, shape.dim)
    k = torch.zeros(shape.batch, shape.kv_heads, shape.length, shape.dim)
    q[..., :used], k[..., :used] = queries, keys
    for tensor in (q, k):
        part = tensor[..., used : used + width]
        part.copy_(torch.randn(part.shape, generator=generator)).mul_(amplitude)
    if quiet_key is not None:
        k[:, :, quiet_key, used:] = 0
    square = (shape.batch, shape.kv_heads, shape.dim, shape.dim)
    rotation = torch.linalg.qr(torch.randn(square, generator=generator)).Q * shape.dim**0.25
    return q @ _per_query_head(rotation, shape), k @ rotation


def _per_query_head(tensor: Tensor, shape: Shape) -> Tensor:
    return tensor.repeat_interleave(shape.heads // shape.kv_heads, dim=1)


def _normal(generator: Generator, shape: Shape, heads: int) -> Tensor:
    sizes = (shape.batch, heads, shape.length, shape.dim)
    return torch.randn(sizes, generator=generator, device=generator.device)


def _tilt(shape: Shape) -> Tensor:
    """How heads differ: -1 for the first query head to 1 for the last, 0 where there is one."""
    return torch.linspace(-1, 1, shape.heads) if shape.heads > 1 else torch.zeros(1)


def _odds(mass: float) -> float:
    return mass / (1 - mass)


def _logit_for(mass: float, keys: int, length: int, sigma: float) -> float:
    """The logit that gives `keys` keys together this mass among all, where all have content."""
    # A normal logit of deviation sigma weighs exp(sigma^2 / 2) on average. The keys of interest
    # have it too, except for a needle, which is set apart in its favour.
    return math.log(_odds(mass) * max(length - keys, 1) / keys) + (sigma**2 / 2 if keys == 1 else 0)


def _expect_mass(source: str, mass: float) -> None:
    _expect(0 < mass < 1, source, "mass", "above 0 and below 1", mass)


def _expect(holds: bool, source: str, field: str, expected: str, got: float) -> None:
    if not (holds and math.isfinite(got)):
        raise BadInput(f"{source}[{field}=...] expects {expected}, got {got}")
