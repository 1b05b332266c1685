"""FlexAttention for mask patterns: what a user would write, with the block lists in closed form.

PyTorch's own way to the lists of visible blocks evaluates the mask at every pair of positions.
Here they come from the corners of the blocks: (L / 128)^2 tests instead of L^2.
"""

import functools
import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from patterns.computed import count
from patterns.sparse.base import SparsePattern
from patterns.sparse.tiles import TilePair

BLOCK = 128  # queries and keys of a block, what the compiled kernels are made for


def attend_flex(
    pattern: SparsePattern, q: Tensor, k: Tensor, v: Tensor, scale: float, *, compiled: bool = True
) -> Tensor:
    """Softmax over the keys that the mask of the pattern shows.

    Args:
        pattern: the mask, resolved for this length.
        q: queries [B, Hq, L, D].
        k: keys [B, Hkv, L, D]; Hq is a multiple of Hkv.
        v: values [B, Hkv, L, D].
        scale: factor on the scores.
        compiled: or the unfused form, with all scores in memory and no gradients: for tests.

    Returns:
        [B, Hq, L, D] in the dtype of q.
    """
    length = q.shape[2]
    mask = block_mask(pattern, length, q.device)
    run: Any = _compiled(pattern, length) if compiled else flex_attention
    # Short inputs would take a kernel for decoding, which has no backward.
    options = {"FORCE_USE_FLEX_ATTENTION": True} if length < BLOCK else None
    grouped = q.shape[1] != k.shape[1]
    count(lambda: q.shape[0] * q.shape[1] * _computed_pairs(pattern, length))
    out: Tensor = run(
        q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped, kernel_options=options
    )
    return out


@functools.lru_cache(maxsize=8)
def block_mask(pattern: SparsePattern, length: int, device: torch.device) -> BlockMask:
    """The visible blocks of a pattern at this length, for every head of every sequence."""
    some, every = _visible_blocks(pattern, length, device)
    partly = some & ~every

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = pattern._allowed(query, key, length)
        return allowed & (key <= query) if pattern.causal else allowed

    keys, full_keys = _listed(partly), _listed(every)
    queries, full_queries = _listed(partly.T), _listed(every.T)
    return BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=keys[0],
        kv_indices=keys[1],
        full_kv_num_blocks=full_keys[0],
        full_kv_indices=full_keys[1],
        q_num_blocks=queries[0],
        q_indices=queries[1],
        full_q_num_blocks=full_queries[0],
        full_q_indices=full_queries[1],
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=mask_mod,
    )


def _visible_blocks(
    pattern: SparsePattern, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bool [blocks of queries, blocks of keys]: some pair is visible, and every pair is."""
    first = torch.arange(0, length, BLOCK, device=device)
    last = (first + BLOCK - 1).clamp(max=length - 1)
    some, every = pattern._tiles(TilePair(first[:, None], last[:, None], first, last, length))
    own = first[:, None] == first
    if pattern.causal:
        past = first[:, None] > first
        return some & past | own, every & past
    return some | own, every


def _computed_pairs(pattern: SparsePattern, length: int) -> int:
    """Pairs of one head in the visible blocks."""
    some, _ = _visible_blocks(pattern, length, torch.device("cpu"))
    sizes = torch.full((len(some),), BLOCK)
    sizes[-1] = length - BLOCK * (len(some) - 1)
    return int((some * sizes[:, None] * sizes).sum())


def _listed(table: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of a bool table [N, M] has, and their numbers first in the row."""
    order = (~table).to(torch.uint8).argsort(dim=-1, stable=True).to(torch.int32)
    # Sorting keeps the strides of a transposed table; the compiled kernels walk along rows.
    return table.sum(dim=-1, dtype=torch.int32)[None, None], order.contiguous()[None, None]


@functools.lru_cache(maxsize=64)
def _compiled(pattern: SparsePattern, length: int) -> Any:
    """FlexAttention compiled for one mask, in a code object of its own.

    The compiler counts recompilations by code object and, past its limit, would run the unfused
    form: a sweep over masks must not share one. Within one, `fullgraph` makes the limit an error.
    """

    def masked(*args: Any, **options: Any) -> Any:
        return flex_attention(*args, **options)

    own = types.FunctionType(
        masked.__code__.replace(co_name=f"masked_{length}"), globals(), closure=masked.__closure__
    )
    return torch.compile(own, dynamic=False, fullgraph=True)
