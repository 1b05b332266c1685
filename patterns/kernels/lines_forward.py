"""Attention along the lines of a grid: summaries of lines, and their reading in one softmax.

Letters as in `patterns.kernels.lines`; scores and log-sum-exps are in units of log 2.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.lines import (
    COUNTS,
    UPTO,
    along,
    count_of,
    line_start,
    masked_tile,
    may_read,
    plain_tile,
    spans,
)
from patterns.kernels.tiles import load_tile, softmax_step, store_tile


@triton.jit
def attend_source(
    accumulator,
    total,
    peak,
    queries,
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
    PRECISION: tl.constexpr,
):
    """Add what the M queries from `first` on see of `count` keys to their running softmax."""
    begin, low, high, whole, plain, masked = spans(first, count, M, N, SHIFT, MASK)
    for step in range(plain):
        start = plain_tile(step, low, high) * N
        keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, False)
        values = load_tile(v, start, count, v_step, DIM, N, WIDTH, False)
        extra = 0.0
        if BIASED:
            extra = tl.load(bias + (start + tl.arange(0, N)) * bias_step)
        accumulator, total, peak = softmax_step(
            accumulator, total, peak, queries, keys, values, extra, 0, scale,
            False, BIASED, PRECISION,
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
        accumulator, total, peak = softmax_step(
            accumulator, total, peak, queries, keys, values, extra, visible, scale,
            True, BIASED, PRECISION,
        )  # fmt: skip
    return accumulator, total, peak


@triton.jit(do_not_specialize=COUNTS)
def attend_lines(
    q,
    out,  # [B * H, L, D]
    lse,  # [B * H, L]
    state,  # [B * H, L, D], as what follows may be `out` itself; STATE
    state_lse,
    other,  # AVERAGE
    key_a,
    value_a,
    bias_a,  # [B * H, P]
    key_b,
    value_b,
    bias_b,
    q_batch,
    q_head,
    q_row,
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
    length,
    rows,
    columns,
    limit_a,
    limit_b,
    scale,
    heads,
    DOWN: tl.constexpr,
    STATE: tl.constexpr,  # go on from there
    AVERAGE: tl.constexpr,  # write the mean of the result and another one
    SOURCES: tl.constexpr,  # one or both
    MASK_A: tl.constexpr,
    SHIFT_A: tl.constexpr,
    LINE_A: tl.constexpr,  # how many lines on the keys lie
    BIASED_A: tl.constexpr,
    KEY_GROUP_A: tl.constexpr,  # query heads that share a head of keys
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
    """One program a tile of queries of a line, and head; neighbouring programs, if DOWN, have
    neighbouring columns, which lie side by side in memory, and the longest columns go first."""
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
    end = count_of(line, length, rows, columns, DOWN)
    if first >= end:
        return
    batch, head = (head_line // heads).to(tl.int64), (head_line % heads).to(tl.int64)
    token = line_start(line, columns, DOWN)
    base = head_line.to(tl.int64) * length + token
    padded = head_line.to(tl.int64) * rows * columns
    q += batch * q_batch + head * q_head + token * q_row
    out += base * DIM
    lse += base
    queries = load_tile(q, first, end, along(q_row, columns, DOWN), DIM, M, WIDTH, True)
    row = first + tl.arange(0, M)
    lse_place = row * along(1, columns, DOWN)
    out_step = along(DIM, columns, DOWN)
    if STATE:
        peak = tl.load(state_lse + base + lse_place, mask=row < end, other=0.0)
        total = tl.full([M], 1.0, tl.float32)
        accumulator = load_tile(state + base * DIM, first, end, out_step, DIM, M, WIDTH, True).to(
            tl.float32
        )
    else:
        peak = tl.full([M], float("-inf"), tl.float32)
        total = tl.full([M], 0.0, tl.float32)
        accumulator = tl.zeros([M, WIDTH], tl.float32)

    there = line + LINE_A
    count = count_of(there, limit_a, rows, columns, DOWN)
    place = line_start(there, columns, DOWN)
    accumulator, total, peak = attend_source(
        accumulator, total, peak, queries,
        key_a + batch * key_a_batch + head // KEY_GROUP_A * key_a_head + place * key_a_row,
        value_a + batch * value_a_batch + head // VALUE_GROUP_A * value_a_head
        + place * value_a_row,
        bias_a + padded + place,
        along(key_a_row, columns, DOWN), along(value_a_row, columns, DOWN),
        along(1, columns, DOWN), first, count, scale,
        DIM, M, N, WIDTH, SHIFT_A, MASK_A, BIASED_A, PRECISION,
    )  # fmt: skip
    if SOURCES == 2:
        there = line + LINE_B
        count = count_of(there, limit_b, rows, columns, DOWN)
        place = line_start(there, columns, DOWN)
        accumulator, total, peak = attend_source(
            accumulator, total, peak, queries,
            key_b + batch * key_b_batch + head // KEY_GROUP_B * key_b_head + place * key_b_row,
            value_b + batch * value_b_batch + head // VALUE_GROUP_B * value_b_head
            + place * value_b_row,
            bias_b + padded + place,
            along(key_b_row, columns, DOWN), along(value_b_row, columns, DOWN),
            along(1, columns, DOWN), first, count, scale,
            DIM, M, N, WIDTH, SHIFT_B, MASK_B, BIASED_B, PRECISION,
        )  # fmt: skip

    result = accumulator / total[:, None]
    if AVERAGE:
        twin = load_tile(other + base * DIM, first, end, out_step, DIM, M, WIDTH, True)
        result = 0.5 * (result + twin.to(tl.float32))
    store_tile(out, result, first, end, out_step, DIM, M, WIDTH)
    tl.store(lse + lse_place, peak + tl.log2(total), mask=row < end)


@triton.jit
def summary_step(
    value,
    key,
    total,
    peak,
    queries,
    keys,
    values,
    visible,
    scale,
    MASKED: tl.constexpr,
    WEIGHED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As `softmax_step`, which (if WEIGHED) sums the keys as well as the values."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    risen = tl.maximum(peak, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - risen[:, None])
    shrink = tl.exp2(peak - risen)
    total = total * shrink + tl.sum(weights, 1)
    small = weights.to(values.dtype)
    value = tl.dot(small, values, value * shrink[:, None], input_precision=PRECISION)
    if WEIGHED:
        key = tl.dot(small, keys, key * shrink[:, None], input_precision=PRECISION)
    return value, key, total, risen


@triton.jit(do_not_specialize=COUNTS)
def summarise_lines(
    q,
    k,
    v,
    far_value,  # [B * H, P, D]
    far_key,  # [B * H, P, D]; WEIGHED, or COPIED
    far_bias,  # [B * H, P]; ENTROPY
    far_lse,  # [B * H, P]
    out,  # [B * H, L, D]; TELL
    lse,  # [B * H, L]; TELL
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
    rows,
    columns,
    q_limit,  # tokens from here on ask as the last one of their line does
    limit,  # tokens before it get a summary
    scale,
    lift,  # of all biases
    heads,
    DOWN: tl.constexpr,
    MASK: tl.constexpr,
    SHIFT: tl.constexpr,
    WEIGHED: tl.constexpr,
    ENTROPY: tl.constexpr,
    COPIED: tl.constexpr,  # the summary's key is the key of the token that asks
    TELL: tl.constexpr,  # also what the token sees of its line: 1 up to itself, 2 all; MASK is ALL
    GROUP: tl.constexpr,  # query heads a key-value head
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of the queries that ask a line for its summary, and head."""
    pid = tl.program_id(0)
    if DOWN:
        tiles = (rows + M - 1) // M
        line = pid % columns
        first = (tiles - 1 - pid // columns % tiles) * M
        head_line = pid // columns // tiles
    else:
        tiles = (columns + M - 1) // M
        first = pid % tiles * M
        line = pid // tiles % rows
        head_line = pid // tiles // rows
    end = count_of(line, limit, rows, columns, DOWN)
    if first >= end:
        return
    count = count_of(line, length, rows, columns, DOWN)
    batch, head = (head_line // heads).to(tl.int64), (head_line % heads).to(tl.int64)
    token = line_start(line, columns, DOWN)
    q += batch * q_batch + head * q_head + token * q_row
    k += batch * k_batch + head // GROUP * k_head + token * k_row
    v += batch * v_batch + head // GROUP * v_head + token * v_row
    k_step = along(k_row, columns, DOWN)
    v_step = along(v_row, columns, DOWN)
    row = first + tl.arange(0, M)
    column = tl.arange(0, WIDTH)
    # Past the last token that asks, the last one stands in.
    asking = tl.minimum(row, count_of(line, q_limit, rows, columns, DOWN) - 1)
    asked = asking.to(tl.int64) * along(q_row, columns, DOWN)
    if WIDTH > DIM:
        queries = tl.load(
            q + asked[:, None] + column[None, :], mask=(column < DIM)[None, :], other=0.0
        )
    else:
        queries = tl.load(q + asked[:, None] + column[None, :])
    peak = tl.full([M], float("-inf"), tl.float32)
    total = tl.full([M], 0.0, tl.float32)
    value = tl.zeros([M, WIDTH], tl.float32)
    key = tl.zeros([M, WIDTH if WEIGHED else 16], tl.float32)

    if TELL == 1:
        # Up to the diagonal both softmaxes are the same.
        begin, low, high, whole, plain, masked = spans(first, count, M, N, 0, UPTO)
        for step in range(plain):
            keys = load_tile(k, step * N, count, k_step, DIM, N, WIDTH, False)
            values = load_tile(v, step * N, count, v_step, DIM, N, WIDTH, False)
            value, key, total, peak = summary_step(
                value, key, total, peak, queries, keys, values, 0, scale,
                False, WEIGHED, PRECISION,
            )  # fmt: skip
        seen, seen_total, seen_peak = value, total, peak
        for step in range(masked):
            start = (low + step) * N
            keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, True)
            values = load_tile(v, start, count, v_step, DIM, N, WIDTH, True)
            visible = may_read((start + tl.arange(0, N))[None, :], row[:, None], count, 0, UPTO)
            seen, seen_total, seen_peak = softmax_step(
                seen, seen_total, seen_peak, queries, keys, values, 0.0, visible, scale,
                True, False, PRECISION,
            )  # fmt: skip
        base = head_line.to(tl.int64) * length + token
        store_tile(
            out + base * DIM, seen / seen_total[:, None], first, count,
            along(DIM, columns, DOWN), DIM, M, WIDTH,
        )  # fmt: skip
        place = row * along(1, columns, DOWN)
        tl.store(lse + base + place, seen_peak + tl.log2(seen_total), mask=row < count)
        for step in range(low, whole):
            keys = load_tile(k, step * N, count, k_step, DIM, N, WIDTH, False)
            values = load_tile(v, step * N, count, v_step, DIM, N, WIDTH, False)
            value, key, total, peak = summary_step(
                value, key, total, peak, queries, keys, values, 0, scale,
                False, WEIGHED, PRECISION,
            )  # fmt: skip
        begin = whole
        high = whole
        masked = (count + N - 1) // N - whole
    else:
        begin, low, high, whole, plain, masked = spans(first, count, M, N, SHIFT, MASK)
        for step in range(plain):
            start = plain_tile(step, low, high) * N
            keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, False)
            values = load_tile(v, start, count, v_step, DIM, N, WIDTH, False)
            value, key, total, peak = summary_step(
                value, key, total, peak, queries, keys, values, 0, scale,
                False, WEIGHED, PRECISION,
            )  # fmt: skip
    for step in range(masked):
        start = masked_tile(step, begin, high, whole, masked, MASK) * N
        keys = load_tile(k, start, count, k_step, DIM, N, WIDTH, True)
        values = load_tile(v, start, count, v_step, DIM, N, WIDTH, True)
        visible = may_read((start + tl.arange(0, N))[None, :], row[:, None], count, SHIFT, MASK)
        value, key, total, peak = summary_step(
            value, key, total, peak, queries, keys, values, visible, scale,
            True, WEIGHED, PRECISION,
        )  # fmt: skip

    base = head_line.to(tl.int64) * rows * columns + token
    width = along(DIM, columns, DOWN)
    place = base + row * along(1, columns, DOWN)
    local = peak + tl.log2(total)
    value = value / total[:, None]
    store_tile(far_value + base * DIM, value, first, end, width, DIM, M, WIDTH)
    tl.store(far_lse + place, local, mask=row < end)
    if WEIGHED:
        key = key / total[:, None]
        store_tile(far_key + base * DIM, key, first, end, width, DIM, M, WIDTH)
        if ENTROPY:
            bias = local - scale * tl.sum(key * queries.to(tl.float32), 1) + lift
            tl.store(far_bias + place, bias, mask=row < end)
    if TELL == 2:
        exact = head_line.to(tl.int64) * length + token
        store_tile(out + exact * DIM, value, first, count, width, DIM, M, WIDTH)
        tl.store(lse + exact + row * along(1, columns, DOWN), local, mask=row < count)
    if COPIED:
        asked = tl.minimum(row, count - 1).to(tl.int64) * k_step
        keys = tl.load(k + asked[:, None] + column[None, :], mask=(column < DIM)[None, :])
        store_tile(far_key + base * DIM, keys, first, end, width, DIM, M, WIDTH)
