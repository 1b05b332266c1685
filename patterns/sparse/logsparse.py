"""LogSparse: about log L keys a query, ever sparser with the distance.

>>> from patterns.draw import draw
>>> print(draw(LogSparse(), 10))
#.........
##........
###.......
.###......
#.###.....
.#.###....
..#.###...
...#.###..
#...#.###.
.#...#.###
>>> print(draw(LogSparse(keys="suffix"), 10))
#.........
##........
.##.......
.###......
...##.....
...###....
...#.##...
...#.###..
.......##.
.......###
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from patterns.base import Paper
from patterns.dense import Visibility
from patterns.pieces import Blocks, Layout, Piece, Reversed, attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.offsets import attend_offsets
from patterns.sparse.tiles import Cover, TilePair, digit_ends, power_apart

_TILE = 32  # consecutive queries that share their distant keys; a power of two


@dataclass(frozen=True, kw_only=True)
class LogSparse(SparsePattern):
    """Softmax over O(log L) keys of each query.

    powers: the token itself and those 1, 2, 4, 8, ... before it, as in the paper.
    suffix: the token itself and the last token of every block when [0, i) is cut into blocks by
        the binary digits of i: the sparse parent of combiner-logsparse.
    Bidirectional: the mirrored keys too.
    """

    causal: bool = True
    keys: Literal["powers", "suffix"] = "powers"

    name: ClassVar = "logsparse"
    paper: ClassVar = Paper(
        title="Enhancing the Locality and Breaking the Memory Bottleneck of Transformer on Time "
        "Series Forecasting",
        authors="Li, Jin, Xuan, Zhou, Chen, Wang, Yan",
        year=2019,
        link="https://arxiv.org/abs/1907.00235",
        section="4.2",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        if self.keys == "powers":
            away = (query - key).abs()
            return away & (away - 1) == 0  # 0 and the powers of two
        past = _ends_a_block(query, key)
        return (query == key) | past | _ends_a_block(length - 1 - query, length - 1 - key)

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        if backend == "sdpa" and self.keys == "powers":
            return "no fused kernel reads keys at powers of two; use backend eager or keys=suffix"
        if backend == "flex" and self.keys == "suffix" and not self.causal:
            return "the blocks of mirrored suffixes have no closed form; use backend sdpa or eager"
        return super()._refusal(backend, q)

    def _tiles(self, pair: TilePair) -> Cover:
        if self.keys == "powers":
            return power_apart(pair)
        return digit_ends(pair)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if self.keys == "suffix":
            from patterns.kernels.suffix import attend_suffixes

            return attend_suffixes(q, k, v, causal=self.causal, scale=scale)
        from patterns.kernels.diagonals import attend_diagonals

        return attend_diagonals(q, k, v, causal=self.causal, scale=scale)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        if self.keys == "powers":
            back = [0, *_powers(q.shape[2])]
            ahead = [] if self.causal else [-offset for offset in back[1:]]
            return attend_offsets(q, k, v, back + ahead, scale)
        tiles = Blocks(q.shape[2], _TILE)
        pieces = [_suffix_piece(k, v, tiles, tiles, itself=True)]
        if not self.causal:
            pieces.append(_suffix_piece(k, v, tiles, Reversed(tiles), itself=False))
        return attend_pieces(q, pieces, scale, backend)

    def _pairs(self, length: int) -> tuple[int, int]:
        if self.keys == "powers":
            others = sum(length - offset for offset in _powers(length))
        else:
            others = sum(_ones(length, bit) for bit in range(length.bit_length()))
        return length + (others if self.causal else 2 * others), 0


def _powers(length: int) -> list[int]:
    """The powers of two below a length."""
    return [1 << bit for bit in range((length - 1).bit_length())]


def _ones(length: int, bit: int) -> int:
    """How many of the numbers below a length have this binary digit."""
    full, rest = divmod(length, 2 << bit)
    return (full << bit) + max(0, rest - (1 << bit))


def _ends_a_block(query: Tensor, key: Tensor) -> Tensor:
    """Whether key + 1 is the query's position with some of its low binary digits cleared.

    That is so where the two agree from the lowest one of key + 1 upwards.
    """
    end = key + 1
    lowest = end & -end
    return (lowest > 0) & (query - query % lowest.clamp(min=1) == end)


def _suffix_piece(k: Tensor, v: Tensor, tiles: Blocks, layout: Layout, *, itself: bool) -> Piece:
    """Tiles of queries against their own tile and the ends of blocks before it.

    Within a tile the low digits of a position choose keys of the tile; its high digits, which the
    whole tile shares, choose keys before it.
    """
    row = torch.arange(_TILE, device=k.device)
    near = _ends_a_block(row[:, None], row)
    if itself:
        near = near | (row[:, None] == row)
    tile = torch.arange(tiles.count, device=k.device)[:, None]
    bit = torch.arange((tiles.count - 1).bit_length(), device=k.device)
    far = (tile >> bit) & 1 == 1
    last = (tile >> bit << bit) - 1
    visible = torch.cat(
        [
            near.expand(tiles.count, -1, -1),
            far[:, None].expand(-1, _TILE, -1),
        ],
        dim=-1,
    )
    k, v = (_with_tile_ends(layout.arrange(x), last.clamp(min=0)) for x in (k, v))
    return Piece(layout=layout, k=k, v=v, visible=Visibility(mask=visible))


def _with_tile_ends(x: Tensor, tile: Tensor) -> Tensor:
    """Append to each tile of [N, M, T, E] the last rows of J tiles [M, J]."""
    # Many tiles read the same row: in float32 the gradients that they send it add up well.
    ends = x[:, :, -1].to(torch.promote_types(x.dtype, torch.float32))
    read = ends.index_select(1, tile.flatten()).view(len(x), *tile.shape, x.shape[-1])
    return torch.cat([x, read.to(x.dtype)], dim=2)
