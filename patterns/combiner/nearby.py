"""The keys that a block of queries sees directly: its neighbourhood, and the sinks beyond it."""

import torch
from torch import Tensor

from patterns.dense import Visibility
from patterns.pieces import Blocks, Piece, Whole


def neighbourhood(k: Tensor, v: Tensor, blocks: Blocks, *, near: int, causal: bool) -> Piece:
    """The own block (causal: up to the query) and `near` blocks before it; if not causal, after."""
    k, v = blocks.arrange(k), blocks.arrange(v)
    near = min(near, blocks.count - 1)
    if near == 0 and causal:
        return Piece(layout=blocks, k=k, v=v, visible=Visibility(causal=True))
    reach = range(-near, 1 if causal else near + 1)
    mask = None
    if near or blocks.length % blocks.block:
        query = torch.arange(blocks.count * blocks.block, device=k.device)
        query = query.view(blocks.count, blocks.block, 1)
        key = torch.cat([query + step * blocks.block for step in reach], dim=1).mT
        mask = (key >= 0) & (key < blocks.length)
        mask = mask & (key <= query) if causal else mask
    k, v = (torch.cat([x.roll(-step, dims=1) for step in reach], dim=2) for x in (k, v))
    return Piece(layout=blocks, k=k, v=v, visible=Visibility(mask=mask))


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
