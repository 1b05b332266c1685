"""Combiner-Fixed forward: one online softmax over the neighbourhood and what lies far.

Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.tiles import load_tile, softmax_step, store_tile


@triton.jit
def far_visible(column, block, length, sink, near, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    """Whether a query of `block` reads this far column: a sink beyond its neighbourhood, or a
    region that is beyond it and not emptied by the sinks."""
    region = column - sink
    if CAUSAL:
        sinks = column < (block - near) * BLOCK
        regions = region < block - near
    else:
        sinks = tl.abs(column // BLOCK - block) > near
        regions = tl.abs(region - block) > near
    start = region * BLOCK
    regions = regions & (start < length) & (tl.minimum(start + BLOCK, length) > sink)
    return tl.where(column < sink, sinks, regions)


@triton.jit
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
    near,
    scale,
    heads,
    group,
    dim,
    lines,
    BLOCK: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    CAUSAL: tl.constexpr,
    FAR: tl.constexpr,
    PLAIN: tl.constexpr,  # causal, fewer sinks than a block: every far column before the end is read
    BIASED: tl.constexpr,
    FOLDED: tl.constexpr,
    PRECISION: tl.constexpr,
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
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // group).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // group).to(tl.int64) * v_head
    row = first + tl.arange(0, M)
    queries = load_tile(q, first, end, q_row, dim, M, WIDTH, WHOLE, True)
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.full([M], 0.0, tl.float32)
    accumulator = tl.zeros([M, WIDTH], tl.float32)

    begin = tl.maximum(block - near, 0) * BLOCK
    stop = tl.minimum((block + near + 1) * BLOCK, length)
    if CAUSAL:
        stop = tl.minimum(first + M, end)
        edge = begin + (first - begin) // N * N  # tiles before it are seen whole by every row
    else:
        edge = begin + (stop - begin) // N * N
    for start in range(begin, edge, N):
        keys = load_tile(k, start, length, k_row, dim, N, WIDTH, WHOLE, False)
        values = load_tile(v, start, length, v_row, dim, N, WIDTH, WHOLE, False)
        accumulator, total, peak = softmax_step(
            accumulator,
            total,
            peak,
            queries,
            keys,
            values,
            0.0,
            0,
            scale,
            False,
            False,
            FOLDED,
            PRECISION,
        )
    for start in range(edge, stop, N):
        keys = load_tile(k, start, length, k_row, dim, N, WIDTH, WHOLE, True)
        values = load_tile(v, start, length, v_row, dim, N, WIDTH, WHOLE, True)
        key = start + tl.arange(0, N)
        visible = (key < stop)[None, :]
        if CAUSAL:
            visible = key[None, :] <= row[:, None]
        accumulator, total, peak = softmax_step(
            accumulator,
            total,
            peak,
            queries,
            keys,
            values,
            0.0,
            visible,
            scale,
            True,
            False,
            FOLDED,
            PRECISION,
        )

    if FAR:
        far = sink + blocks
        far_key += line.to(tl.int64) * far * dim
        far_value += line.to(tl.int64) * far * dim
        far_bias += line.to(tl.int64) * far
        stop = far
        if CAUSAL:
            stop = tl.where(block > near, sink + block - near, 0)
        edge = 0
        if PLAIN:
            edge = stop // N * N
            for start in range(0, edge, N):
                keys = load_tile(far_key, start, far, dim, dim, N, WIDTH, WHOLE, False)
                values = load_tile(far_value, start, far, dim, dim, N, WIDTH, WHOLE, False)
                bias = 0.0
                if BIASED:
                    bias = tl.load(far_bias + start + tl.arange(0, N))
                accumulator, total, peak = softmax_step(
                    accumulator,
                    total,
                    peak,
                    queries,
                    keys,
                    values,
                    bias,
                    0,
                    scale,
                    False,
                    BIASED,
                    FOLDED,
                    PRECISION,
                )
        for start in range(edge, stop, N):
            column = start + tl.arange(0, N)
            keys = load_tile(far_key, start, far, dim, dim, N, WIDTH, WHOLE, True)
            values = load_tile(far_value, start, far, dim, dim, N, WIDTH, WHOLE, True)
            bias = 0.0
            if BIASED:
                bias = tl.load(far_bias + column, mask=column < far, other=0.0)
            visible = (column < stop)[None, :]
            if not PLAIN:
                visible = far_visible(column, block, length, sink, near, BLOCK, CAUSAL)[None, :]
            accumulator, total, peak = softmax_step(
                accumulator,
                total,
                peak,
                queries,
                keys,
                values,
                bias,
                visible,
                scale,
                True,
                BIASED,
                FOLDED,
                PRECISION,
            )

    base = line.to(tl.int64) * length
    store_tile(out + base * dim, accumulator / total[:, None], first, end, dim, dim, M, WIDTH)
    tl.store(lse + base + row, peak + tl.log2(total), mask=row < end)
