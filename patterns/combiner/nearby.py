"""The keys that a block of queries sees directly: its neighbourhood, and the sinks beyond it."""

import torch
from torch import Tensor

from patterns.dense import EVERYTHING, Visibility
from patterns.pieces import Blocks, Piece, Whole
from patterns.sparse.own_block import own_block_piece


def neighbourhood(k: Tensor, v: Tensor, blocks: Blocks, *, near: int, causal: bool) -> list[Piece]:
    """The own block (causal: up to the query) and `near` blocks before it; if not causal, after.

    One piece for each distance, so that blocks which are seen whole need no mask.
    """
    own = own_block_piece(k, v, blocks, causal=causal)
    length, block = blocks.length, blocks.block
    pieces = [own]
    for step in range(1, min(near, blocks.count - 1) + 1):
        before = Blocks(length, block, skip=step)
        # Said, not left to the default, which a compiler cannot follow.
        keys, values = own.k[:, :-step], own.v[:, :-step]
        pieces.append(Piece(layout=before, k=keys, v=values, visible=EVERYTHING))
        if not causal:
            visible = EVERYTHING
            if length % block:
                key = torch.arange(step * block, blocks.count * block, device=k.device)
                visible = Visibility(mask=(key < length).view(-1, 1, block))
            after = Blocks(length, block, drop=step)
            pieces.append(
                Piece(layout=after, k=own.k[:, step:], v=own.v[:, step:], visible=visible)
            )
    return pieces


def sink_pieces(
    k: Tensor, v: Tensor, blocks: Blocks, *, sink: int, near: int, causal: bool, apart: bool
) -> list[Piece]:
    """The leading `sink` tokens, where they lie beyond the neighbourhood; none if they never do.

    Args:
        apart: a query's own column of the grid is told elsewhere and left out here.
    """
    sink = min(sink, blocks.length)
    # Earlier queries have all sinks in their neighbourhood, unless later blocks hold some too.
    start = (near + 1) * blocks.block if causal or sink <= blocks.block else 0
    if sink == 0 or start >= blocks.length:
        return []
    mask = None
    if sink > blocks.block or apart:
        query = torch.arange(start, blocks.length, device=k.device)[:, None]
        key = torch.arange(sink, device=k.device)
        away = query // blocks.block - key // blocks.block
        mask = (away if causal else away.abs()) > near
        if apart:
            mask &= query % blocks.block != key % blocks.block
    k, v = (x[:, :, :sink].flatten(0, 1)[:, None] for x in (k, v))
    layout = Whole(blocks.length, start)
    return [Piece(layout=layout, k=k, v=v, visible=Visibility(mask=mask))]
