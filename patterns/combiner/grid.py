"""The tokens as a grid that is read row by row: what the axial Combiners share.

Letters: S grid rows, U columns; token i lies in row i // U and column i % U, and the last row may
be short. N = B * H; a row is *far* from a query more than `near` rows away from it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from patterns.combiner.nearby import neighbourhood, sink_pieces
from patterns.combiner.scan import Lines
from patterns.combiner.summary import Summary
from patterns.dense import Visibility
from patterns.pieces import Blocks, Columns, Piece
from patterns.sparse.columns import column_pieces


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid of `columns` for `length` tokens, of which the first `sink` belong to no region."""

    length: int
    columns: int
    sink: int
    near: int
    causal: bool

    @property
    def rows(self) -> int:
        """S, a last short row included."""
        return -(-self.length // self.columns)

    @property
    def reach(self) -> int:
        """How many rows away the nearest far row is."""
        return self.near + 1

    @property
    def region_rows(self) -> range:
        """The rows that are far from some query and not all sinks."""
        first = self.sink // self.columns
        last = self.rows - self.reach if self.causal or self.rows <= self.reach else self.rows
        return range(first, last if self.sink < self.length else first)

    def members_of(self, row: int) -> int:
        """How many tokens of a row may belong to a region."""
        start, end = row * self.columns, (row + 1) * self.columns
        return max(0, min(end, self.length) - max(start, self.sink))

    def tokens(self, device: torch.device | None = None) -> Tensor:
        """The number of each token, [S, U]; from the length on it is none."""
        places = torch.arange(self.rows * self.columns, device=device)
        return places.view(self.rows, self.columns)

    def lines(self, q: Tensor, k: Tensor, v: Tensor, told: Tensor | None, rows: range) -> Lines:
        """These rows as lines of tokens; see `Lines` for q and told."""
        member = None
        if any(self.members_of(row) < self.columns for row in (rows[0], rows[-1])):
            token = self.tokens(q.device)[rows.start : rows.stop]
            member = (token >= self.sink) & (token < self.length)
        grid = Blocks(self.length, self.columns)
        q, k, v = (grid.arrange(x)[:, rows.start : rows.stop] for x in (q, k, v))
        if told is not None:
            told = grid.arrange(told)[:, rows.start : rows.stop]
        return Lines(q, k, v, member, told)

    def direct_pieces(self, k: Tensor, v: Tensor, *, column: bool) -> list[Piece]:
        """The own row and the near ones, the own column if asked for, and the sinks."""
        rows = Blocks(self.length, self.columns)
        near, causal = self.near, self.causal
        pieces = neighbourhood(k, v, rows, near=near, causal=causal)
        if column:
            pieces += column_pieces(k, v, width=self.columns, skip=self.reach, causal=causal)
        return pieces + sink_pieces(
            k, v, rows, sink=self.sink, near=near, causal=causal, apart=column
        )

    def read_down(
        self, found: Summary, exists: Tensor | None, rows: range, *, before: int = 0, after: int = 0
    ) -> Piece:
        """Every query reads what its own column has in the far ones of these rows.

        Args:
            found: summaries [N, rows, columns, ...], of all columns but `before` and `after`.
            exists: which of them there are, [rows, columns]; None if all.
        """
        # Causal: as many queries as keys, the first of both `reach` rows apart.
        skip = rows.start + self.reach if self.causal else 0
        visible = Visibility(causal=True)
        if not self.causal or exists is not None:
            device = found.key.device
            query = torch.arange(skip, self.rows, device=device)[:, None]
            away = query - torch.arange(rows.start, rows.stop, device=device)
            mask = (away if self.causal else away.abs()) > self.near
            visible = Visibility(mask=mask if exists is None else mask & exists.mT[:, None])
        down = found.each(lambda x: x.transpose(1, 2))
        return Piece(
            layout=Columns(self.length, self.columns, skip, before, after),
            k=down.key,
            v=down.value,
            bias=down.bias,
            visible=visible,
        )

    def read_across(
        self, found: Summary, exists: Tensor | None, *, skip: int = 0, drop: int = 0
    ) -> Piece:
        """Every query reads what its own row has in the other columns.

        Args:
            found: summaries [N, U, rows, ...] of all rows but the first `skip` and last `drop`.
            exists: which of them there are, [U, rows]; None if all.
        """
        others = ~torch.eye(self.columns, dtype=torch.bool, device=found.key.device)
        across = found.each(lambda x: x.transpose(1, 2))
        return Piece(
            layout=Blocks(self.length, self.columns, skip, drop),
            k=across.key,
            v=across.value,
            bias=across.bias,
            visible=Visibility(mask=others if exists is None else others & exists.mT[:, None]),
        )

    def readers_down(self) -> Tensor:
        """How many queries of column u are far from row r and see it, [S, U]."""
        row = torch.arange(self.rows)[:, None]
        height = (self.tokens() < self.length).sum(dim=0)
        below = (height - row - self.reach).clamp(min=0)
        if self.causal:
            return below
        return below + torch.minimum((row - self.near).clamp(min=0), height)
