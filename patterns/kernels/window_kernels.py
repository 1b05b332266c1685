"""Triton kernels of the sliding window with sinks: forward, dQ, dK and dV, and the sinks' share.

A query i sees a key j with |i - j| < window or j < sink, and no j > i where CAUSAL. Each program
has one tile of queries (or keys) of one head and walks over the tiles of keys (or queries) that
some of its rows see; only the tiles at the edges of that range are masked (all, unless SPLIT).

Scores are kept in base 2: `scale` is the factor on q k^T times log2(e), and the log-sum-exp that
forward saves is base 2 as well. In the kernels ROWS counts queries, KEYS keys and WIDTH columns
of a tile, all powers of two; `group` is how many query heads share a key-value head.
"""

import triton
import triton.language as tl

from patterns.kernels.rows import head_offset, load_numbers, load_rows, store_numbers, store_rows

LOWEST = tl.constexpr(-3.0e38)  # below every score and finite, so that no row makes inf - inf


@triton.jit
def _near(i, j, window, CAUSAL: tl.constexpr):
    return (j <= i) & (i - j < window) if CAUSAL else (i - j < window) & (j - i < window)


@triton.jit
def _seen(i, j, window, sink, length, CAUSAL: tl.constexpr, SINK: tl.constexpr):
    seen = _near(i, j, window, CAUSAL)
    if SINK:
        seen = seen | (j < sink) & (j <= i) if CAUSAL else seen | (j < sink)
    return seen & (j < length)


