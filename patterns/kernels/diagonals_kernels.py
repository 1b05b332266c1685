"""Triton kernels for keys at distances 0, 1, 2, 4, 8, ...: forward, dQ, and dK with dV.

A tile of consecutive queries meets, at each distance, a tile of consecutive keys: a diagonal of
the map. It is loaded shifted, not gathered, and multiplied row by row; there is no product of
matrices, and what bounds these kernels is the reading of about 2 log2(L) tiles. Small distances
find their keys in the cache that the tile beside them has filled.

Scores are in base 2 (`scale` includes log2(e)); ROWS and WIDTH are powers of two.
"""

import triton
import triton.language as tl

from patterns.kernels.rows import head_offset, load_numbers, load_rows, store_numbers, store_rows

LOWEST = tl.constexpr(-3.0e38)  # below every score and finite, so that no row makes inf - inf


@triton.jit
def _steps(reach, CAUSAL: tl.constexpr):
    """How many diagonals have a distance up to `reach`; one too many is empty."""
    powers = (tl.log2(tl.maximum(reach, 1).to(tl.float32) + 0.5) + 1.01).to(tl.int32)
    return 1 + powers if CAUSAL else 1 + 2 * powers


@triton.jit
def _distance(step, CAUSAL: tl.constexpr):
    """0, 1, 2, 4, ... or, looking both ways, 0, 1, -1, 2, -2, 4, ..."""
    bit = step if CAUSAL else (step + 1) // 2
    sign = 1 if CAUSAL else 2 * (step % 2) - 1
    return ((1 << bit) >> 1) * sign


@triton.jit
def _load_shifted(
    base, stride, first, shift, last, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr
):
    """(rows `first + shift` on as float32 [ROWS, WIDTH], which exist [ROWS]); others are zero."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    start = first + shift
    there = (start + row >= 0) & (start + row <= last) & (first + row <= last)
    at = base + start.to(tl.int64) * stride + (row[:, None] * stride + column[None, :])
    x = tl.load(at, mask=there[:, None] & (column < D)[None, :], other=0.0)
    return x.to(tl.float32), there


@triton.jit
def diagonals_forward(
    q, k, v, out, lse, scale, length, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr,
    STAGES: tl.constexpr,
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

    queries = load_rows(q, q_row, first, last, ROWS, D, WIDTH).to(tl.float32) * scale
    acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    peak = tl.full([ROWS], LOWEST, dtype=tl.float32)
    reach = tl.minimum(first + ROWS - 1, last)
    if not CAUSAL:
        reach = tl.maximum(reach, last - first)
    for step in tl.range(0, _steps(reach, CAUSAL), num_stages=STAGES):
        shift = first * 0 - _distance(step, CAUSAL)
        keys, there = _load_shifted(k, k_row, first, shift, last, ROWS, D, WIDTH)
        values, _ = _load_shifted(v, v_row, first, shift, last, ROWS, D, WIDTH)
        scores = tl.where(there, tl.sum(queries * keys, 1), float("-inf"))
        higher = tl.maximum(peak, scores)
        weights = tl.exp2(scores - higher)
        shrink = tl.exp2(peak - higher)
        total = total * shrink + weights
        acc = acc * shrink[:, None] + weights[:, None] * values
        peak = higher
    total = tl.where(total > 0, total, 1.0)  # rows beyond the last have no key
    store_rows(out, o_row, first, last, acc / total[:, None], D)
    store_numbers(lse, first, last, peak + tl.log2(total))


@triton.jit
def diagonals_backward_queries(
    q, k, v, out, grad, lse, dq, delta, scale, factor, length, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    g_batch, g_head, g_row, dq_batch, dq_head, dq_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of queries: its dQ, and delta = rowsum(grad * out) for the other kernel.

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

    grads = load_rows(grad, g_row, first, last, ROWS, D, WIDTH).to(tl.float32)
    outs = load_rows(out, o_row, first, last, ROWS, D, WIDTH).to(tl.float32)
    deltas = tl.sum(grads * outs, 1)
    store_numbers(delta, first, last, deltas)
    queries = load_rows(q, q_row, first, last, ROWS, D, WIDTH).to(tl.float32) * scale
    lses = load_numbers(lse, first, last, ROWS)
    acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    reach = tl.minimum(first + ROWS - 1, last)
    if not CAUSAL:
        reach = tl.maximum(reach, last - first)
    for step in tl.range(0, _steps(reach, CAUSAL), num_stages=STAGES):
        shift = first * 0 - _distance(step, CAUSAL)
        keys, there = _load_shifted(k, k_row, first, shift, last, ROWS, D, WIDTH)
        values, _ = _load_shifted(v, v_row, first, shift, last, ROWS, D, WIDTH)
        scores = tl.where(there, tl.sum(queries * keys, 1) - lses, float("-inf"))
        dscores = tl.exp2(scores) * (tl.sum(grads * values, 1) - deltas)
        acc += dscores[:, None] * keys
    store_rows(dq, dq_row, first, last, acc * factor, D)


@triton.jit
def diagonals_backward_keys(
    q, k, v, grad, lse, delta, dk, dv, scale, factor, length, heads, group,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    g_batch, g_head, g_row, dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of keys: dK and dV from the queries at the same distances ahead."""
    tiles = (length + ROWS - 1) // ROWS
    program = tl.program_id(0)
    first, index = program % tiles * ROWS, program // tiles
    kv_heads, last = heads // group, length - 1
    batch, head = index // kv_heads, index % kv_heads
    k += head_offset(batch, head, k_batch, k_head)
    v += head_offset(batch, head, v_batch, v_head)
    dk += head_offset(batch, head, dk_batch, dk_head)
    dv += head_offset(batch, head, dv_batch, dv_head)

    keys = load_rows(k, k_row, first, last, ROWS, D, WIDTH).to(tl.float32) * scale
    values = load_rows(v, v_row, first, last, ROWS, D, WIDTH).to(tl.float32)
    key_acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    value_acc = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    row = first + tl.arange(0, ROWS)
    reach = last - first
    if not CAUSAL:
        reach = tl.maximum(reach, tl.minimum(first + ROWS - 1, last))
    for member in range(group):
        query_head = head * group + member
        queries = q + head_offset(batch, query_head, q_batch, q_head)
        grads = grad + head_offset(batch, query_head, g_batch, g_head)
        numbers = (batch * heads + query_head).to(tl.int64) * length
        for step in tl.range(0, _steps(reach, CAUSAL), num_stages=STAGES):
            shift = first * 0 + _distance(step, CAUSAL)
            asks, there = _load_shifted(queries, q_row, first, shift, last, ROWS, D, WIDTH)
            asked, _ = _load_shifted(grads, g_row, first, shift, last, ROWS, D, WIDTH)
            lses = tl.load(lse + numbers + row + shift, mask=there, other=0.0)
            deltas = tl.load(delta + numbers + row + shift, mask=there, other=0.0)
            scores = tl.where(there, tl.sum(asks * keys, 1) - lses, float("-inf"))
            weights = tl.exp2(scores)
            value_acc += weights[:, None] * asked
            dscores = weights * (tl.sum(asked * values, 1) - deltas)
            key_acc += dscores[:, None] * asks
    store_rows(dk, dk_row, first, last, key_acc * factor, D)
    store_rows(dv, dv_row, first, last, value_acc, D)
