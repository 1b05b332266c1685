"""Combiner-Logsparse backward: gradients of the queries, as the forward goes."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_backward import query_step
from patterns.kernels.logsparse_forward import (
    direct_visible,
    load_regions,
    outer_regions,
    sink_visible,
    window_range,
)
from patterns.kernels.logsparse_tree import (
    COUNTS,
    LOG2E,
    MEAN_SIZE,
    inner_summaries,
    inner_visible,
    load_places,
    reversed_bits,
    side_base,
    store_places,
)


@triton.jit
def run_gradient(
    dq,
    queries,
    grads,
    norm,
    product,
    bound,  # of each query, as an offset in the run
    run_queries,
    keys,
    values,
    region_key,
    region_value,
    region_bias,
    lst,
    start,
    units,
    opens,
    closes,
    scale,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    KIND: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add what the regions, inside and before a run, give to the queries bound in it."""
    if INNER:
        key, value, bias, alive, _, _, _, _, _ = inner_summaries(
            run_queries, keys, values, start, opens, closes, scale,
            BLOCK, T, WIDTH, KIND, SINKS, PRECISION,
        )  # fmt: skip
        visible = inner_visible(bound, alive, BLOCK, T)
        dq = query_step(
            dq, queries, grads, key, value, bias, norm, product, visible, scale,
            True, KIND >= MEAN_SIZE, PRECISION,
        )  # fmt: skip
    if OUTER:
        region, some = outer_regions(start, units, opens, closes, UNIT, LEVELS, SINKS)
        far_key, far_value, far_bias = load_regions(
            region_key, region_value, region_bias, lst, units, region, some,
            DIM, WIDTH, KIND >= MEAN_SIZE,
        )  # fmt: skip
        reads = some[None, :] & ((bound >= 0) & (bound < T))[:, None]
        dq = query_step(
            dq, queries, grads, far_key, far_value, far_bias, norm, product, reads, scale,
            True, KIND >= MEAN_SIZE, PRECISION,
        )  # fmt: skip
    return dq


@triton.jit(do_not_specialize=COUNTS)
def query_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    region_key,
    region_value,
    region_bias,
    dq_pooled,  # [B * H, L, D] float32: what the regions give to the queries pooled in them
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
    lag,
    front,
    sink,
    scale,
    heads,
    lines,
    units,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    KIND: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    OWN: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of queries and head."""
    line = tl.program_id(0) % lines
    first = tl.program_id(0) // lines * T - front
    q = side_base(q, line, heads, q_batch, q_head, 1)
    k = side_base(k, line, heads, k_batch, k_head, GROUP)
    v = side_base(v, line, heads, v_batch, v_head, GROUP)
    grad = side_base(grad, line, heads, g_batch, g_head, 1)
    order = reversed_bits(T)
    row = first + order
    known = (row >= 0) & (row < length)
    base = line.to(tl.int64) * length
    queries = load_places(q, first, order, length, q_row, DIM, WIDTH)
    keys = load_places(k, first, order, length, k_row, DIM, WIDTH)
    values = load_places(v, first, order, length, v_row, DIM, WIDTH)
    grads = load_places(grad, first, order, length, g_row, DIM, WIDTH)
    # A row that does not exist has weight exp2(-inf) = 0.
    norm = tl.load(lse + base + row, mask=known, other=float("inf"))
    product = tl.load(delta + base + row, mask=known, other=0.0)

    dq = tl.zeros([T, WIDTH], tl.float32)
    own = direct_visible(row[:, None], row[None, :], length, lag, BLOCK, CAUSAL)
    dq = query_step(
        dq, queries, grads, keys, values, 0.0, norm, product, own, scale, True, False, PRECISION
    )
    if WINDOW:
        before, after = window_range(first, length, lag, BLOCK, T, CAUSAL)
        for step in range(before + after):
            tile = first + tl.where(step < before, step - before, step - before + 1) * T
            token = (tile + order)[None, :]
            near = direct_visible(row[:, None], token, length, lag, BLOCK, CAUSAL)
            near_keys = load_places(k, tile, order, length, k_row, DIM, WIDTH)
            near_values = load_places(v, tile, order, length, v_row, DIM, WIDTH)
            dq = query_step(
                dq, queries, grads, near_keys, near_values, 0.0, norm, product, near, scale,
                True, False, PRECISION,
            )  # fmt: skip
    if SINKS:
        for sunk in range(0, tl.minimum(sink, length), 16):
            few = tl.arange(0, 16)
            sunken = (sunk + few)[None, :]
            far = sink_visible(row[:, None], sunken, length, lag, sink, BLOCK, CAUSAL)
            far_keys = load_places(k, sunk, few, length, k_row, DIM, WIDTH)
            far_values = load_places(v, sunk, few, length, v_row, DIM, WIDTH)
            dq = query_step(
                dq, queries, grads, far_keys, far_values, 0.0, norm, product, far, scale,
                True, False, PRECISION,
            )  # fmt: skip

    lst = line.to(tl.int64)
    run = first - lag
    if run >= 0:
        run_queries, run_keys, run_values = queries, keys, values
        if INNER and not OWN:
            run_queries = load_places(q, run, order, length, q_row, DIM, WIDTH)
            run_keys = load_places(k, run, order, length, k_row, DIM, WIDTH)
            run_values = load_places(v, run, order, length, v_row, DIM, WIDTH)
        bound = order
        if BLOCK < T:
            bound = bound & (0 - BLOCK)
        dq = run_gradient(
            dq, queries, grads, norm, product, bound, run_queries, run_keys, run_values,
            region_key, region_value, region_bias, lst, run, units, sink, length, scale,
            BLOCK, UNIT, T, DIM, WIDTH, LEVELS, KIND, INNER, OUTER, SINKS, PRECISION,
        )  # fmt: skip
    if not CAUSAL:
        end_q = q + tl.cast(length - 1, tl.int64) * q_row
        end_k = k + tl.cast(length - 1, tl.int64) * k_row
        end_v = v + tl.cast(length - 1, tl.int64) * v_row
        opening = tl.maximum(length - first - T - lag, 0) // T * T
        for ahead in range(opening, length - first - lag, T):
            ahead_queries, ahead_keys, ahead_values = queries, keys, values
            if INNER:
                ahead_queries = load_places(end_q, ahead, order, length, 0 - q_row, DIM, WIDTH)
                ahead_keys = load_places(end_k, ahead, order, length, 0 - k_row, DIM, WIDTH)
                ahead_values = load_places(end_v, ahead, order, length, 0 - v_row, DIM, WIDTH)
            offset = length - 1 - row - lag - ahead
            if BLOCK < T:
                offset = offset & (0 - BLOCK)
            dq = run_gradient(
                dq, queries, grads, norm, product, offset, ahead_queries, ahead_keys, ahead_values,
                region_key, region_value, region_bias, lst + lines, ahead, units,
                0, length - sink, scale,
                BLOCK, UNIT, T, DIM, WIDTH, LEVELS, KIND, INNER, OUTER, SINKS, PRECISION,
            )  # fmt: skip

    dq = dq * (scale / LOG2E)
    dq += load_places(dq_pooled + base * DIM, first, order, length, DIM, DIM, WIDTH)
    store_places(dq_out + base * DIM, dq, first, order, length, DIM, DIM, WIDTH)
