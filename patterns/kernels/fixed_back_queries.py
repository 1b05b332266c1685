"""Combiner-Fixed backward: gradients of the queries, in the loop of the forward kernel.

Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_backward import query_step
from patterns.kernels.fixed_forward import ranges, tile_visible
from patterns.kernels.fixed_summary import GIVEN, MAX
from patterns.kernels.tiles import COUNTS, LOG2E, load_tile, store_tile


@triton.jit(do_not_specialize=COUNTS)
def query_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    far_key,
    far_value,
    far_bias,
    first_query,
    grad_query,
    dq_out,  # [B * H, L, D]
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    g_batch,
    g_head,
    g_row,
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
    PLAIN: tl.constexpr,
    BIASED: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    EACH: tl.constexpr = 1,
):
    """One program a tile of queries, which lies in one block, and head: as the forward goes."""
    tiles: tl.constexpr = (BLOCK + M - 1) // M
    line = tl.program_id(0) % lines
    number = tl.num_programs(0) // lines - 1 - tl.program_id(0) // lines
    block = number // tiles
    first = block * BLOCK + number % tiles * M
    end = tl.minimum(block * BLOCK + BLOCK, length)
    if first >= end:
        return
    batch, head = (line // heads).to(tl.int64), line % heads
    q += batch * q_batch + head.to(tl.int64) * q_head
    k += batch * k_batch + (head // GROUP).to(tl.int64) * k_head
    v += batch * v_batch + (head // GROUP).to(tl.int64) * v_head
    grad += batch * g_batch + head.to(tl.int64) * g_head
    row = first + tl.arange(0, M)
    base = line.to(tl.int64) * length
    queries = load_tile(q, first, end, q_row, DIM, M, WIDTH, True)
    grads = load_tile(grad, first, end, g_row, DIM, M, WIDTH, True)
    norm = tl.load(lse + base + row, mask=row < end, other=float("inf"))
    product = tl.load(delta + base + row, mask=row < end, other=0.0)
    dq = tl.zeros([M, WIDTH], tl.float32)

    if FAR:
        far_key += line.to(tl.int64) * (sink + blocks) * DIM
        far_value += line.to(tl.int64) * (sink + blocks) * DIM
        far_bias += line.to(tl.int64) * (sink + blocks)
    begin, edge, stop, far_edge, far_stop = ranges(
        first, end, block, blocks, length, sink, NEAR, BLOCK, M, N, CAUSAL, FAR, PLAIN, EACH
    )
    count = (edge - begin) // N
    for tile in range(count + far_edge // N):
        is_far = tile >= count
        start = tl.where(is_far, (tile - count) * N, begin + tile * N)
        key_row = tl.where(is_far, DIM, k_row)
        value_row = tl.where(is_far, DIM, v_row)
        keys = load_tile(tl.where(is_far, far_key, k), start, length, key_row, DIM, N, WIDTH, False)
        values = load_tile(
            tl.where(is_far, far_value, v), start, length, value_row, DIM, N, WIDTH, False
        )
        bias = 0.0
        if BIASED:
            bias = tl.load(far_bias + start + tl.arange(0, N), mask=is_far, other=0.0)
        dq = query_step(
            dq, queries, grads, keys, values, bias, norm, product, 0, scale,
            False, BIASED, PRECISION,
        )  # fmt: skip
    count = tl.cdiv(stop - edge, N)
    for tile in range(count + tl.cdiv(far_stop - far_edge, N)):
        is_far = tile >= count
        start = tl.where(is_far, far_edge + (tile - count) * N, edge + tile * N)
        limit = tl.where(is_far, sink + blocks, length)
        key_row = tl.where(is_far, DIM, k_row)
        value_row = tl.where(is_far, DIM, v_row)
        keys = load_tile(tl.where(is_far, far_key, k), start, limit, key_row, DIM, N, WIDTH, True)
        values = load_tile(
            tl.where(is_far, far_value, v), start, limit, value_row, DIM, N, WIDTH, True
        )
        index = start + tl.arange(0, N)
        bias = 0.0
        if BIASED:
            bias = tl.load(far_bias + index, mask=is_far & (index < limit), other=0.0)
        visible = tile_visible(
            is_far, index, row, block, stop, far_stop, length, sink, NEAR,
            BLOCK, CAUSAL, PLAIN, EACH,
        )  # fmt: skip
        dq = query_step(
            dq, queries, grads, keys, values, bias, norm, product, visible, scale,
            True, BIASED, PRECISION,
        )  # fmt: skip
    dq = dq * (scale / LOG2E)
    if FAR and KIND != GIVEN:
        column = tl.arange(0, WIDTH)
        inside = column < DIM
        region = line.to(tl.int64) * blocks + block
        asked = tl.load(grad_query + region * DIM + column, mask=inside, other=0.0)
        if KIND == MAX:
            place = tl.load(first_query + region * DIM + column, mask=inside, other=-1)
            dq += tl.where(row[:, None] == place[None, :], asked[None, :], 0.0)
        else:
            opening = tl.minimum(tl.maximum(block * BLOCK, sink), end)
            member = (row >= opening) & (row < end)
            count = tl.maximum(end - opening, 1).to(tl.float32)
            dq += tl.where(member[:, None], asked[None, :] / count, 0.0)
    store_tile(dq_out + base * DIM, dq, first, end, DIM, DIM, M, WIDTH)
