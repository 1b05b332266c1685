"""Gradients of attention along the lines of a grid.

Two kernels serve both attentions: the reading of keys (`lse` is that of the whole softmax, over
all sources and both directions) and the asking of lines for summaries, whose keys and biases are
sums with the same weights (WEIGHED, ENTROPY). Letters as in `patterns.kernels.lines`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.lines import (
    COUNTS,
    along,
    count_of,
    line_start,
    masked_tile,
    may_read,
    plain_tile,
    reader_spans,
    spans,
)
from patterns.kernels.tiles import load_tile, store_tile

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def query_step(
    dq,
    queries,
    grads,
    grad_keys,
    grad_bias,
    norm,
    product,
    keys,
    values,
    bias,
    visible,
    scale,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
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
    if WEIGHED:
        change = tl.dot(grad_keys, tl.trans(keys), change, input_precision=PRECISION)
        if ENTROPY:
            change -= grad_bias[:, None] * (scores / _LOG2E)
    change = weights * (change - product[:, None])
    return tl.dot(change.to(keys.dtype), keys, dq, input_precision=PRECISION)


@triton.jit
def query_source(
    dq,
    queries,
    grads,
    grad_keys,
    grad_bias,
    norm,
    product,
    k,
    v,
    bias,
    k_step,
    v_step,
    bias_step,
    first,
    count,
    scale,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    SHIFT: tl.constexpr,
    MASK: tl.constexpr,
    BIASED: tl.constexpr,
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what the keys of one source give to the gradient of the queries."""
    begin, low, high, whole, plain, masked = spans(first, count, M, N, SHIFT, MASK)
    for step in range(plain):
        start = plain_tile(step, low, high) * N
        keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, False)
        values = load_tile(v, start, count, v_step, DIM, N, WIDTH, False)
        extra = 0.0
        if BIASED:
            extra = tl.load(bias + (start + tl.arange(0, N)) * bias_step)
        dq = query_step(
            dq, queries, grads, grad_keys, grad_bias, norm, product, keys, values, extra, 0, scale,
            False, BIASED, WEIGHED, ENTROPY, PRECISION,
        )  # fmt: skip
    query = first + tl.arange(0, M)
    for step in range(masked):
        start = masked_tile(step, begin, high, whole, masked, MASK) * N
        keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, True)
        values = load_tile(v, start, count, v_step, DIM, N, WIDTH, True)
        key = start + tl.arange(0, N)
        extra = 0.0
        if BIASED:
            extra = tl.load(bias + key * bias_step, mask=key < count, other=0.0)
        visible = may_read(key[None, :], query[:, None], count, SHIFT, MASK)
        dq = query_step(
            dq, queries, grads, grad_keys, grad_bias, norm, product, keys, values, extra, visible,
            scale, True, BIASED, WEIGHED, ENTROPY, PRECISION,
        )  # fmt: skip
    return dq


