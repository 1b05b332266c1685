"""Rows brought together by a label that each of them has, so that a group can share its keys.

Letters: N = batch * heads, L rows, M tiles of Q rows, E head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A layout of rows in tiles, where all rows of a tile have one label; zero rows fill a tile.

    rows: the row that lies at each place [N, M, Q]; L for none.
    place: the place of each row [N, L]; M * Q for rows without a label, which lie nowhere.
    label: the label of each tile [N, M].
    """

    rows: Tensor
    place: Tensor
    label: Tensor

    def arrange(self, x: Tensor) -> Tensor:
        arranged: Tensor = _Arrange.apply(x, self)  # type: ignore[no-untyped-call]
        return arranged

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        x = take(pad(x.flatten(1, 2), (0, 0, 0, 1), value=fill), self.place)
        return x.view(batch, -1, *x.shape[1:])


class _Arrange(torch.autograd.Function):
    """Every row lies in at most one place, so that the gradients come back by a gather as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups) -> Tensor:
        ctx.groups, ctx.batch = groups, len(x)
        return take(pad(x.flatten(0, 1), (0, 0, 0, 1)), groups.rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.groups.restore(grads[0], ctx.batch, 0.0), None


def group_rows(label: Tensor, count: int, tile: int) -> Groups:
    """Bring rows of equal label in [0, count) together in tiles; `count` stands for no label.

    There are as many tiles as any labels can need: the shapes do not depend on the labels.
    """
    heads, length = label.shape
    tiles = min(length // tile + count, length)
    ordered, order = label.sort(dim=1, stable=True)
    size = torch.zeros(heads, count + 1, dtype=torch.int64, device=label.device)
    size.scatter_add_(1, label, torch.ones_like(label))
    first = size.cumsum(dim=1) - size
    needed = -(-size[:, :count] // tile)
    last_tile = needed.cumsum(dim=1)
    first_tile = pad(last_tile - needed, (0, 1))
    within = torch.arange(length, device=label.device) - first.gather(1, ordered)
    place = first_tile.gather(1, ordered) * tile + within
    place = place.masked_fill(ordered == count, tiles * tile)
    rows = torch.full((heads, tiles * tile + 1), length, device=label.device)
    rows.scatter_(1, place, order.masked_fill(ordered == count, length))
    number = torch.arange(tiles, device=label.device).expand(heads, -1).contiguous()
    return Groups(
        rows=rows[:, :-1].view(heads, tiles, tile),
        place=torch.empty_like(place).scatter_(1, order, place),
        label=torch.searchsorted(last_tile, number, right=True).clamp(max=count - 1),
    )


def take(x: Tensor, index: Tensor) -> Tensor:
    """Of each x[n] [N, count, ...] the entries index[n] [N, ...]."""
    head = torch.arange(x.shape[0], device=x.device).view(-1, *[1] * (index.ndim - 1))
    taken = x.flatten(0, 1).index_select(0, (head * x.shape[1] + index).flatten())
    return taken.view(*index.shape, *x.shape[2:])
