"""What the families share: sizes, structure laid beside random content, and how heads differ.

Letters: B batch, H heads (Hq/Hkv), L length, D head width. Logits are ``q k^T / sqrt(D)``.
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


def with_content(
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
    return q @ per_query_head(rotation, shape), k @ rotation


def per_query_head(tensor: Tensor, shape: Shape) -> Tensor:
    """A copy of its group's for each query head."""
    return tensor.repeat_interleave(shape.heads // shape.kv_heads, dim=1)


def normal(generator: Generator, shape: Shape, heads: int) -> Tensor:
    """Standard normal numbers ``[B, heads, L, D]``, on the device of the generator."""
    sizes = (shape.batch, heads, shape.length, shape.dim)
    return torch.randn(sizes, generator=generator, device=generator.device)


def tilt(shape: Shape) -> Tensor:
    """How heads differ: -1 for the first query head to 1 for the last, 0 where there is one."""
    return torch.linspace(-1, 1, shape.heads) if shape.heads > 1 else torch.zeros(1)


def odds(mass: float) -> float:
    """A share of mass against the rest."""
    return mass / (1 - mass)


def logit_for(mass: float, keys: int, length: int, sigma: float) -> float:
    """The logit that gives `keys` keys together this mass among all, where all have content."""
    # A normal logit of deviation sigma weighs exp(sigma^2 / 2) on average. The keys of interest
    # have it too, except for a needle, which is set apart in its favour.
    return math.log(odds(mass) * max(length - keys, 1) / keys) + (sigma**2 / 2 if keys == 1 else 0)


def expect_mass(source: str, mass: float) -> None:
    """Refuse a share of mass that leaves nothing, or everything, to the other keys."""
    expect(0 < mass < 1, source, "mass", "above 0 and below 1", mass)


def expect(holds: bool, source: str, field: str, expected: str, got: float) -> None:
    """Refuse a value of a field, saying what was expected.

    Raises:
        BadInput: it does not hold, or the value is no number.
    """
    if not (holds and math.isfinite(got)):
        raise BadInput(f"{source}[{field}=...] expects {expected}, got {got}")
