"""Combiner-Fixed: the kernels that make the summaries of blocks, and that go back through them.

The keys beyond a query's neighbourhood ("far") are one list: the sinks, copied, then one summary
a block. Letters: B batch, H query heads, L length, D head width, R blocks, F = sinks + R.
The local distribution of a block is l_j = exp2(scale * <query, k_j> - local_lse).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from patterns.kernels.tiles import COUNTS, LOG2E, load_tile

MAX = tl.constexpr(0)
MEAN = tl.constexpr(1)
MEAN_SIZE = tl.constexpr(2)
VARIATIONAL = tl.constexpr(3)
GIVEN = tl.constexpr(4)  # what lies far was not made here, and nothing goes back through it


@triton.jit
def _largest(high, place, x, first, member, ROWS: tl.constexpr, INDEXED: tl.constexpr):
    """The largest of each channel so far, and (if INDEXED) the first token that has it."""
    row = tl.arange(0, ROWS)
    if INDEXED and x.dtype.primitive_bitwidth == 16:
        # One reduction finds both: the number as an ordered integer, below it the token, reversed.
        bits = x.to(tl.int16, bitcast=True).to(tl.int32)
        bits = tl.where(bits == -32768, 0, bits)  # -0 equals 0
        ordered = bits ^ ((bits >> 15) & 0x7FFF)
        packed = tl.where(member, (ordered << 16) | (0xFFFF - row)[:, None], -2147483648)
        best = tl.max(packed, 0)
        ordered = best >> 16
        bits = ordered ^ ((ordered >> 15) & 0x7FFF)
        found = bits.to(tl.int16).to(x.dtype, bitcast=True).to(tl.float32)
        found = tl.where(best == -2147483648, float("-inf"), found)
        place = tl.where(found > high, first + 0xFFFF - (best & 0xFFFF), place)
    else:
        values = tl.where(member, x.to(tl.float32), float("-inf"))
        found = tl.max(values, 0)
        if INDEXED:
            same = tl.where(values == found[None, :], first + row[:, None], 2147483647)
            place = tl.where(found > high, tl.min(same, 0), place)
    return tl.maximum(high, found), place


@triton.jit
def _pool_queries(
    q,
    q_row,
    start,
    begin,
    end,
    BLOCK: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    INDEXED: tl.constexpr,
):
    """The largest query of each channel and its token, or their sum, in passing.

    Each row of a tile goes its own way until the end: within the loop threads need not meet.
    """
    high = tl.full([TILE, WIDTH], float("-inf") if KIND == MAX else 0.0, tl.float32)
    place = tl.full([TILE, WIDTH], 0, tl.int32)
    for offset in tl.range(0, BLOCK, TILE, num_stages=STAGES):
        token = start + offset + tl.arange(0, TILE)
        member = ((token >= begin) & (token < end))[:, None]
        x = load_tile(q, start + offset, end, q_row, DIM, TILE, WIDTH, True).to(tl.float32)
        if KIND == MAX:
            x = tl.where(member, x, float("-inf"))
            if INDEXED:
                place = tl.where(x > high, token[:, None], place)
            high = tl.maximum(high, x)
        else:
            high += tl.where(member, x, 0.0)
    return _joined(high, place, KIND, INDEXED)


@triton.jit
def _joined(high, place, KIND: tl.constexpr, INDEXED: tl.constexpr):
    """What the rows of a tile have found, together."""
    if KIND == MAX:
        found = tl.max(high, 0)
        first = tl.full([high.shape[1]], 0, tl.int32)
        if INDEXED:
            first = tl.min(tl.where(high == found[None, :], place, 2147483647), 0)
    else:
        found = tl.sum(high, 0)
        first = tl.full([high.shape[1]], 0, tl.int32)
    return found, first


@triton.jit
def _weigh_tokens(
    k,
    v,
    far_key,
    far_value,
    far_bias,
    pooled_q,
    k_row,
    v_row,
    start,
    begin,
    end,
    sink,
    scale,
    BLOCK: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    INDEXED: tl.constexpr,
):
    """Pool the keys and sum by local softmax, reading keys and values once.

    Each row of a tile has a softmax of its own until the end: in the loop threads need not meet.
    """
    column = tl.arange(0, WIDTH)
    peak = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.full([TILE], 0.0, tl.float32)
    value = tl.full([TILE, WIDTH], 0.0, tl.float32)
    key = tl.full([TILE, WIDTH], 0.0, tl.float32)
    high = tl.full([TILE, WIDTH], float("-inf") if KIND == MAX else 0.0, tl.float32)
    place = tl.full([TILE, WIDTH], 0, tl.int32)
    for offset in tl.range(0, BLOCK, TILE, num_stages=STAGES):
        token = start + offset + tl.arange(0, TILE)
        member = (token >= begin) & (token < end)
        keys = load_tile(k, start + offset, end, k_row, DIM, TILE, WIDTH, True)
        values = load_tile(v, start + offset, end, v_row, DIM, TILE, WIDTH, True)
        if SINKS:
            copied = ((token < sink) & (token < end))[:, None] & (column < DIM)[None, :]
            target = token[:, None] * DIM + column[None, :]
            tl.store(far_key + target, keys, mask=copied)
            tl.store(far_value + target, values, mask=copied)
            if KIND >= MEAN_SIZE:
                tl.store(far_bias + token, 0.0, mask=(token < sink) & (token < end))
        x = keys.to(tl.float32)
        scores = tl.where(member, tl.sum(x * pooled_q[None, :], 1) * scale, float("-inf"))
        risen = tl.maximum(peak, scores)
        base = tl.where(risen == float("-inf"), 0.0, risen)  # no member so far
        weights = tl.exp2(scores - base)
        shrink = tl.exp2(peak - base)
        total = total * shrink + weights
        value = value * shrink[:, None] + weights[:, None] * values.to(tl.float32)
        if KIND == VARIATIONAL:
            key = key * shrink[:, None] + weights[:, None] * x
        peak = risen
        if KIND == MAX:
            x = tl.where(member[:, None], x, float("-inf"))
            if INDEXED:
                place = tl.where(x > high, token[:, None], place)
            high = tl.maximum(high, x)
        elif KIND != VARIATIONAL:
            high += tl.where(member[:, None], x, 0.0)
    top = tl.max(peak, 0)
    top = tl.where(top == float("-inf"), 0.0, top)
    share = tl.exp2(peak - top)
    total = tl.sum(total * share, 0)
    value = tl.sum(value * share[:, None], 0)
    key = tl.sum(key * share[:, None], 0) if KIND == VARIATIONAL else tl.sum(key, 0)
    pooled_k, place_k = _joined(high, place, KIND, INDEXED)
    return pooled_k, place_k, top, total, value, key


@triton.jit
def _weigh_block(
    q,
    k,
    v,
    far_key,
    far_value,
    far_bias,
    q_row,
    k_row,
    v_row,
    start,
    begin,
    end,
    count,
    sink,
    scale,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    INDEXED: tl.constexpr,
):
    """Pool queries and keys and sum by local softmax, all tokens of the block at once."""
    column = tl.arange(0, WIDTH)
    pooled_q = tl.full([WIDTH], float("-inf") if KIND == MAX else 0.0, tl.float32)
    pooled_k = pooled_q
    place_q = tl.full([WIDTH], 0, tl.int32)
    place_k = place_q
    token = start + tl.arange(0, TILE)
    member = (token >= begin) & (token < end)
    # Everything is on its way before the first use.
    queries = load_tile(q, start, end, q_row, DIM, TILE, WIDTH, True)
    keys = load_tile(k, start, end, k_row, DIM, TILE, WIDTH, True)
    values = load_tile(v, start, end, v_row, DIM, TILE, WIDTH, True)
    inside = member[:, None]
    if KIND == MAX:
        pooled_q, place_q = _largest(pooled_q, place_q, queries, start, inside, TILE, INDEXED)
        pooled_k, place_k = _largest(pooled_k, place_k, keys, start, inside, TILE, INDEXED)
        # A region that the sinks have emptied is never read; it must only be finite.
        pooled_q = tl.where(begin < end, pooled_q, 0.0)
        pooled_k = tl.where(begin < end, pooled_k, 0.0)
    else:
        pooled_q = tl.sum(tl.where(inside, queries.to(tl.float32), 0.0), 0) / count
        if KIND != VARIATIONAL:
            pooled_k = tl.sum(tl.where(inside, keys.to(tl.float32), 0.0), 0) / count
    if SINKS:
        copied = ((token < sink) & (token < end))[:, None] & (column < DIM)[None, :]
        target = token[:, None] * DIM + column[None, :]
        tl.store(far_key + target, keys, mask=copied)
        tl.store(far_value + target, values, mask=copied)
        if KIND >= MEAN_SIZE:
            tl.store(far_bias + token, 0.0, mask=(token < sink) & (token < end))
    scores = tl.sum(keys.to(tl.float32) * pooled_q[None, :], 1) * scale
    scores = tl.where(member, scores, float("-inf"))
    peak = tl.max(scores, 0)
    peak = tl.where(peak == float("-inf"), 0.0, peak)  # no member
    weights = tl.exp2(scores - peak)
    total = tl.sum(weights, 0)
    value = tl.sum(weights[:, None] * values.to(tl.float32), 0)
    key = tl.full([WIDTH], 0.0, tl.float32)
    if KIND == VARIATIONAL:
        key = tl.sum(weights[:, None] * keys.to(tl.float32), 0)
    return pooled_q, place_q, pooled_k, place_k, peak, total, value, key


@triton.jit(do_not_specialize=COUNTS)
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
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,  # tiles in flight where a block has several
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    INDEXED: tl.constexpr,  # MAX, and a backward will follow
    EARLY: tl.constexpr,  # the next launch may begin while this one ends
):
    """One program a block and query head: pool, local softmax, weighted sums."""
    if EARLY:
        gdc_launch_dependents()
    PASSING: tl.constexpr = TILE < BLOCK
    if PASSING:  # block by block over all heads, as the attention reads them
        lines = tl.num_programs(0) // blocks
        block = tl.program_id(0) // lines
        line = tl.program_id(0) % lines
    else:
        block = tl.program_id(0) % blocks
        line = tl.program_id(0) // blocks
    far = (sink + blocks).to(tl.int64)
    q += (line // heads).to(tl.int64) * q_batch + (line % heads).to(tl.int64) * q_head
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // GROUP).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // GROUP).to(tl.int64) * v_head
    far_key += line * far * DIM
    far_value += line * far * DIM
    far_bias += line * far
    column = tl.arange(0, WIDTH)
    start = block * BLOCK
    end = tl.minimum(start + BLOCK, length)
    begin = tl.minimum(tl.maximum(start, sink), end)  # of the tokens that belong to the region
    count = tl.maximum(end - begin, 1).to(tl.float32)

    if PASSING:
        pooled_q, place_q = _pool_queries(
            q, q_row, start, begin, end, BLOCK, DIM, TILE, STAGES, WIDTH, KIND, INDEXED
        )
        # What the sinks have emptied is never read; it must only be finite.
        pooled_q = tl.where(begin < end, pooled_q, 0.0) if KIND == MAX else pooled_q / count
        pooled_k, place_k, peak, total, value, key = _weigh_tokens(
            k, v, far_key, far_value, far_bias, pooled_q, k_row, v_row, start, begin, end, sink,
            scale, BLOCK, DIM, TILE, STAGES, WIDTH, KIND, SINKS, INDEXED,
        )  # fmt: skip
        pooled_k = tl.where(begin < end, pooled_k, 0.0) if KIND == MAX else pooled_k / count
    else:
        pooled_q, place_q, pooled_k, place_k, peak, total, value, key = _weigh_block(
            q, k, v, far_key, far_value, far_bias, q_row, k_row, v_row, start, begin, end, count,
            sink, scale, DIM, TILE, WIDTH, KIND, SINKS, INDEXED,
        )  # fmt: skip
    total = tl.where(begin < end, total, 1.0)
    lse = peak + tl.log2(total)
    value = value / total
    if KIND == VARIATIONAL:
        key = key / total
        bias = lse - scale * tl.sum(key * pooled_q, 0)
        tl.store(far_bias + sink + block, bias)
    else:
        key = pooled_k
    if KIND == MEAN_SIZE:
        tl.store(far_bias + sink + block, tl.log2(count))

    inside = column < DIM
    target = (sink + block) * DIM + column
    tl.store(far_key + target, key.to(far_key.dtype.element_ty), mask=inside)
    tl.store(far_value + target, value.to(far_value.dtype.element_ty), mask=inside)
    region = line.to(tl.int64) * blocks + block
    tl.store(query + region * DIM + column, pooled_q, mask=inside)
    tl.store(local_lse + region, lse)
    if INDEXED:
        tl.store(first_query + region * DIM + column, place_q, mask=inside)
        tl.store(first_key + region * DIM + column, place_k, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
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
    lines,
    splits,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
):
    """One program a block and query head: sum the parts, back through the local softmax.

    With g_j the gradient of l_j, that of the score of token j is l_j (g_j - sum_i l_i g_i), and
    the pooled query gets its sum over tokens times the keys. A variational bias enters g_j alone:
    its direct terms for query and key cancel those of the log-sum-exp (envelope theorem).
    """
    SINGLE: tl.constexpr = TILE >= BLOCK
    block = tl.program_id(0) % blocks
    line = tl.program_id(0) // blocks
    far = (sink + blocks).to(tl.int64)
    k += (line // heads).to(tl.int64) * k_batch + (line % heads // GROUP).to(tl.int64) * k_head
    v += (line // heads).to(tl.int64) * v_batch + (line % heads // GROUP).to(tl.int64) * v_head
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    end = tl.minimum(block * BLOCK + BLOCK, length)
    begin = tl.minimum(tl.maximum(block * BLOCK, sink), end)
    if SINGLE:
        keys = load_tile(k, block * BLOCK, end, k_row, DIM, TILE, WIDTH, True)
        values = load_tile(v, block * BLOCK, end, v_row, DIM, TILE, WIDTH, True)
    region = line.to(tl.int64) * blocks + block

    dkey = tl.full([WIDTH], 0.0, tl.float32)
    dvalue = tl.full([WIDTH], 0.0, tl.float32)
    dbias = 0.0
    for split in range(splits):
        place = (tl.cast(split, tl.int64) * lines + line) * far + sink + block
        dkey += tl.load(part_key + place * DIM + column, mask=inside, other=0.0)
        dvalue += tl.load(part_value + place * DIM + column, mask=inside, other=0.0)
        if KIND == VARIATIONAL:
            dbias += tl.load(part_bias + place)
    tl.store(grad_key + region * DIM + column, dkey, mask=inside)
    tl.store(grad_value + region * DIM + column, dvalue, mask=inside)
    if KIND == VARIATIONAL:
        tl.store(grad_bias + region, dbias)

    asked = tl.load(query + region * DIM + column, mask=inside, other=0.0)
    lse = tl.load(local_lse + region)
    mean = 0.0
    weighed = tl.full([WIDTH], 0.0, tl.float32)
    plain = tl.full([WIDTH], 0.0, tl.float32)
    for offset in range(0, BLOCK, TILE):
        first = block * BLOCK + offset
        token = first + tl.arange(0, TILE)
        member = (token >= begin) & (token < end)
        if not SINGLE:
            keys = load_tile(k, first, end, k_row, DIM, TILE, WIDTH, True)
            values = load_tile(v, first, end, v_row, DIM, TILE, WIDTH, True)
        scores = tl.sum(keys.to(tl.float32) * asked[None, :], 1) * scale
        local = tl.where(member, tl.exp2(scores - lse), 0.0)
        gradient = tl.sum(values.to(tl.float32) * dvalue[None, :], 1)
        if KIND == VARIATIONAL:
            gradient += tl.sum(keys.to(tl.float32) * dkey[None, :], 1) - dbias * scores / LOG2E
        mean += tl.sum(local * gradient, 0)
        weighed += tl.sum((local * gradient)[:, None] * keys.to(tl.float32), 0)
        plain += tl.sum(local[:, None] * keys.to(tl.float32), 0)
    tl.store(middle + region, mean)
    dquery = (weighed - mean * plain) * (scale / LOG2E)
    tl.store(grad_query + region * DIM + column, dquery, mask=inside)