@triton.jit(do_not_specialize=COUNTS)
def query_gradients(
    q,
    grad,
    out,  # [B * H, places, D]; FIRST
    lse,  # [B * H, places]
    delta,  # [B * H, places]: written if FIRST
    twin_delta,  # TWIN
    grad_key,  # [B * H, places, D]; WEIGHED
    grad_bias,  # [B * H, places]; ENTROPY
    dq,  # [B * H, dq_places, D]
    key_a,
    value_a,
    bias_a,
    key_b,
    value_b,
    bias_b,
    q_batch,
    q_head,
    q_row,
    g_batch,
    g_head,
    g_row,
    key_a_batch,
    key_a_head,
    key_a_row,
    value_a_batch,
    value_a_head,
    value_a_row,
    key_b_batch,
    key_b_head,
    key_b_row,
    value_b_batch,
    value_b_head,
    value_b_row,
    places,
    dq_places,
    q_limit,  # tokens from here on have no gradient
    rows,
    columns,
    limit_a,
    limit_b,
    scale,
    heads,
    DOWN: tl.constexpr,
    FIRST: tl.constexpr,
    TWIN: tl.constexpr,  # `out` is the mean of two results, and `twin_delta` belongs to the other
    ADD: tl.constexpr,  # to what `dq` holds
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
    SOURCES: tl.constexpr,
    MASK_A: tl.constexpr,
    SHIFT_A: tl.constexpr,
    LINE_A: tl.constexpr,
    BIASED_A: tl.constexpr,
    KEY_GROUP_A: tl.constexpr,
    VALUE_GROUP_A: tl.constexpr,
    MASK_B: tl.constexpr,
    SHIFT_B: tl.constexpr,
    LINE_B: tl.constexpr,
    BIASED_B: tl.constexpr,
    KEY_GROUP_B: tl.constexpr,
    VALUE_GROUP_B: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of queries of a line, and head: as the forward goes."""
    pid = tl.program_id(0)
    if DOWN:
        tiles = (rows + M - 1) // M
        line = pid % columns
        first = (tiles - 1 - pid // columns % tiles) * M
        head_line = pid // columns // tiles
    else:
        tiles = (columns + M - 1) // M
        first = (tiles - 1 - pid % tiles) * M
        line = pid // tiles % rows
        head_line = pid // tiles // rows
    end = count_of(line, q_limit, rows, columns, DOWN)
    if first >= end:
        return
    batch, head = (head_line // heads).to(tl.int64), (head_line % heads).to(tl.int64)
    token = line_start(line, columns, DOWN)
    base = head_line.to(tl.int64) * places + token
    padded = head_line.to(tl.int64) * rows * columns
    q += batch * q_batch + head * q_head + token * q_row
    grad += batch * g_batch + head * g_head + token * g_row
    dq += (head_line.to(tl.int64) * dq_places + token) * DIM
    queries = load_tile(q, first, end, along(q_row, columns, DOWN), DIM, M, WIDTH, True)
    grads = load_tile(grad, first, end, along(g_row, columns, DOWN), DIM, M, WIDTH, True)
    row = first + tl.arange(0, M)
    number = base + row * along(1, columns, DOWN)
    width = along(DIM, columns, DOWN)
    norm = tl.load(lse + number, mask=row < end, other=float("inf"))
    if FIRST:
        result = load_tile(out + base * DIM, first, end, width, DIM, M, WIDTH, True)
        product = tl.sum(result.to(tl.float32) * grads.to(tl.float32), 1)
        if TWIN:
            product = 2.0 * product - tl.load(twin_delta + number, mask=row < end, other=0.0)
        tl.store(delta + number, product, mask=row < end)
    else:
        product = tl.load(delta + number, mask=row < end, other=0.0)
    grad_keys = grads
    grad_biases = product
    if WEIGHED:
        grad_keys = load_tile(grad_key + base * DIM, first, end, width, DIM, M, WIDTH, True)
        if ENTROPY:
            grad_biases = tl.load(grad_bias + number, mask=row < end, other=0.0)
    found = tl.zeros([M, WIDTH], tl.float32)

    there = line + LINE_A
    count = count_of(there, limit_a, rows, columns, DOWN)
    place = line_start(there, columns, DOWN)
    found = query_source(
        found, queries, grads, grad_keys, grad_biases, norm, product,
        key_a + batch * key_a_batch + head // KEY_GROUP_A * key_a_head + place * key_a_row,
        value_a + batch * value_a_batch + head // VALUE_GROUP_A * value_a_head
        + place * value_a_row,
        bias_a + padded + place,
        along(key_a_row, columns, DOWN), along(value_a_row, columns, DOWN),
        along(1, columns, DOWN), first, count, scale,
        DIM, M, N, WIDTH, SHIFT_A, MASK_A, BIASED_A, WEIGHED, ENTROPY, PRECISION,
    )  # fmt: skip
    if SOURCES == 2:
        there = line + LINE_B
        count = count_of(there, limit_b, rows, columns, DOWN)
        place = line_start(there, columns, DOWN)
        found = query_source(
            found, queries, grads, grad_keys, grad_biases, norm, product,
            key_b + batch * key_b_batch + head // KEY_GROUP_B * key_b_head + place * key_b_row,
            value_b + batch * value_b_batch + head // VALUE_GROUP_B * value_b_head
            + place * value_b_row,
            bias_b + padded + place,
            along(key_b_row, columns, DOWN), along(value_b_row, columns, DOWN),
            along(1, columns, DOWN), first, count, scale,
            DIM, M, N, WIDTH, SHIFT_B, MASK_B, BIASED_B, False, False, PRECISION,
        )  # fmt: skip
    found = found * (scale / _LOG2E)
    if ADD:
        found += load_tile(dq, first, end, width, DIM, M, WIDTH, True).to(tl.float32)
    store_tile(dq, found, first, end, width, DIM, M, WIDTH)


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
    grad_key,
    grad_bias,
    lse,
    delta,
    q_step,
    g_step,
    width,
    number_step,
    start,
    limit,
    visible,
    scale,
    DIM: tl.constexpr,
    M: tl.constexpr,
    WIDTH: tl.constexpr,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what the queries from `start` on give to the gradients of a tile of keys.

    That of the keys lacks the scale, unless they are WEIGHED.
    """
    row = start + tl.arange(0, M)
    number = row * number_step
    queries = load_tile(q, start, limit, q_step, DIM, M, WIDTH, True)
    grads = load_tile(grad, start, limit, g_step, DIM, M, WIDTH, True)
    # A row past the limit has weight exp2(-inf) = 0.
    norm = tl.load(lse + number, mask=row < limit, other=float("inf"))
    product = tl.load(delta + number, mask=row < limit, other=0.0)
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale
    if BIASED:
        scores += bias[:, None]
    weights = tl.exp2(scores - norm[None, :])
    if MASKED:
        weights = tl.where(visible, weights, 0.0)
    small = weights.to(grads.dtype)
    dv = tl.dot(small, grads, dv, input_precision=PRECISION)
    change = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
    if WEIGHED:
        theirs = load_tile(grad_key, start, limit, width, DIM, M, WIDTH, True)
        change = tl.dot(keys, tl.trans(theirs), change, input_precision=PRECISION)
        dk = tl.dot(small, theirs, dk, input_precision=PRECISION)
        if ENTROPY:
            bend = tl.load(grad_bias + number, mask=row < limit, other=0.0)
            change -= bend[None, :] * (scores / _LOG2E)
    change = weights * (change - product[None, :])
    if BIASED:
        dbias += tl.sum(change, 1)
    if WEIGHED:
        change = change * (scale / _LOG2E)
    dk = tl.dot(change.to(queries.dtype), queries, dk, input_precision=PRECISION)
    return dk, dv, dbias


@triton.jit(do_not_specialize=COUNTS)
def key_gradients(
    q,
    grad,
    lse,  # [B * H, places], as what follows
    delta,
    grad_key,  # [B * H, places, D]; WEIGHED
    grad_bias,  # ENTROPY
    k,
    v,
    bias,  # [B * H, P]; BIASED
    dk,  # [B * H / LOOP, limit, D]
    dv,
    far_value,  # [B * H, P, D], as what follows; TOLD
    far_key,  # WEIGHED_KEY
    far_lse,  # BIASED
    far_delta,  # written
    far_bias_grad,  # written; BIASED
    extra_key,  # [B * H, P, D]: more gradients of these keys; MORE
    q_batch,
    q_head,
    q_row,
    g_batch,
    g_head,
    g_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    places,
    dk_places,
    q_limit,  # tokens from here on do not read
    limit,  # tokens from here on are no keys
    rows,
    columns,
    scale,
    lift,
    heads,
    DOWN: tl.constexpr,
    MASK: tl.constexpr,
    SHIFT: tl.constexpr,
    LINE: tl.constexpr,  # how many lines on from the queries the keys lie
    BIASED: tl.constexpr,
    KEY_GROUP: tl.constexpr,
    VALUE_GROUP: tl.constexpr,
    LOOP: tl.constexpr,  # query heads whose gradients are summed: 1, or those of a group
    ADD: tl.constexpr,
    MORE: tl.constexpr,
    TOLD: tl.constexpr,  # the keys are summaries: also what going back through them needs
    WEIGHED_KEY: tl.constexpr,  # whose keys were summed with the weights of the values
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of keys of a line, and head of theirs."""
    pid = tl.program_id(0)
    if DOWN:
        tiles = (rows + N - 1) // N
        line = pid % columns
        first = pid // columns % tiles * N
        head_line = pid // columns // tiles
    else:
        tiles = (columns + N - 1) // N
        first = pid % tiles * N
        line = pid // tiles % rows
        head_line = pid // tiles // rows
    end = count_of(line, limit, rows, columns, DOWN)
    if first >= end:
        return
    their_heads = heads // LOOP
    batch = (head_line // their_heads).to(tl.int64)
    head = (head_line % their_heads).to(tl.int64) * LOOP
    token = line_start(line, columns, DOWN)
    width = along(DIM, columns, DOWN)
    number_step = along(1, columns, DOWN)
    k += batch * k_batch + head // KEY_GROUP * k_head + token * k_row
    v += batch * v_batch + head // VALUE_GROUP * v_head + token * v_row
    keys = load_tile(k, first, end, along(k_row, columns, DOWN), DIM, N, WIDTH, True)
    values = load_tile(v, first, end, along(v_row, columns, DOWN), DIM, N, WIDTH, True)
    row = first + tl.arange(0, N)
    padded = head_line.to(tl.int64) * rows * columns + token
    number = padded + row * number_step
    biases = 0.0
    if BIASED:
        biases = tl.load(bias + number, mask=row < end, other=0.0)
    found_k = tl.zeros([N, WIDTH], tl.float32)
    found_v = tl.zeros([N, WIDTH], tl.float32)
    found_bias = tl.zeros([N], tl.float32)

    reader = line - LINE
    count = count_of(reader, q_limit, rows, columns, DOWN)
    place = line_start(reader, columns, DOWN)
    begin, low, high, plain, masked = reader_spans(first, count, M, N, SHIFT, MASK)
    for member in range(LOOP):
        asking = head + member
        ours = q + batch * q_batch + asking * q_head + place * q_row
        theirs = grad + batch * g_batch + asking * g_head + place * g_row
        base = (batch * heads + asking) * places + place
        for step in range(masked):
            start = (begin + step) * M
            visible = may_read(row[:, None], (start + tl.arange(0, M))[None, :], end, SHIFT, MASK)
            found_k, found_v, found_bias = key_step(
                found_k, found_v, found_bias, keys, values, biases, ours, theirs,
                grad_key + base * DIM, grad_bias + base, lse + base, delta + base,
                along(q_row, columns, DOWN), along(g_row, columns, DOWN), width, number_step,
                start, count, visible, scale,
                DIM, M, WIDTH, True, BIASED, WEIGHED, ENTROPY, PRECISION,
            )  # fmt: skip
        for step in range(plain):
            start = plain_tile(step, low, high) * M
            found_k, found_v, found_bias = key_step(
                found_k, found_v, found_bias, keys, values, biases, ours, theirs,
                grad_key + base * DIM, grad_bias + base, lse + base, delta + base,
                along(q_row, columns, DOWN), along(g_row, columns, DOWN), width, number_step,
                start, count, 0, scale,
                DIM, M, WIDTH, False, BIASED, WEIGHED, ENTROPY, PRECISION,
            )  # fmt: skip
    if not WEIGHED:
        found_k = found_k * (scale / _LOG2E)
    if MORE:
        for member in range(LOOP):
            other = (batch * heads + head + member) * rows * columns + token
            more = load_tile(extra_key + other * DIM, first, end, width, DIM, N, WIDTH, True)
            found_k += more.to(tl.float32)
    if TOLD:
        value = load_tile(far_value + padded * DIM, first, end, width, DIM, N, WIDTH, True)
        product = tl.sum(value.to(tl.float32) * found_v, 1)
        if WEIGHED_KEY:
            key = load_tile(far_key + padded * DIM, first, end, width, DIM, N, WIDTH, True)
            product += tl.sum(key.to(tl.float32) * found_k, 1)
            if BIASED:
                local = tl.load(far_lse + number, mask=row < end, other=0.0)
                product -= found_bias * (local + lift - biases) / _LOG2E
                tl.store(far_bias_grad + number, found_bias, mask=row < end)
        tl.store(far_delta + number, product, mask=row < end)
    base = head_line.to(tl.int64) * dk_places + token
    dk += base * DIM
    dv += base * DIM
    if ADD:
        found_k += load_tile(dk, first, end, width, DIM, N, WIDTH, True).to(tl.float32)
        found_v += load_tile(dv, first, end, width, DIM, N, WIDTH, True).to(tl.float32)
    store_tile(dk, found_k, first, end, width, DIM, N, WIDTH)
    store_tile(dv, found_v, first, end, width, DIM, N, WIDTH)
