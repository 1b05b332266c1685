"""Regions that lie the same way behind every reader, laid so that each reader meets its own.

Letters: N = batch * heads, L tokens, M columns of Q grid rows with queries and K with regions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.combiner.summary import Summary
from patterns.dense import Visibility
from patterns.pieces import Columns, Layout, Piece, Reversed


class Side(NamedTuple):
    """Regions on one side of their readers, in a grid of `block` columns: K rows for Q rows.

    A region lies `window` tokens after its end: in the column of all its readers, and in the row
    of the first of them. What lies after its readers is told in reverse order.
    """

    found: Summary
    columns: Columns
    seen: Tensor  # [M, Q, K]
    window: int
    sign: int

    @property
    def layout(self) -> Layout:
        """How the readers lie."""
        return self.columns if self.sign > 0 else Reversed(self.columns)

    def piece(self, closed: Tensor, dtype: torch.dtype) -> Piece:
        """Every query against its regions where they are `closed` [N, M, Q, K]."""
        found = self._laid()
        return Piece(
            layout=self.layout,
            k=found.key.to(dtype),
            v=found.value.to(dtype),
            bias=found.bias,
            visible=Visibility(mask=self.seen & closed),
        )

    def scores(self, q: Tensor, scale: float) -> Tensor:
        """Of every query [N, L, D] for its regions [N, L, K], the first ones first."""
        found = self._laid()
        assert found.bias is not None
        scores = scale * (self.layout.arrange(q[None]) @ found.key.mT) + found.bias[:, :, None]
        scores = scores.masked_fill(~self.seen, -math.inf)
        return self._ordered(self.layout.restore(scores, 1, -math.inf)[0])

    def ends(self) -> Tensor:
        """The token of each region that is nearest to its readers, [L, K] as `scores` has them."""
        length, device = self.columns.length, self.seen.device
        query = torch.arange(length, device=device)[:, None]
        query = query if self.sign > 0 else query.flip(0)
        row = torch.arange(self.columns.grid_rows, device=device)
        end = row * self.columns.width + query % self.columns.width - self.window
        return self._ordered(end if self.sign > 0 else length - 1 - end)

    def laid(self, opened: Tensor) -> Tensor:
        """What is said of regions as in `scores`, as the piece has them: [N, M, Q, K]."""
        return self.layout.arrange(self._ordered(opened)[None])

    def _laid(self) -> Summary:
        def lay(x: Tensor) -> Tensor:
            x = x if x.ndim == 3 else x[..., None]
            moved_on = pad(x, (0, 0, self.window, 0))[None, :, : self.columns.length]
            return self.columns.arrange(moved_on)

        key, value, bias = self.found
        assert bias is not None
        return Summary(lay(key), lay(value), lay(bias)[..., 0])

    def _ordered(self, x: Tensor) -> Tensor:
        return x if self.sign > 0 else x.flip(-1)


def seen_by(exist: Tensor, columns: Columns, window: int) -> Tensor:
    """Which regions each query reads, [M, Q, K] in a grid of columns."""
    exist = pad(exist, (window, 0))[: columns.length]
    laid = columns.arrange(exist[None, None, :, None])[0, :, :, 0]
    return laid[:, None] & torch.ones_like(laid[0]).expand(len(laid[0]), -1).tril()
