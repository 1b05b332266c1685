"""The tails of blocks, copied side by side: what `fixed` has in place of summaries.

Letters as in `patterns.kernels.fixed_summary`; EACH tokens a tail, F = R * EACH.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.tiles import COUNTS, store_tile


@triton.jit(do_not_specialize=COUNTS)
def copy_tails(
    k,
    v,
    far_key,  # [B * H, F, D]
    far_value,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    length,
    blocks,
    heads,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    DIM: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program a tile of far columns, and head.

    A tail longer than its block begins with copies of what is before it: nobody reads them.
    """
    far = blocks * EACH
    tiles = tl.cdiv(far, N)
    line = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * N
    batch, head = (line // heads).to(tl.int64), (line % heads // GROUP).to(tl.int64)
    far_column = first + tl.arange(0, N)
    end = tl.minimum((far_column // EACH + 1) * BLOCK, length)
    token = tl.maximum(end - EACH + far_column % EACH, 0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = (far_column < far)[:, None] & (column < DIM)[None, :]
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    keys = tl.load(k + token[:, None] * k_row + column[None, :], mask=inside)
    values = tl.load(v + token[:, None] * v_row + column[None, :], mask=inside)
    base = line.to(tl.int64) * far * DIM
    store_tile(far_key + base, keys, first, far, DIM, DIM, N, WIDTH)
    store_tile(far_value + base, values, first, far, DIM, DIM, N, WIDTH)
