"""How far information can travel through a stack of layers: attention rollout.

Abnar, Zuidema: Quantifying Attention Flow in Transformers (2020, https://arxiv.org/abs/2005.00928),
section 3: a layer passes half of what it gets on as it is (the residual connection) and half
through its attention map, so that the map of a stack is the product of (A + I) / 2.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.layers import Layer, heads_of
from patterns.base import Pattern
from patterns.errors import BadInput

LONGEST = 4096  # tokens: a map is dense here


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What the tokens know of their past after some layers.

    share: of the visible tokens, those from which anything can have come at all; mean over tokens.
    distance: how far back, in tokens, what a token knows comes from; mean over tokens.
    """

    layers: int
    share: float
    distance: float


def rollout(maps: Iterable[Tensor]) -> Tensor:
    """The attention rollout of the maps of a stack, the first layer first.

    Args:
        maps: each [..., L, L], rows that sum to 1; heads may be averaged before.

    Returns:
        [..., L, L]: how much of each position has come to each position.

    Raises:
        BadInput: no map, or maps of different shapes.
    """
    total: Tensor | None = None
    for one in maps:
        if total is None:
            total = torch.eye(one.shape[-1], dtype=one.dtype, device=one.device)
        if one.ndim < 2 or one.shape[-2:] != total.shape[-2:]:
            raise BadInput(f"expected maps [L, L] of one size, got {[*one.shape]}")
        total = (one @ total + total) / 2
    if total is None:
        raise BadInput("expected the map of at least one layer, got none")
    return total


def reach(layers: Sequence[Layer], length: int, *, heads: int = 1) -> list[Reach]:
    """How far the patterns of a stack let a text of this length see, after each layer.

    Of each pattern the support is used, with equal weights: what a model makes of it depends on
    its queries and keys. Of `heads` query heads with patterns of their own the mean is taken.

    Raises:
        BadInput: the length is beyond `LONGEST`.
    """
    if length > LONGEST:
        raise BadInput(f"reach is computed from dense maps up to {LONGEST} tokens, got {length}")
    position = torch.arange(length)
    away = (position[:, None] - position).abs().float()
    visible = torch.ones(length, length)
    if all(one.causal for one in layers):
        visible = visible.tril()
    found: list[Reach] = []
    total = torch.eye(length)
    for number, one in enumerate(_uniform_maps(layers, length, heads), start=1):
        total = (one @ total + total) / 2
        known = ((total > 0).sum(dim=1) / visible.sum(dim=1)).mean()
        distance = (total * away).sum(dim=1).mean()
        found.append(Reach(layers=number, share=float(known), distance=float(distance)))
    return found


def _uniform_maps(layers: Sequence[Layer], length: int, heads: int) -> Iterator[Tensor]:
    """Equal weights on what each layer's pattern can see, each distinct pattern computed once."""
    made: dict[Pattern, Tensor] = {}
    for layer in layers:
        own = heads_of(layer, heads)
        for one in own:
            if one not in made:
                seen = one.support(length).float()
                made[one] = seen / seen.sum(dim=1, keepdim=True)
        yield torch.stack([len(some) / heads * made[one] for one, some in own.items()]).sum(dim=0)