@triton.jit
def _key_tiles(
    first, length, window, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """(start, masked at the left, unmasked, all) tiles of keys for queries from `first` on."""
    start = tl.maximum(first - window + 1, 0) // KEYS * KEYS
    if CAUSAL:
        end = tl.minimum(first + ROWS, length)
        whole = first + 1
    else:
        end = tl.minimum(first + ROWS - 1 + window, length)
        whole = tl.minimum(first + window, length)
    count = (end - start + KEYS - 1) // KEYS
    left, full = count, count * 0
    if SPLIT:
        left = tl.maximum(first + ROWS - window - start + KEYS - 1, 0) // KEYS
        left = tl.minimum(left, count)
        full = tl.maximum((whole - start) // KEYS - left, 0)
    return start, left, full, count


@triton.jit
def _query_tiles(
    first, length, window, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """(start, masked at the left, unmasked, all) tiles of queries for keys from `first` on."""
    end = tl.minimum(first + KEYS - 1 + window, length)
    if CAUSAL:
        start = first // ROWS * ROWS
        everyone = first + KEYS - 1  # from here on all of the tile's keys are seen
    else:
        start = tl.maximum(first - window + 1, 0) // ROWS * ROWS
        everyone = first + KEYS - window
    count = (end - start + ROWS - 1) // ROWS
    left, full = count, count * 0
    if SPLIT:
        left = tl.minimum(tl.maximum(everyone - start + ROWS - 1, 0) // ROWS, count)
        full = tl.maximum((tl.minimum(first + window, length) - start) // ROWS - left, 0)
    return start, left, full, count


@triton.jit
def _softmax_step(q, k, v, acc, total, peak, scale, seen, MASKED: tl.constexpr, IP: tl.constexpr):
    scores = tl.dot(q, tl.trans(k), input_precision=IP) * scale
    if MASKED:
        scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=IP)
    return acc, total, higher


@triton.jit
def window_forward(
    q, k, v, out, lse, scale, length, window, sink, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SINKS: tl.constexpr, CAUSAL: tl.constexpr, SINK: tl.constexpr, SPLIT: tl.constexpr,
    IP: tl.constexpr,
):  # fmt: skip
    """One tile of queries: its output and the base-2 log-sum-exp of each row."""
    tiles = (length + ROWS - 1) // ROWS
    program = tl.program_id(0)
    first, index = program % tiles * ROWS, program // tiles
    batch, head, last = index // heads, index % heads, length - 1
    q += head_offset(batch, head, q_batch, q_head)
    k += head_offset(batch, head // group, k_batch, k_head)
    v += head_offset(batch, head // group, v_batch, v_head)
    out += head_offset(batch, head, o_batch, o_head)
    lse += index.to(tl.int64) * length

    queries = load_rows(q, q_row, first, last, ROWS, D, WIDTH)
    i = tl.minimum(first + tl.arange(0, ROWS), last)[:, None]
    column = tl.arange(0, KEYS)[None, :]
    acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    peak = tl.full([ROWS], LOWEST, dtype=tl.float32)
    start, left, full, count = _key_tiles(first, length, window, ROWS, KEYS, CAUSAL, SPLIT)

    if SINK:
        few = tl.arange(0, SINKS)[None, :]
        for step in range((tl.minimum(sink, start) + SINKS - 1) // SINKS):
            at = start * 0 + step * SINKS
            keys = load_rows(k, k_row, at, last, SINKS, D, WIDTH)
            values = load_rows(v, v_row, at, last, SINKS, D, WIDTH)
            seen = _seen(i, at + few, window, sink, length, CAUSAL, SINK)
            acc, total, peak = _softmax_step(
                queries, keys, values, acc, total, peak, scale, seen, True, IP
            )
        if not CAUSAL:
            after = start + count * KEYS  # sinks to the right of every window of the tile
            for step in range((tl.maximum(sink - after, 0) + SINKS - 1) // SINKS):
                at = after + step * SINKS
                keys = load_rows(k, k_row, at, last, SINKS, D, WIDTH)
                values = load_rows(v, v_row, at, last, SINKS, D, WIDTH)
                seen = _seen(i, at + few, window, sink, length, CAUSAL, SINK)
                acc, total, peak = _softmax_step(
                    queries, keys, values, acc, total, peak, scale, seen, True, IP
                )
    if SPLIT:
        for step in range(full):
            at = start + (left + step) * KEYS
            keys = load_rows(k, k_row, at, last, KEYS, D, WIDTH)
            values = load_rows(v, v_row, at, last, KEYS, D, WIDTH)
            acc, total, peak = _softmax_step(
                queries, keys, values, acc, total, peak, scale, True, False, IP
            )
    for step in range(count - full):
        at = start + (step + tl.where(step >= left, full, 0)) * KEYS
        keys = load_rows(k, k_row, at, last, KEYS, D, WIDTH)
        values = load_rows(v, v_row, at, last, KEYS, D, WIDTH)
        seen = _seen(i, at + column, window, sink, length, CAUSAL, SINK)
        acc, total, peak = _softmax_step(
            queries, keys, values, acc, total, peak, scale, seen, True, IP
        )
    store_rows(out, o_row, first, last, acc / total[:, None], D)
    store_numbers(lse, first, last, peak + tl.log2(total))


@triton.jit
def _query_step(q, k, v, grad, dq, lse, delta, scale, seen, MASKED: tl.constexpr, IP: tl.constexpr):
    weights = tl.exp2(tl.dot(q, tl.trans(k), input_precision=IP) * scale - lse[:, None])
    if MASKED:
        weights = tl.where(seen, weights, 0.0)
    dweights = tl.dot(grad, tl.trans(v), input_precision=IP)
    dscores = weights * (dweights - delta[:, None])
    return tl.dot(dscores.to(k.dtype), k, dq, input_precision=IP)


@triton.jit
def window_backward_queries(
    q, k, v, out, grad, lse, dq, delta, scale, factor, length, window, sink, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    g_batch, g_head, g_row, dq_batch, dq_head, dq_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SINKS: tl.constexpr, CAUSAL: tl.constexpr, SINK: tl.constexpr, SPLIT: tl.constexpr,
    IP: tl.constexpr,
):  # fmt: skip
    """One tile of queries: its dQ, and delta = rowsum(grad * out) for the other kernels.

    `factor` is the plain scale of the scores, `scale` the one in base 2.
    """
    tiles = (length + ROWS - 1) // ROWS
    program = tl.program_id(0)
    first, index = program % tiles * ROWS, program // tiles
    batch, head, last = index // heads, index % heads, length - 1
    q += head_offset(batch, head, q_batch, q_head)
    k += head_offset(batch, head // group, k_batch, k_head)
    v += head_offset(batch, head // group, v_batch, v_head)
    out += head_offset(batch, head, o_batch, o_head)
    grad += head_offset(batch, head, g_batch, g_head)
    dq += head_offset(batch, head, dq_batch, dq_head)
    lse += index.to(tl.int64) * length
    delta += index.to(tl.int64) * length

    grads = load_rows(grad, g_row, first, last, ROWS, D, WIDTH)
    outs = load_rows(out, o_row, first, last, ROWS, D, WIDTH)
    deltas = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    store_numbers(delta, first, last, deltas)
    queries = load_rows(q, q_row, first, last, ROWS, D, WIDTH)
    lses = load_numbers(lse, first, last, ROWS)
    i = tl.minimum(first + tl.arange(0, ROWS), last)[:, None]
    column = tl.arange(0, KEYS)[None, :]
    acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    start, left, full, count = _key_tiles(first, length, window, ROWS, KEYS, CAUSAL, SPLIT)

    if SINK:
        few = tl.arange(0, SINKS)[None, :]
        for step in range((tl.minimum(sink, start) + SINKS - 1) // SINKS):
            at = start * 0 + step * SINKS
            keys = load_rows(k, k_row, at, last, SINKS, D, WIDTH)
            values = load_rows(v, v_row, at, last, SINKS, D, WIDTH)
            seen = _seen(i, at + few, window, sink, length, CAUSAL, SINK)
            acc = _query_step(
                queries, keys, values, grads, acc, lses, deltas, scale, seen, True, IP
            )
        if not CAUSAL:
            after = start + count * KEYS
            for step in range((tl.maximum(sink - after, 0) + SINKS - 1) // SINKS):
                at = after + step * SINKS
                keys = load_rows(k, k_row, at, last, SINKS, D, WIDTH)
                values = load_rows(v, v_row, at, last, SINKS, D, WIDTH)
                seen = _seen(i, at + few, window, sink, length, CAUSAL, SINK)
                acc = _query_step(
                    queries, keys, values, grads, acc, lses, deltas, scale, seen, True, IP
                )
    if SPLIT:
        for step in range(full):
            at = start + (left + step) * KEYS
            keys = load_rows(k, k_row, at, last, KEYS, D, WIDTH)
            values = load_rows(v, v_row, at, last, KEYS, D, WIDTH)
            acc = _query_step(
                queries, keys, values, grads, acc, lses, deltas, scale, True, False, IP
            )
    for step in range(count - full):
        at = start + (step + tl.where(step >= left, full, 0)) * KEYS
        keys = load_rows(k, k_row, at, last, KEYS, D, WIDTH)
        values = load_rows(v, v_row, at, last, KEYS, D, WIDTH)
        seen = _seen(i, at + column, window, sink, length, CAUSAL, SINK)
        acc = _query_step(queries, keys, values, grads, acc, lses, deltas, scale, seen, True, IP)
    store_rows(dq, dq_row, first, last, acc * factor, D)


@triton.jit
def _key_step(
    q, k, v, grad, dk, dv, lse, delta, scale, seen, MASKED: tl.constexpr, IP: tl.constexpr
):
    """Everything transposed: scores are [keys, queries]."""
    weights = tl.exp2(tl.dot(k, tl.trans(q), input_precision=IP) * scale - lse[None, :])
    if MASKED:
        weights = tl.where(seen, weights, 0.0)
    dv = tl.dot(weights.to(grad.dtype), grad, dv, input_precision=IP)
    dweights = tl.dot(v, tl.trans(grad), input_precision=IP)
    dscores = weights * (dweights - delta[None, :])
    dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=IP)
    return dk, dv


@triton.jit
def window_backward_keys(
    q, k, v, grad, lse, delta, dk, dv, sink_dk, sink_dv,
    scale, factor, length, window, sink, parts, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    g_batch, g_head, g_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, SINK: tl.constexpr, SPLIT: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """One tile of keys: dK and dV from the queries whose window holds them.

    The tiles that hold sinks add up what `window_backward_sinks` has found in `parts` parts.
    """
    tiles = (length + KEYS - 1) // KEYS
    program = tl.program_id(0)
    first, index = program % tiles * KEYS, program // tiles
    kv_heads, last = heads // group, length - 1
    batch, head = index // kv_heads, index % kv_heads
    k += head_offset(batch, head, k_batch, k_head)
    v += head_offset(batch, head, v_batch, v_head)
    dk += head_offset(batch, head, dk_batch, dk_head)
    dv += head_offset(batch, head, dv_batch, dv_head)

    keys = load_rows(k, k_row, first, last, KEYS, D, WIDTH)
    values = load_rows(v, v_row, first, last, KEYS, D, WIDTH)
    j = first + tl.arange(0, KEYS)[:, None]
    column = tl.arange(0, ROWS)[None, :]
    key_acc = tl.zeros([KEYS, WIDTH], dtype=tl.float32)
    value_acc = tl.zeros([KEYS, WIDTH], dtype=tl.float32)
    start, left, full, count = _query_tiles(first, length, window, ROWS, KEYS, CAUSAL, SPLIT)

    for member in range(group):
        query_head = head * group + member
        queries = q + head_offset(batch, query_head, q_batch, q_head)
        grads = grad + head_offset(batch, query_head, g_batch, g_head)
        numbers = (batch * heads + query_head).to(tl.int64) * length
        if SPLIT:
            for step in range(full):
                at = start + (left + step) * ROWS
                key_acc, value_acc = _key_step(
                    load_rows(queries, q_row, at, last, ROWS, D, WIDTH), keys, values,
                    load_rows(grads, g_row, at, last, ROWS, D, WIDTH), key_acc, value_acc,
                    load_numbers(lse + numbers, at, last, ROWS),
                    load_numbers(delta + numbers, at, last, ROWS), scale, True, False, IP,
                )  # fmt: skip
        for step in range(count - full):
            at = start + (step + tl.where(step >= left, full, 0)) * ROWS
            i = at + column
            seen = _near(i, j, window, CAUSAL) & (i < length)
            key_acc, value_acc = _key_step(
                load_rows(queries, q_row, at, last, ROWS, D, WIDTH), keys, values,
                load_rows(grads, g_row, at, last, ROWS, D, WIDTH), key_acc, value_acc,
                load_numbers(lse + numbers, at, last, ROWS),
                load_numbers(delta + numbers, at, last, ROWS), scale, seen, True, IP,
            )  # fmt: skip
    if SINK:
        one = index.to(tl.int64) * sink * WIDTH
        whole = (tl.num_programs(0) // tiles).to(tl.int64) * sink * WIDTH
        at = j * WIDTH + tl.arange(0, WIDTH)[None, :]
        for part in range(tl.where(first < sink, parts, 0)):
            here = one + part * whole
            key_acc += tl.load(sink_dk + here + at, mask=j < sink, other=0.0)
            value_acc += tl.load(sink_dv + here + at, mask=j < sink, other=0.0)
    store_rows(dk, dk_row, first, last, key_acc * factor, D)
    store_rows(dv, dv_row, first, last, value_acc, D)


@triton.jit
def window_backward_sinks(
    q, k, v, grad, lse, delta, sink_dk, sink_dv,
    scale, length, window, sink, parts, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, g_batch, g_head, g_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, SINKS: tl.constexpr,
    CAUSAL: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """Sinks and one part of the queries beyond their windows: float32 shares of dK (unscaled), dV.

    Every query sees the sinks, so one program a tile of sinks would loop over all of them: the
    queries are cut into `parts`, [parts, B, Hkv, sink, WIDTH], which `window_backward_keys` adds.
    """
    sink_tiles = (sink + SINKS - 1) // SINKS
    program = tl.program_id(0)
    part, rest = program % parts, program // parts
    first, index = rest % sink_tiles * SINKS, rest // sink_tiles
    kv_heads, last = heads // group, length - 1
    batch, head = index // kv_heads, index % kv_heads
    k += head_offset(batch, head, k_batch, k_head)
    v += head_offset(batch, head, v_batch, v_head)
    keys = load_rows(k, k_row, first, last, SINKS, D, WIDTH)
    values = load_rows(v, v_row, first, last, SINKS, D, WIDTH)
    j = first + tl.arange(0, SINKS)[:, None]
    column = tl.arange(0, ROWS)[None, :]
    key_acc = tl.zeros([SINKS, WIDTH], dtype=tl.float32)
    value_acc = tl.zeros([SINKS, WIDTH], dtype=tl.float32)

    tiles = (length + ROWS - 1) // ROWS
    each = (tiles + parts - 1) // parts
    from_tile = part * each
    to_tile = tl.minimum(from_tile + each, tiles)
    if CAUSAL:
        from_tile = tl.maximum(from_tile, (first + window) // ROWS)
    for member in range(group):
        query_head = head * group + member
        queries = q + head_offset(batch, query_head, q_batch, q_head)
        grads = grad + head_offset(batch, query_head, g_batch, g_head)
        numbers = (batch * heads + query_head).to(tl.int64) * length
        for step in range(to_tile - from_tile):
            at = (from_tile + step) * ROWS
            i = at + column
            beyond = i - j >= window if CAUSAL else (i - j >= window) | (j - i >= window)
            key_acc, value_acc = _key_step(
                load_rows(queries, q_row, at, last, ROWS, D, WIDTH), keys, values,
                load_rows(grads, g_row, at, last, ROWS, D, WIDTH), key_acc, value_acc,
                load_numbers(lse + numbers, at, last, ROWS),
                load_numbers(delta + numbers, at, last, ROWS),
                scale, beyond & (i < length), True, IP,
            )  # fmt: skip
    whole = (tl.num_programs(0) // parts // sink_tiles).to(tl.int64)
    here = (part * whole + index) * sink * WIDTH
    at = j * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(sink_dk + here + at, key_acc, mask=j < sink)
    tl.store(sink_dv + here + at, value_acc, mask=j < sink)
