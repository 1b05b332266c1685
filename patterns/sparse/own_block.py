"""The own block as one piece: what axial (a grid row), fixed and block-topk share."""

import torch
from torch import Tensor

from patterns.dense import EVERYTHING, Visibility
from patterns.pieces import Blocks, Piece


def own_block_piece(k: Tensor, v: Tensor, blocks: Blocks, *, causal: bool) -> Piece:
    """Every query against its own block, only backwards where causal."""
    visible = Visibility(causal=True) if causal else EVERYTHING
    if not causal and blocks.length % blocks.block:
        key = torch.arange(blocks.count * blocks.block, device=k.device)
        visible = Visibility(mask=(key < blocks.length).view(blocks.count, 1, blocks.block))
    return Piece(layout=blocks, k=blocks.arrange(k), v=blocks.arrange(v), visible=visible)


def own_block_pairs(length: int, block: int, *, causal: bool) -> int:
    """How many pairs lie in one block."""
    full, rest = divmod(length, block)
    both_ways = full * block**2 + rest**2
    return (both_ways + length) // 2 if causal else both_ways
