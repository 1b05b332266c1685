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
from typing import NamedTuple

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


class _Keys(NamedTuple):
    """Keys [N, tiles, K, E] with values, and bias; `seen` broadcasts to [tiles, T, K]."""

    found: Summary
    seen: Tensor


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

    def piece(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Piece:
        """All keys of this side as one piece."""
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        parts = [self._window(k, v), *self._regions(q, k, v, scale)]
        if self.sink:
            parts.append(self._sinks(k, v))
        biased = any(part.found.bias is not None for part in parts)
        layout: Layout = Reversed(self._layout) if self.mirrored else self._layout
        return Piece(
            layout=layout,
            k=torch.cat([part.found.key for part in parts], dim=2),
            v=torch.cat([part.found.value for part in parts], dim=2),
            bias=torch.cat([_bias(part.found) for part in parts], dim=2) if biased else None,
            visible=Visibility(
                mask=torch.cat(
                    [part.seen.expand(self._count, self._tile, -1) for part in parts], dim=2
                )
            ),
        )

    def _start(self, device: torch.device) -> Tensor:
        """Where the run of each tile starts, [tiles, 1, 1]."""
        tile = torch.arange(self._count, device=device) - self._early
        return (tile * self._tile)[:, None, None]

    def _bound(self, device: torch.device) -> Tensor:
        """The bound of each query of a tile, counted from the start of the run, [T, 1]."""
        offset = torch.arange(self._tile, device=device)[:, None]
        return offset - offset % self.block

    def _first_direct(self, device: torch.device) -> Tensor:
        """Where the direct tokens begin: a region of a single token is one of them."""
        bound = self._bound(device)
        return bound - bound % 2 if self.block == 1 else bound

    def _window(self, k: Tensor, v: Tensor) -> _Keys:
        width, before = self._tile + self._lag, self._early * self._tile
        after = max(0, self._count * self._tile + self._lag - before - self.length)

        def cut(x: Tensor) -> Tensor:
            x = pad(x.flip(1) if self.mirrored else x, (0, 0, before, after))
            return x.unfold(1, width, self._tile).mT[:, : self._count]

        place = torch.arange(width, device=k.device)
        query = torch.arange(self._tile, device=k.device)[:, None] + self._lag
        upto = place < query if self.mirrored else place <= query
        seen = upto & (place >= self._first_direct(k.device))
        return _Keys(Summary(cut(k), cut(v), None), seen & (place >= -self._start(k.device)))

    def _regions(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> list[_Keys]:
        start, bound = self._start(q.device), self._bound(q.device)
        found = []
        for size, count in levels(self.length, self.block, self._lag):
            if size < self._tile:
                run = torch.arange(0, self._tile, 2 * size, device=q.device)
                seen = bound // size * size == run + size
                first = start + run
            else:
                seen = start // size % 2 == 1
                first = (start // size - 1) * size
            lives = first < self.length - self.sink if self.mirrored else first + size > self.sink
            summary = self._level(q, k, v, size, count, scale)
            spread = summary.each(partial(self._spread, size=size))
            found.append(_Keys(spread, seen & lives & (start >= 0)))
        return found

    def _level(
        self, q: Tensor, k: Tensor, v: Tensor, size: int, count: int, scale: float
    ) -> Summary:
        """The summaries of one level, [N, R, ...]: the first of every two runs of `size` tokens."""
        used = (2 * count - 1) * size
        first = self.length - used if self.mirrored else 0
        q, k, v = (x[:, first : first + used].unfold(1, size, 2 * size).mT for x in (q, k, v))
        member = None
        if self.sink:
            token = torch.arange(first, first + used, device=q.device)
            member = token.unfold(0, size, 2 * size) >= self.sink
        found = summarise(q, k, v, member, self.summary, scale)
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

    def _sinks(self, k: Tensor, v: Tensor) -> _Keys:
        sink = min(self.sink, self.length)
        k, v = (x[:, None, :sink].expand(-1, self._count, -1, -1) for x in (k, v))
        place = torch.arange(sink, device=k.device)
        place = self.length - 1 - place if self.mirrored else place
        before = place < self._start(k.device) + self._first_direct(k.device)
        return _Keys(Summary(k, v, None), before)


def _bias(found: Summary) -> Tensor:
    return found.key.new_zeros(found.key.shape[:-1]) if found.bias is None else found.bias
