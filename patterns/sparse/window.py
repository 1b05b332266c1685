"""A sliding window, and the sinks beyond it: shared by the patterns that keep the neighbourhood."""

import torch
from torch import Tensor

from patterns.dense import EVERYTHING, Visibility, has_window_kernel
from patterns.pieces import Blocks, Piece, Whole


def window_piece(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, causal: bool, backend: str
) -> Piece:
    """Every query against the keys less than `window` away, only backwards where causal.

    Blocks of queries against their own block of keys and its neighbours: at most three times the
    window, whatever the length; or the fused window kernel where there is one.
    """
    length = q.shape[2]
    window = min(window, length)
    if has_window_kernel(backend, q):
        sides = (window - 1, 0 if causal else window - 1)
        whole = Whole(length)
        return Piece(
            layout=whole, k=whole.arrange(k), v=whole.arrange(v), visible=Visibility(window=sides)
        )
    blocks = Blocks(length, window)
    reach = (-1, 0) if causal else (-1, 0, 1)
    query = torch.arange(blocks.count * window, device=q.device).view(blocks.count, window, 1)
    key = torch.cat([query + step * window for step in reach], dim=1).transpose(1, 2)
    mask = ((query - key).abs() < window) & (key >= 0) & (key < length)
    if causal:
        mask &= key <= query
    return Piece(
        layout=blocks,
        k=_with_neighbours(blocks.arrange(k), reach),
        v=_with_neighbours(blocks.arrange(v), reach),
        visible=Visibility(mask=mask),
    )


def sinks_beyond(k: Tensor, v: Tensor, *, window: int, sink: int, causal: bool) -> list[Piece]:
    """Every query against those of the leading `sink` keys that its window does not hold."""
    length = k.shape[2]
    sink = min(sink, length)
    # The window of earlier queries holds all sinks, unless there are some to its right.
    start = window if causal or sink <= window else 0
    if sink == 0 or start >= length:
        return []
    keys, values = (x[:, :, :sink].flatten(0, 1)[:, None] for x in (k, v))
    visible = EVERYTHING
    if sink > 1:
        away = torch.arange(start, length, device=k.device)[:, None]
        away = away - torch.arange(sink, device=k.device)
        visible = Visibility(mask=(away if causal else away.abs()) >= window)
    return [Piece(layout=Whole(length, start), k=keys, v=values, visible=visible)]


def sinks_pairs(length: int, *, window: int, sink: int, causal: bool) -> int:
    """How many pairs lie less than `window` apart, or have one of the leading `sink` keys."""
    sink = min(sink, length)
    pairs = window_pairs(length, window, causal=causal)
    beyond = max(0, length - window)  # queries with tokens before their window
    rising = min(sink, beyond)
    pairs += rising * (rising + 1) // 2 + (beyond - rising) * sink
    if not causal:
        ahead = max(0, sink - window)
        pairs += ahead * (ahead + 1) // 2
    return pairs


def window_pairs(length: int, window: int, *, causal: bool) -> int:
    """How many pairs lie less than `window` apart."""
    window = min(window, length)
    backwards = window * length - window * (window - 1) // 2
    return backwards if causal else 2 * backwards - length


def _with_neighbours(x: Tensor, reach: tuple[int, ...]) -> Tensor:
    """[N, M, K, E] to [N, M, len(reach) * K, E]: each block with the blocks beside it."""
    return torch.cat([x.roll(-step, dims=1) for step in reach], dim=2)
