"""Sparse Transformer, fixed: the own block, and the last tokens of every earlier block.

>>> from patterns.draw import draw
>>> print(draw(Fixed(block=3), 9))
#........
##.......
###......
..##.....
..###....
..####...
..#..##..
..#..###.
..#..####
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from patterns.base import AUTO, AutoInt, Paper, automatic_block
from patterns.checks import require_positive
from patterns.dense import Visibility
from patterns.errors import BadInput
from patterns.pieces import Blocks, Columns, Piece, attend_pieces
from patterns.sparse.base import SparsePattern
from patterns.sparse.own_block import own_block_pairs, own_block_piece
from patterns.sparse.tiles import Cover, TilePair, block_ends, same_block


@dataclass(frozen=True, kw_only=True)
class Fixed(SparsePattern):
    """Softmax over the own block and the last `tail` tokens of every earlier block.

    The paper gives the two halves to different heads or layers; here every head has their union.
    Bidirectional: of every other block, a short last one included.
    """

    causal: bool = True
    block: AutoInt = AUTO  # tokens a block, l in the paper; automatic: about sqrt(L), or `tail`
    tail: int = 1  # tokens of a block that other blocks see, c in the paper

    name: ClassVar = "fixed"
    paper: ClassVar = Paper(
        title="Generating Long Sequences with Sparse Transformers",
        authors="Child, Gray, Radford, Sutskever",
        year=2019,
        link="https://arxiv.org/abs/1904.10509",
        section="4.3",
    )
    aim: ClassVar = "subset"
    tiny: ClassVar = {"block": 4}
    backends: ClassVar = ("triton", "sdpa", "eager", "flex")

    def __post_init__(self) -> None:
        require_positive(self, "block", "tail")
        if self.block is not None and self.tail > self.block:
            raise BadInput(
                f"fixed[block={self.block},tail={self.tail}]: a tail is part of its block, "
                f"so it must be at most {self.block}"
            )

    def _automatic(self, field: str, length: int) -> Any:
        return max(automatic_block(length), self.tail)

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        end = ((key // self.block + 1) * self.block).clamp(max=length)
        return (query // self.block == key // self.block) | (key >= end - self.tail)

    def _tiles(self, pair: TilePair) -> Cover:
        return same_block(pair, self.block) | block_ends(pair, self.block, self.tail)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        from patterns.kernels.tails import attend_tails

        return attend_tails(
            q, k, v, block=self.block, tail=self.tail, causal=self.causal, scale=scale
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        blocks = Blocks(q.shape[2], min(self.block, q.shape[2]))
        pieces = [own_block_piece(k, v, blocks, causal=self.causal)]
        if blocks.count > 1:
            pieces.append(self._tails(k, v, blocks))
        return attend_pieces(q, pieces, scale, backend)

    def _tails(self, k: Tensor, v: Tensor, blocks: Blocks) -> Piece:
        """Every column of the grid of blocks asks the same keys: the tails of other blocks."""
        skip = 1 if self.causal else 0
        row = torch.arange(blocks.count, device=k.device)
        owner = row[: blocks.count - skip].repeat_interleave(self.tail)
        end = ((owner + 1) * blocks.block).clamp(max=blocks.length)
        key = end - 1 - torch.arange(self.tail, device=k.device).repeat(blocks.count - skip)
        if self.causal:
            visible = Visibility(causal=True)
            if self.tail > 1:
                visible = Visibility(mask=owner < row[1:, None])
        else:
            visible = Visibility(mask=(owner != row[:, None]) & (key >= owner * blocks.block))
        tails = (x[:, :, key.clamp(min=0)].flatten(0, 1)[:, None] for x in (k, v))
        keys, values = tails
        layout = Columns(blocks.length, blocks.block, skip=skip)
        return Piece(layout=layout, k=keys, v=values, visible=visible)

    def _pairs(self, length: int) -> tuple[int, int]:
        full, rest = divmod(length, self.block)
        own = own_block_pairs(length, self.block, causal=self.causal)
        earlier = self.tail * (self.block * full * (full - 1) // 2 + rest * full)
        if self.causal:
            return own + earlier, 0
        later = self.tail * self.block * full * (full - 1) // 2
        later += full * self.block * min(self.tail, rest)
        return own + earlier + later, 0
