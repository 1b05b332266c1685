"""Combiner-Fixed backward: gradients of far keys, of keys and values, and of queries.

In this order: `row_products`, `far_gradients` (few columns, long loops: split over queries),
`fixed_summary.summary_gradients`, then `token_gradients` and `query_gradients`, each of which
writes every number once. Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_forward import far_visible, ranges, tile_visible
from patterns.kernels.fixed_summary import GIVEN, MAX, VARIATIONAL
from patterns.kernels.tiles import COUNTS, load_tile, store_tile

_LOG2E = tl.constexpr(1.4426950408889634)


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
    store_tile(part_key + base * DIM, dk * (scale / _LOG2E), first, far, DIM, DIM, N, WIDTH)
    store_tile(part_value + base * DIM, dv, first, far, DIM, DIM, N, WIDTH)
    if BIASED:
        tl.store(part_bias + base + column, dbias, mask=column < far)


@triton.jit(do_not_specialize=COUNTS)
def token_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    query,
    local_lse,
    first_key,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    part_key,
    part_value,
    dk_out,  # [B * Hkv, L, D]
    dv_out,
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
    splits,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    NEAR: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr,
    FAR: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    EACH: tl.constexpr = 1,
):
    """One program a tile of keys, which lies in one block, and key-value head."""
    tiles: tl.constexpr = (BLOCK + N - 1) // N
    kv_heads = heads // GROUP
    kv_lines = lines // GROUP
    kv_line = tl.program_id(0) % kv_lines
    number = tl.program_id(0) // kv_lines
    block = number // tiles
    first = block * BLOCK + number % tiles * N
    end = tl.minimum(block * BLOCK + BLOCK, length)
    if first >= end:
        return
    batch, kv_head = kv_line // kv_heads, kv_line % kv_heads
    k += batch.to(tl.int64) * k_batch + kv_head.to(tl.int64) * k_head
    v += batch.to(tl.int64) * v_batch + kv_head.to(tl.int64) * v_head
    keys = load_tile(k, first, end, k_row, DIM, N, WIDTH, True)
    values = load_tile(v, first, end, v_row, DIM, N, WIDTH, True)
    token = first + tl.arange(0, N)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    begin = tl.minimum(tl.maximum(block * BLOCK, sink), end)
    member = (token >= begin) & (token < end)
    count = tl.maximum(end - begin, 1).to(tl.float32)
    dk = tl.zeros([N, WIDTH], tl.float32)
    dv = tl.zeros([N, WIDTH], tl.float32)
    extra_k = tl.zeros([N, WIDTH], tl.float32)
    none = tl.zeros([N], tl.float32)

    start = tl.maximum(block - NEAR, 0) * BLOCK
    edge = start
    if CAUSAL:
        start = first
        edge = first + tl.cdiv(N, M) * M
    stop = tl.minimum((block + NEAR + 1) * BLOCK, length)
    edge = tl.minimum(edge, stop)
    for member_of_group in range(GROUP):
        head = kv_head * GROUP + member_of_group
        line = batch * heads + head
        ours = q + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
        theirs = grad + batch.to(tl.int64) * g_batch + head.to(tl.int64) * g_head
        norms = lse + line.to(tl.int64) * length
        products = delta + line.to(tl.int64) * length
        if CAUSAL:
            for step in range(start, edge, M):
                visible = token[:, None] <= (step + tl.arange(0, M))[None, :]
                dk, dv, none = key_step(
                    dk,
                    dv,
                    none,
                    keys,
                    values,
                    0.0,
                    ours,
                    theirs,
                    norms,
                    products,
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
                    False,
                    PRECISION,
                )
        for step in range(edge, stop, M):
            dk, dv, none = key_step(
                dk,
                dv,
                none,
                keys,
                values,
                0.0,
                ours,
                theirs,
                norms,
                products,
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
                False,
                PRECISION,
            )
        if FAR and KIND == GIVEN:
            # The far columns of a block are its last tokens.
            copied = ((token >= end - EACH) & (token < end))[:, None] & inside[None, :]
            own = block * EACH + token - (end - EACH)
            for split in range(tl.where(first + N > end - EACH, splits, 0)):
                part = (tl.cast(split, tl.int64) * lines + line) * blocks + own
                source = part[:, None] * DIM + column[None, :]
                extra_k += tl.load(part_key + source, mask=copied, other=0.0)
                dv += tl.load(part_value + source, mask=copied, other=0.0)
        elif FAR:
            region = line.to(tl.int64) * blocks + block
            asked = tl.load(query + region * DIM + column, mask=inside, other=0.0)
            dkey = tl.load(grad_key + region * DIM + column, mask=inside, other=0.0)
            dvalue = tl.load(grad_value + region * DIM + column, mask=inside, other=0.0)
            scores = tl.sum(keys.to(tl.float32) * asked[None, :], 1) * scale
            local = tl.where(member, tl.exp2(scores - tl.load(local_lse + region)), 0.0)
            gradient = tl.sum(values.to(tl.float32) * dvalue[None, :], 1)
            if KIND == VARIATIONAL:
                dbias = tl.load(grad_bias + region)
                gradient += tl.sum(keys.to(tl.float32) * dkey[None, :], 1)
                gradient -= dbias * scores / _LOG2E
                extra_k += local[:, None] * dkey[None, :]
            elif KIND == MAX:
                place = tl.load(first_key + region * DIM + column, mask=inside, other=-1)
                extra_k += tl.where(token[:, None] == place[None, :], dkey[None, :], 0.0)
            else:
                extra_k += tl.where(member[:, None], dkey[None, :] / count, 0.0)
            change = local * (gradient - tl.load(middle + region))
            dk += change[:, None] * asked[None, :]
            dv += local[:, None] * dvalue[None, :]
            if SINKS:
                copied = ((token < sink) & (token < end))[:, None] & inside[None, :]
                for split in range(splits):
                    part = (tl.cast(split, tl.int64) * lines + line) * (sink + blocks) + token
                    source = part[:, None] * DIM + column[None, :]
                    extra_k += tl.load(part_key + source, mask=copied, other=0.0)
                    dv += tl.load(part_value + source, mask=copied, other=0.0)
    base = kv_line.to(tl.int64) * length * DIM
    store_tile(dk_out + base, dk * (scale / _LOG2E) + extra_k, first, end, DIM, DIM, N, WIDTH)
    store_tile(dv_out + base, dv, first, end, DIM, DIM, N, WIDTH)


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
            is_far, index, row, block, stop, far_stop, length, sink, NEAR, BLOCK, CAUSAL, PLAIN, EACH
        )
        dq = query_step(
            dq, queries, grads, keys, values, bias, norm, product, visible, scale,
            True, BIASED, PRECISION,
        )  # fmt: skip
    dq = dq * (scale / _LOG2E)
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
