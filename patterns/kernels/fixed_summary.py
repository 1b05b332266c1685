"""Combiner-Fixed: the kernels that make the summaries of blocks, and that go back through them.

The keys beyond a query's neighbourhood ("far") are one list: the sinks, copied, then one summary
a block. Letters: B batch, H query heads, L length, D head width, R blocks, F = sinks + R.
The local distribution of a block is l_j = exp2(scale * <query, k_j> - local_lse).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.tiles import load_tile

MAX = tl.constexpr(0)
MEAN = tl.constexpr(1)
MEAN_SIZE = tl.constexpr(2)
VARIATIONAL = tl.constexpr(3)
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def make_summaries(
    q,
    k,
    v,
    far_key,  # [B * H, F, D]
    far_value,  # [B * H, F, D]
    far_bias,  # [B * H, F] in units of log 2; MEAN_SIZE and VARIATIONAL
    query,  # [B * H, R, D] float32
    local_lse,  # [B * H, R] in units of log 2
    first_query,  # [B * H, R, D] int32: which token has the largest query; MAX
    first_key,
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
    scale,  # in units of log 2
    heads,
    group,
    dim,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
):
    """One program a block and query head: pool, local softmax, weighted sums."""
    block = tl.program_id(0) % blocks
    line = tl.program_id(0) // blocks
    far = (sink + blocks).to(tl.int64)
    q += (line // heads).to(tl.int64) * q_batch + (line % heads).to(tl.int64) * q_head
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // group).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // group).to(tl.int64) * v_head
    column = tl.arange(0, WIDTH)
    start = block * BLOCK
    end = tl.minimum(start + BLOCK, length)
    begin = tl.minimum(tl.maximum(start, sink), end)  # of the tokens that belong to the region
    count = tl.maximum(end - begin, 1).to(tl.float32)

    pooled_q = tl.full([WIDTH], 0.0, tl.float32)
    pooled_k = tl.full([WIDTH], 0.0, tl.float32)
    place_q = tl.full([WIDTH], 0, tl.int32)
    place_k = tl.full([WIDTH], 0, tl.int32)
    if KIND == MAX:
        pooled_q = tl.full([WIDTH], float("-inf"), tl.float32)
        pooled_k = tl.full([WIDTH], float("-inf"), tl.float32)
    for offset in range(0, BLOCK, TILE):
        first = start + offset
        token = first + tl.arange(0, TILE)
        member = ((token >= begin) & (token < end))[:, None]
        x = load_tile(q, first, end, q_row, dim, TILE, WIDTH, WHOLE, True).to(tl.float32)
        y = load_tile(k, first, end, k_row, dim, TILE, WIDTH, WHOLE, True).to(tl.float32)
        if KIND == MAX:
            high, place = tl.max(tl.where(member, x, float("-inf")), 0, return_indices=True)
            place_q = tl.where(high > pooled_q, first + place, place_q)
            pooled_q = tl.maximum(pooled_q, high)
            high, place = tl.max(tl.where(member, y, float("-inf")), 0, return_indices=True)
            place_k = tl.where(high > pooled_k, first + place, place_k)
            pooled_k = tl.maximum(pooled_k, high)
        else:
            pooled_q += tl.sum(tl.where(member, x, 0.0), 0)
            if KIND != VARIATIONAL:
                pooled_k += tl.sum(tl.where(member, y, 0.0), 0)
    if KIND == MAX:
        # A region that the sinks have emptied is never read; it must only be finite.
        pooled_q = tl.where(begin < end, pooled_q, 0.0)
        pooled_k = tl.where(begin < end, pooled_k, 0.0)
    else:
        pooled_q = pooled_q / count
        pooled_k = pooled_k / count

    peak = float("-inf")
    total = 0.0
    value = tl.full([WIDTH], 0.0, tl.float32)
    key = tl.full([WIDTH], 0.0, tl.float32)
    for offset in range(0, BLOCK, TILE):
        first = start + offset
        token = first + tl.arange(0, TILE)
        member = (token >= begin) & (token < end)
        keys = load_tile(k, first, end, k_row, dim, TILE, WIDTH, WHOLE, True)
        values = load_tile(v, first, end, v_row, dim, TILE, WIDTH, WHOLE, True)
        if SINKS:
            copied = ((token < sink) & (token < end))[:, None] & (column < dim)[None, :]
            target = (line * far + token)[:, None] * dim + column[None, :]
            tl.store(far_key + target, keys, mask=copied)
            tl.store(far_value + target, values, mask=copied)
            if KIND >= MEAN_SIZE:
                tl.store(far_bias + line * far + token, 0.0, mask=(token < sink) & (token < end))
        keys = keys.to(tl.float32)
        scores = tl.sum(keys * pooled_q[None, :], 1) * scale
        scores = tl.where(member, scores, float("-inf"))
        risen = tl.maximum(peak, tl.max(scores, 0))
        risen = tl.where(risen == float("-inf"), 0.0, risen)  # no member so far
        weights = tl.exp2(scores - risen)
        shrink = tl.exp2(peak - risen)
        total = total * shrink + tl.sum(weights, 0)
        value = value * shrink + tl.sum(weights[:, None] * values.to(tl.float32), 0)
        if KIND == VARIATIONAL:
            key = key * shrink + tl.sum(weights[:, None] * keys, 0)
        peak = risen
    total = tl.where(begin < end, total, 1.0)
    lse = peak + tl.log2(total)
    value = value / total
    if KIND == VARIATIONAL:
        key = key / total
        bias = lse - scale * tl.sum(key * pooled_q, 0)
        tl.store(far_bias + line * far + sink + block, bias)
    else:
        key = pooled_k
    if KIND == MEAN_SIZE:
        tl.store(far_bias + line * far + sink + block, tl.log2(count))

    inside = column < dim
    target = (line * far + sink + block) * dim + column
    tl.store(far_key + target, key.to(far_key.dtype.element_ty), mask=inside)
    tl.store(far_value + target, value.to(far_value.dtype.element_ty), mask=inside)
    region = line.to(tl.int64) * blocks + block
    tl.store(query + region * dim + column, pooled_q, mask=inside)
    tl.store(local_lse + region, lse)
    if KIND == MAX:
        tl.store(first_query + region * dim + column, place_q, mask=inside)
        tl.store(first_key + region * dim + column, place_k, mask=inside)


@triton.jit
def summary_gradients(
    k,
    v,
    query,
    local_lse,
    part_key,  # [splits, B * H, F, D] float32: gradients of far keys, in parts
    part_value,
    part_bias,  # [splits, B * H, F]
    grad_key,  # [B * H, R, D] float32
    grad_value,
    grad_bias,  # [B * H, R]
    grad_query,  # [B * H, R, D] float32
    middle,  # [B * H, R]: the mean of the gradient of the local scores
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
    group,
    dim,
    lines,
    splits,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
    KIND: tl.constexpr,
):
    """One program a block and query head: sum the parts, back through the local softmax.

    With g_j the gradient of l_j, that of the score of token j is l_j (g_j - sum_i l_i g_i), and
    the pooled query gets its sum over tokens times the keys. A variational bias enters g_j alone:
    its direct terms for query and key cancel those of the log-sum-exp (envelope theorem).
    """
    block = tl.program_id(0) % blocks
    line = tl.program_id(0) // blocks
    far = (sink + blocks).to(tl.int64)
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // group).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // group).to(tl.int64) * v_head
    column = tl.arange(0, WIDTH)
    inside = column < dim
    end = tl.minimum(block * BLOCK + BLOCK, length)
    begin = tl.minimum(tl.maximum(block * BLOCK, sink), end)
    region = line.to(tl.int64) * blocks + block

    dkey = tl.full([WIDTH], 0.0, tl.float32)
    dvalue = tl.full([WIDTH], 0.0, tl.float32)
    dbias = 0.0
    for split in range(splits):
        place = (tl.cast(split, tl.int64) * lines + line) * far + sink + block
        dkey += tl.load(part_key + place * dim + column, mask=inside, other=0.0)
        dvalue += tl.load(part_value + place * dim + column, mask=inside, other=0.0)
        if KIND == VARIATIONAL:
            dbias += tl.load(part_bias + place)
    tl.store(grad_key + region * dim + column, dkey, mask=inside)
    tl.store(grad_value + region * dim + column, dvalue, mask=inside)
    if KIND == VARIATIONAL:
        tl.store(grad_bias + region, dbias)

    asked = tl.load(query + region * dim + column, mask=inside, other=0.0)
    lse = tl.load(local_lse + region)
    mean = 0.0
    weighed = tl.full([WIDTH], 0.0, tl.float32)
    plain = tl.full([WIDTH], 0.0, tl.float32)
    for offset in range(0, BLOCK, TILE):
        first = block * BLOCK + offset
        token = first + tl.arange(0, TILE)
        member = (token >= begin) & (token < end)
        keys = load_tile(k, first, end, k_row, dim, TILE, WIDTH, WHOLE, True).to(tl.float32)
        values = load_tile(v, first, end, v_row, dim, TILE, WIDTH, WHOLE, True).to(tl.float32)
        scores = tl.sum(keys * asked[None, :], 1) * scale
        local = tl.where(member, tl.exp2(scores - lse), 0.0)
        gradient = tl.sum(values * dvalue[None, :], 1)
        if KIND == VARIATIONAL:
            gradient += tl.sum(keys * dkey[None, :], 1) - dbias * scores / _LOG2E
        mean += tl.sum(local * gradient, 0)
        weighed += tl.sum((local * gradient)[:, None] * keys, 0)
        plain += tl.sum(local[:, None] * keys, 0)
    tl.store(middle + region, mean)
    dquery = (weighed - mean * plain) * (scale / _LOG2E)
    tl.store(grad_query + region * dim + column, dquery, mask=inside)
