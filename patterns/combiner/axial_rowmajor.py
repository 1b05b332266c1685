"""Combiner-Axial, row-major: own row directly, every row above as its token in the own column
tells it.

>>> from patterns.draw import draw
>>> print(draw(CombinerAxialRowmajor(columns=3), 9))
#........
##.......
###......
aaa#.....
aaa##....
aaa###...
aaabbb#..
aaabbb##.
aaabbb###
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt, expand_groups
from patterns.checks import chosen_scale
from patterns.combiner.axial import AxialCombiner
from patterns.combiner.base import PAPER, local_softmax, weighted_sum
from patterns.combiner.grid import Grid
from patterns.combiner.summary import Summary, summarise_lines
from patterns.dense import EVERYTHING, Visibility
from patterns.pieces import Blocks, Piece
from patterns.taken import taken


@dataclass(frozen=True, kw_only=True)
class CombinerAxialRowmajor(AxialCombiner):
    """Token i = (s, u) of a grid: s = i // columns, u = i % columns. O(L * (columns + rows)).

    Direct: row s up to u (bidirectional: all of it) and, with `near`, the rows up to that far from
    s. Regions: every row r < s - near (bidirectional: more than `near` rows away), told by its
    token (r, u), whose real query q asks its own row:

        l = softmax_j(c <q, k_j>) over the row, region value sum_j l_j v_j, and
        none         key = the token's own key k_(r, u)
        wsum         key = sum_j l_j k_j
        variational  the same, bias = H(l)

    The released code is this one with a learned key. Where (r, u) does not exist (a short last
    row) or is a sink, the token of the region that is nearest to column u stands for it.
    """

    causal: bool = True
    columns: AutoInt = AUTO  # width of the grid; automatic: about sqrt(L)
    summary: Literal["none", "wsum", "variational"] = "none"
    sink: int = 0  # leading tokens that are always direct and belong to no region
    near: int = 0  # neighbouring rows that are direct

    name: ClassVar = "combiner-axial-rowmajor"
    paper: ClassVar = replace(PAPER, section="4.3")
    tiny: ClassVar = {"columns": 4}
    backends: ClassVar = ("triton", "sdpa", "eager")
    own_column: ClassVar = False

    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        key = torch.arange(length, device=rows.device)
        teller = key - key % self.columns + rows[:, None] % self.columns
        return (self._labels(rows, length, self._stand_in(teller, key, length)),)

    def _stand_in(self, teller: Tensor, token: Tensor, length: int) -> Tensor:
        """The region's nearest token to (r, u), for the region in the row of a token."""
        start = token - token % self.columns
        low, high = start.clamp(min=self.sink), (start + self.columns).clamp(max=length) - 1
        return torch.minimum(torch.maximum(teller, low), high)

    def _summarise(
        self,
        q: Tensor,
        k: Tensor,
        told: Tensor,
        regions: Tensor,
        region: Tensor,
        token: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # A region's number is the token that tells it.
        query, keys = taken(q, 2, regions.clamp(min=0)), taken(k, 2, token)
        local, total = local_softmax(query, keys, region, scale)
        if self.summary == "none":
            return taken(told, 2, regions.clamp(min=0)), torch.zeros_like(total), local
        key = weighted_sum(local, keys, region, len(regions))
        bias = total - scale * (query * key).sum(dim=-1)
        return key, bias if self.summary == "variational" else torch.zeros_like(total), local

    def _fused_plan(self) -> Any:
        return "rowmajor"

    def tell(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, backend: str = "auto"
    ) -> Tensor:
        """What each token would tell of its row: sum_j l_j v_j, [B, Hq, L, D].

        For keys of regions that are learned from it (`attend_told`). A row of sinks alone, which
        is no region, tells something finite.

        Raises:
            BadInput: shapes, dtypes or devices that do not fit together, or an unknown backend.
            Unsupported: the backend cannot run these inputs.
        """
        chosen = self.implementation(q, k, v, backend).backend
        length = q.shape[2]
        grid = self.resolve(length).grid(length)
        k, v = (expand_groups(x, q.shape[1]) for x in (k, v))
        query, keys, values, member, _ = grid.lines(q, k, v, None, range(grid.rows))
        visible = Visibility()
        if member is not None:
            visible = Visibility(mask=(member | ~member.any(dim=1, keepdim=True))[:, None])
        found = summarise_lines(
            query, keys, keys, values, visible,
            weighed=False, scale=chosen_scale(scale, q), backend=chosen,
        )  # fmt: skip
        return Blocks(length, grid.columns).restore(found.value, q.shape[0], 0.0)

    def region_pieces(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        told: Tensor | None,
        grid: Grid,
        scale: float,
        backend: str,
    ) -> list[Piece]:
        """Down every column what its tokens tell of their rows."""
        rows = grid.region_rows
        if not rows:
            return []
        lines = grid.lines(q, k, v, told, rows)
        (query, key), (_, k, v, member, _) = lines.pooled, lines
        visible = EVERYTHING
        if member is not None:
            token = grid.tokens(q.device)[rows.start : rows.stop]
            place = self._stand_in(token, token, grid.length) - rows.start * grid.columns
            query, key = (x.flatten(1, 2)[:, place] for x in (query, key))
            visible = Visibility(mask=member[:, None])
        found = summarise_lines(
            query, key, k, v, visible, weighed=self.summary != "none", scale=scale, backend=backend
        )
        if self.summary == "wsum":
            found = Summary(found.key, found.value, None)
        return [grid.read_down(found, None, rows)]

    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        grid = self.grid(length)
        token = grid.tokens()
        members = ((token < length) & (token >= self.sink)).sum(dim=1, keepdim=True)
        teller = self._stand_in(token, token, length).flatten()
        readers = torch.zeros_like(teller).index_add(0, teller, grid.readers_down().flatten())
        return ((members.expand_as(token).flatten(), readers),)
