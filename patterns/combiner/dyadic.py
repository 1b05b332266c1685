"""The fast form of Combiner-Logsparse: tiles of queries, each with one set of keys.

Letters: N = B * H, T queries of a tile, G tokens of a region, R regions of a level, E head width.

A query in leaf a splits the tokens before its *bound*, leaf a - near. Tile t has the queries whose
bound lies in the t-th run of T tokens: they are `lag` tokens ahead of it. Its keys are

    the T + lag tokens from the start of that run to its last query;
    regions inside the run: which query reads which is the same in every tile;
    one longer region of each level, or none: all queries of the tile share it;
    the sinks.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from patterns.combiner.summary import Summary, SummaryKind, summarise
from patterns.dense import Visibility
from patterns.pieces import Blocks, Layout, Piece, Reversed

_TILE = 64  # queries of a tile, at least


def levels(length: int, block: int, lag: int) -> list[tuple[int, int]]:
    """For each level the tokens of a region, and how many regions some query uses.

    Region r of size G is [2 * r * G, (2 * r + 1) * G); its readers are the G queries from `lag`
    tokens past its end on.
    """
    found = []
    size = max(block, 2)
    while (beyond := length - lag - size) > 0:
        found.append((size, -(-beyond // (2 * size))))
        size *= 2
    return found


@dataclass(frozen=True)
class _Tiles:
    """Tiles of queries as a layout; in the first one `front` places come before query 0."""

    length: int
    tile: int
    front: int

    @property
    def blocks(self) -> Blocks:
        return Blocks(self.length + self.front, self.tile)

    def arrange(self, x: Tensor) -> Tensor:
        return self.blocks.arrange(pad(x, (0, 0, self.front, 0)))

    def restore(self, x: Tensor, batch: int, fill: float) -> Tensor:
        return self.blocks.restore(x, batch, fill)[:, :, self.front :]


@dataclass(frozen=True, kw_only=True)
class Dyadic:
    """What queries see behind them, themselves included; mirrored: ahead, without themselves.

    Mirrored, places are counted from the end. `block` is at most `length`.
    """

    length: int
    block: int
    near: int
    sink: int
    summary: SummaryKind
    mirrored: bool

    @property
    def _lag(self) -> int:
        return min(self.near * self.block, self.length)

    @property
    def _tile(self) -> int:
        tile = self.block
        while tile < min(max(_TILE, self._lag), self.length):
            tile *= 2
        return tile

    @property
    def _early(self) -> int:
        """How many tiles have queries whose bound would lie before the first token."""
        return -(-self._lag // self._tile)

    @property
    def _layout(self) -> _Tiles:
        return _Tiles(self.length, self._tile, self._early * self._tile - self._lag)

    @property
    def _count(self) -> int:
        return self._layout.blocks.count

    def piece(self, q: Tensor, k: Tensor, v: Tensor, told: Tensor | None, scale: float) -> Piece:
        """All keys of this side as one piece; regions are pooled from q and told (None: k)."""
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        told = None if told is None else told.flatten(0, 1)
        parts = [Summary(self._window(k), self._window(v), None)]
        for size, count in levels(self.length, self.block, self._lag):
            found = self._level(q, k, v, told, size, count, scale)
            parts.append(found.each(partial(self._spread, size=size)))
        if self.sink:
            k, v = (x[:, None, : self.sink].expand(-1, self._count, -1, -1) for x in (k, v))
            parts.append(Summary(k, v, None))
        biased = any(part.bias is not None for part in parts)
        layout: Layout = Reversed(self._layout) if self.mirrored else self._layout
        return Piece(
            layout=layout,
            k=torch.cat([part.key for part in parts], dim=2),
            v=torch.cat([part.value for part in parts], dim=2),
            bias=torch.cat([_bias(part) for part in parts], dim=2) if biased else None,
            visible=Visibility(mask=self._mask(q.device)),
        )

    def _mask(self, device: torch.device) -> Tensor:
        """Who sees what, [tiles, T, K]; places are counted from the start of a tile's run."""
        start = (torch.arange(self._count, device=device) - self._early) * self._tile
        start = start[:, None, None]
        query = torch.arange(self._tile, device=device)[:, None]
        bound = query - query % self.block
        # A region of a single token is direct.
        first_direct = bound - bound % 2 if self.block == 1 else bound
        query = query + self._lag

        place = torch.arange(self._tile + self._lag, device=device)
        window = (place >= first_direct) & (place < query if self.mirrored else place <= query)
        masks = [window & (place + start >= 0)]

        sizes = [size for size, _ in levels(self.length, self.block, self._lag)]
        inner = [size for size in sizes if size < self._tile]
        if inner:
            runs = [torch.arange(0, self._tile, 2 * size, device=device) for size in inner]
            place = torch.cat(runs)
            size = torch.cat([torch.full_like(r, s) for r, s in zip(runs, inner, strict=True)])
            reads = bound // size * size == place + size
            masks.append(reads & self._lives(start + place, size) & (start >= 0))
        outer = sizes[len(inner) :]
        if outer:
            size = outer[0] << torch.arange(len(outer), device=device)
            reads = start // size % 2 == 1
            masks.append(reads & self._lives((start // size - 1) * size, size) & (start >= 0))
        if self.sink:
            place = torch.arange(min(self.sink, self.length), device=device)
            place = self.length - 1 - place if self.mirrored else place
            masks.append(place < start + first_direct)
        return torch.cat([mask.expand(self._count, self._tile, -1) for mask in masks], dim=2)

    def _lives(self, first: Tensor, size: Tensor) -> Tensor:
        """Whether the sinks leave something of a region."""
        return first < self.length - self.sink if self.mirrored else first + size > self.sink

    def _window(self, x: Tensor) -> Tensor:
        """The tokens of each tile's run and the `lag` after it: [N, tiles, T + lag, E]."""
        width, before = self._tile + self._lag, self._early * self._tile
        after = max(0, self._count * self._tile + self._lag - before - self.length)
        x = pad(x.flip(1) if self.mirrored else x, (0, 0, before, after))
        return x.unfold(1, width, self._tile).mT[:, : self._count]

    def _level(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        told: Tensor | None,
        size: int,
        count: int,
        scale: float,
    ) -> Summary:
        """The summaries of one level, [N, R, ...]: the first of every two runs of `size` tokens."""
        used = (2 * count - 1) * size
        first = self.length - used if self.mirrored else 0

        def runs(x: Tensor) -> Tensor:
            return x[:, first : first + used].unfold(1, size, 2 * size).mT

        told = None if told is None else runs(told)
        member = None
        if self.sink:
            token = torch.arange(first, first + used, device=q.device)
            member = token.unfold(0, size, 2 * size) >= self.sink
        found = summarise(runs(q), runs(k), runs(v), member, self.summary, scale, told)
        return found.each(lambda x: x.flip(1)) if self.mirrored else found

    def _spread(self, x: Tensor, size: int) -> Tensor:
        """Regions [N, R, ...] to the tiles that may read them: [N, tiles, some each, ...]."""
        wide = x if x.ndim == 3 else x[..., None]
        tiles = self._count - self._early
        share = self._tile // (2 * size)
        if share == 0:
            wide = wide[:, :, None].expand(-1, -1, 2 * size // self._tile, -1).flatten(1, 2)
            share = 1
        wide = pad(wide[:, : tiles * share], (0, 0, 0, max(0, tiles * share - wide.shape[1])))
        wide = wide.reshape(len(wide), tiles, share, wide.shape[-1])
        wide = pad(wide, (0, 0, 0, 0, self._early, 0))
        return wide if x.ndim == 3 else wide[..., 0]


def _bias(found: Summary) -> Tensor:
    return found.key.new_zeros(found.key.shape[:-1]) if found.bias is None else found.bias
