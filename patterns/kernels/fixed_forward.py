"""Combiner-Fixed forward: one online softmax over the neighbourhood and what lies far.

Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from patterns.kernels.tiles import COUNTS, load_tile, store_tile, weigh_scores


@triton.jit
def far_visible(
    column,
    block,
    length,
    sink,
    near,
    BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr,
    EACH: tl.constexpr,
):
    """Whether a query of `block` reads this far column: a sink beyond its neighbourhood, or one of
    the EACH columns of a region that is beyond it, not emptied by the sinks and long enough."""
    region = (column - sink) // EACH
    if CAUSAL:
        sinks = column < (block - near) * BLOCK
        regions = region < block - near
    else:
        sinks = tl.abs(column // BLOCK - block) > near
        regions = tl.abs(region - block) > near
    start = region * BLOCK
    end = tl.minimum(start + BLOCK, length)
    regions = regions & (start < length) & (end > sink)
    if EACH > 1:
        regions = regions & (end - start >= EACH - (column - sink) % EACH)
    return tl.where(column < sink, sinks, regions)


@triton.jit
def tile_visible(
    is_far,
    index,
    row,
    block,
    stop,
    far_stop,
    length,
    sink,
    near,
    BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr,
    PLAIN: tl.constexpr,
    EACH: tl.constexpr,
):
    """Which of the tokens or far columns `index` these rows of `block` see: [1 or M, N]."""
    if PLAIN:
        return index[None, :] <= tl.where(is_far, far_stop - 1, row)[:, None]
    beyond = far_visible(index, block, length, sink, near, BLOCK, CAUSAL, EACH)[None, :]
    own = index[None, :] <= row[:, None] if CAUSAL else (index < stop)[None, :]
    return tl.where(is_far, beyond, own)


@triton.jit
def ranges(
    first,
    end,
    block,
    blocks,
    length,
    sink,
    near,
    BLOCK: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    CAUSAL: tl.constexpr,
    FAR: tl.constexpr,
    PLAIN: tl.constexpr,
    EACH: tl.constexpr,
):
    """What a tile of queries passes over: tokens [begin, stop) and far columns [0, far_stop).

    Tiles of keys before `edge` and `far_edge` are seen whole by all its rows.
    """
    begin = tl.maximum(block - near, 0) * BLOCK
    stop = tl.minimum((block + near + 1) * BLOCK, length)
    if CAUSAL:
        stop = tl.minimum(first + M, end)
        edge = begin + (first - begin) // N * N
    else:
        edge = begin + (stop - begin) // N * N
    far_stop = block * 0
    if FAR:
        far_stop = sink + blocks
        if CAUSAL:
            far_stop = tl.where(block > near, sink + (block - near) * EACH, 0)
    far_edge = far_stop * 0
    if PLAIN:
        far_edge = far_stop // N * N
    return begin, edge, stop, far_edge, far_stop


@triton.jit(do_not_specialize=COUNTS)
def attend_fixed(
    q,
    k,
    v,
    far_key,
    far_value,
    far_bias,
    out,  # [B * H, L, D]
    lse,  # [B * H, L] in units of log 2
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    length,
    blocks,
    sink,
    scale,
    heads,
    lines,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    NEAR: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr,
    FAR: tl.constexpr,
    PLAIN: tl.constexpr,  # causal, fewer sinks than a block: all far columns up to a stop are read
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
    EACH: tl.constexpr = 1,  # far columns a block; `blocks` counts all of them
    EARLY: tl.constexpr = False,  # this may begin while the launch before it ends
):
    """One program a tile of queries, which lies in one block, and head; the longest rows first."""
    tiles: tl.constexpr = (BLOCK + M - 1) // M
    line = tl.program_id(0) % lines
    number = tl.num_programs(0) // lines - 1 - tl.program_id(0) // lines
    block = number // tiles
    first = block * BLOCK + number % tiles * M
    end = tl.minimum(block * BLOCK + BLOCK, length)
    if first >= end:
        return
    q += (line // heads).to(tl.int64) * q_batch + (line % heads).to(tl.int64) * q_head
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // GROUP).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // GROUP).to(tl.int64) * v_head
    if FAR:
        far_key += line.to(tl.int64) * (sink + blocks) * DIM
        far_value += line.to(tl.int64) * (sink + blocks) * DIM
        far_bias += line.to(tl.int64) * (sink + blocks)
    row = first + tl.arange(0, M)
    queries = load_tile(q, first, end, q_row, DIM, M, WIDTH, True)
    if EARLY:
        # Until the summaries are there; before the first store too, since memory that is written
        # here may still have been read by what came before them.
        gdc_wait()
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.full([M], 0.0, tl.float32)
    accumulator = tl.zeros([M, WIDTH], tl.float32)

    begin, edge, stop, far_edge, far_stop = ranges(
        first, end, block, blocks, length, sink, NEAR, BLOCK, M, N, CAUSAL, FAR, PLAIN, EACH
    )
    # Tokens and far columns in one loop: two would wait twice for their first tiles.
    count = tl.cdiv(stop - begin, N)
    for tile in range(count + tl.cdiv(far_stop, N)):
        is_far = tile >= count
        start = tl.where(is_far, (tile - count) * N, begin + tile * N)
        limit = tl.where(is_far, sink + blocks, length)
        key_row = tl.where(is_far, DIM, k_row)
        value_row = tl.where(is_far, DIM, v_row)
        keys = load_tile(tl.where(is_far, far_key, k), start, limit, key_row, DIM, N, WIDTH, True)
        values = load_tile(
            tl.where(is_far, far_value, v), start, limit, value_row, DIM, N, WIDTH, True
        )
        index = start + tl.arange(0, N)
        if BIASED:  # what the products are added to: that costs no addition of its own
            bias = tl.load(far_bias + index, mask=is_far & (index < limit), other=0.0) / scale
            bias = tl.broadcast_to(bias[None, :], [M, N])
            scores = tl.dot(queries, tl.trans(keys), bias, input_precision=PRECISION)
        else:
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        if start >= tl.where(is_far, far_edge, edge):
            visible = tile_visible(
                is_far, index, row, block, stop, far_stop, length, sink, NEAR,
                BLOCK, CAUSAL, PLAIN, EACH,
            )  # fmt: skip
            scores = tl.where(visible, scores, float("-inf"))
        accumulator, total, peak = weigh_scores(
            accumulator, total, peak, scores, values, scale, PRECISION
        )

    base = line.to(tl.int64) * length
    store_tile(out + base * DIM, accumulator / total[:, None], first, end, DIM, DIM, M, WIDTH)
    tl.store(lse + base + row, peak + tl.log2(total), mask=row < end)
