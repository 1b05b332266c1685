"""Combiner-Fixed backward: what comes first, the steps of the loops, and gradients of far keys.

In this order: `row_products`, `far_gradients` (few columns, long loops: split over queries),
`fixed_summary.summary_gradients`, then `fixed_back_tokens` and `fixed_back_queries`, each of which
writes every number once. Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_forward import far_visible
from patterns.kernels.tiles import COUNTS, LOG2E, load_tile, store_tile


@triton.jit(do_not_specialize=COUNTS)
def row_products(
    out,
    grad,
    delta,  # [B * H, L]: <output, gradient> of each row
    g_batch,
    g_head,
    g_row,
    length,
    heads,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program a tile of rows and head."""
    tiles = tl.cdiv(length, ROWS)
    line = tl.program_id(0) // tiles
    first = tl.program_id(0) % tiles * ROWS
    grad += (line // heads).to(tl.int64) * g_batch + (line % heads).to(tl.int64) * g_head
    base = line.to(tl.int64) * length
    x = load_tile(out + base * DIM, first, length, DIM, DIM, ROWS, WIDTH, True)
    y = load_tile(grad, first, length, g_row, DIM, ROWS, WIDTH, True)
    row = first + tl.arange(0, ROWS)
    product = tl.sum(x.to(tl.float32) * y.to(tl.float32), 1)
    tl.store(delta + base + row, product, mask=row < length)


@triton.jit
def key_step(
    dk,
    dv,
    dbias,
    keys,
    values,
    bias,
    q,
    grad,
    lse,
    delta,
    q_row,
    g_row,
    start,
    limit,
    scale,
    visible,
    DIM: tl.constexpr,
    M: tl.constexpr,
    WIDTH: tl.constexpr,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what the queries `start` onwards, before `limit`, give to the gradients of a key tile."""
    row = start + tl.arange(0, M)
    queries = load_tile(q, start, limit, q_row, DIM, M, WIDTH, True)
    grads = load_tile(grad, start, limit, g_row, DIM, M, WIDTH, True)
    # A row past the limit has weight exp2(-inf) = 0.
    norm = tl.load(lse + row, mask=row < limit, other=float("inf"))
    product = tl.load(delta + row, mask=row < limit, other=0.0)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale
    if BIASED:
        scores += bias[:, None]
    weights = tl.exp2(scores - norm[None, :])
    if MASKED:
        weights = tl.where(visible, weights, 0.0)
    dv = tl.dot(weights.to(grads.dtype), grads, dv, input_precision=PRECISION)
    change = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
    change = weights * (change - product[None, :])
    dk = tl.dot(change.to(queries.dtype), queries, dk, input_precision=PRECISION)
    if BIASED:
        dbias += tl.sum(change, 1)
    return dk, dv, dbias


@triton.jit
def query_step(
    dq,
    queries,
    grads,
    keys,
    values,
    bias,
    norm,
    product,
    visible,
    scale,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what the keys of one tile give to the gradient of the queries."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    if BIASED:
        scores += bias[None, :]
    weights = tl.exp2(scores - norm[:, None])
    if MASKED:
        weights = tl.where(visible, weights, 0.0)
    change = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    change = weights * (change - product[:, None])
    return tl.dot(change.to(keys.dtype), keys, dq, input_precision=PRECISION)


@triton.jit(do_not_specialize=COUNTS)
def far_gradients(
    q,
    grad,
    lse,
    delta,
    far_key,
    far_value,
    far_bias,
    part_key,  # [splits, B * H, F, D] float32
    part_value,
    part_bias,  # [splits, B * H, F]
    q_batch,
    q_head,
    q_row,
    g_batch,
    g_head,
    g_row,
    length,
    blocks,
    sink,
    scale,
    heads,
    lines,
    splits,
    BLOCK: tl.constexpr,
    NEAR: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr,
    PLAIN: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
    EACH: tl.constexpr = 1,
):
    """One program a tile of far columns, part of the queries, and head."""
    line = tl.program_id(0) % lines
    split = tl.program_id(0) // lines % splits
    first = tl.program_id(0) // lines // splits * N
    far = sink + blocks
    batch, head = (line // heads).to(tl.int64), (line % heads).to(tl.int64)
    q += batch * q_batch + head * q_head
    grad += batch * g_batch + head * g_head
    lse += line.to(tl.int64) * length
    delta += line.to(tl.int64) * length
    far_key += line.to(tl.int64) * far * DIM
    far_value += line.to(tl.int64) * far * DIM
    far_bias += line.to(tl.int64) * far
    column = first + tl.arange(0, N)
    keys = load_tile(far_key, first, far, DIM, DIM, N, WIDTH, True)
    values = load_tile(far_value, first, far, DIM, DIM, N, WIDTH, True)
    bias = 0.0
    if BIASED:
        bias = tl.load(far_bias + column, mask=column < far, other=0.0)
    dk = tl.zeros([N, WIDTH], tl.float32)
    dv = tl.zeros([N, WIDTH], tl.float32)
    dbias = tl.zeros([N], tl.float32)

    earliest = 0  # row that may read any column of the tile
    whole = length  # from here on every row reads the whole tile
    if CAUSAL:
        earliest = (tl.maximum(first - sink, 0) // EACH + NEAR + 1) * BLOCK
        if PLAIN:
            last = tl.maximum(first + N - sink + EACH - 1, 0) // EACH
            whole = tl.maximum(last + NEAR, NEAR + 1) * BLOCK
    share = tl.cdiv(tl.cdiv(tl.maximum(length - earliest, 0), splits), M) * M
    start = earliest + split * share
    stop = tl.minimum(start + share, length)
    edge = tl.minimum(start + tl.cdiv(tl.maximum(whole - start, 0), M) * M, stop)
    for step in range(start, edge, M):
        block = (step + tl.arange(0, M)) // BLOCK
        visible = far_visible(
            column[:, None], block[None, :], length, sink, NEAR, BLOCK, CAUSAL, EACH
        )
        dk, dv, dbias = key_step(
            dk,
            dv,
            dbias,
            keys,
            values,
            bias,
            q,
            grad,
            lse,
            delta,
            q_row,
            g_row,
            step,
            stop,
            scale,
            visible,
            DIM,
            M,
            WIDTH,
            True,
            BIASED,
            PRECISION,
        )
    for step in range(edge, stop, M):
        dk, dv, dbias = key_step(
            dk,
            dv,
            dbias,
            keys,
            values,
            bias,
            q,
            grad,
            lse,
            delta,
            q_row,
            g_row,
            step,
            stop,
            scale,
            0,
            DIM,
            M,
            WIDTH,
            False,
            BIASED,
            PRECISION,
        )
    base = (tl.cast(split, tl.int64) * lines + line) * far
    store_tile(part_key + base * DIM, dk * (scale / LOG2E), first, far, DIM, DIM, N, WIDTH)
    store_tile(part_value + base * DIM, dv, first, far, DIM, DIM, N, WIDTH)
    if BIASED:
        tl.store(part_bias + base + column, dbias, mask=column < far)
