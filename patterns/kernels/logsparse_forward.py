"""Combiner-Logsparse forward: one online softmax over what a tile of queries sees.

A query at place p has its bound at p - lag, rounded down to whole leaves: before it lie regions,
from it on tokens. A run is T places with T | start: queries with their bound in a run read regions
inside it, which are told again from the run's tokens, and one longer region of each level, or
none, which they all share (`patterns.kernels.logsparse_regions` has made those).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.logsparse_tree import (
    COUNTS,
    MEAN_SIZE,
    inner_summaries,
    inner_visible,
    load_places,
    members,
    reversed_bits,
    side_base,
    store_places,
)
from patterns.kernels.tiles import softmax_step


@triton.jit
def outer_regions(
    start, units, opens, closes, UNIT: tl.constexpr, LEVELS: tl.constexpr, SINKS: tl.constexpr
):
    """The region of each level that the queries of a run share, and whether there is one."""
    level = tl.arange(0, LEVELS)
    whole = (start // UNIT) >> level
    region = (whole << level) - 1
    size = tl.full([LEVELS], 1, tl.int32) << tl.minimum(level, 30)
    end = (region + 1) * UNIT
    alive = ((whole & 1) == 1) & (region < units)
    if SINKS:
        alive = alive & (members(end - size * UNIT, end, opens, closes) > 0)
    return region, alive


@triton.jit
def load_regions(
    region_key,
    region_value,
    region_bias,
    lst,
    units,
    region,
    alive,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BIASED: tl.constexpr,
):
    """Keys and values [LEVELS, WIDTH] and biases [LEVELS] of these regions, zeros for no region."""
    column = tl.arange(0, WIDTH)
    at = lst * units + region
    target = at[:, None] * DIM + column[None, :]
    some = alive[:, None] & (column < DIM)[None, :]
    keys = tl.load(region_key + target, mask=some, other=0.0)
    values = tl.load(region_value + target, mask=some, other=0.0)
    bias = tl.zeros([region.shape[0]], tl.float32)
    if BIASED:
        bias = tl.load(region_bias + at, mask=alive, other=0.0)
    return keys, values, bias


@triton.jit
def direct_visible(row, token, length, lag, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    """Which tokens the rows see directly, wherever the sinks are; [M, 1] and [1, N], or turned."""
    visible = (token <= row) & (token >= tl.maximum((row - lag) & (0 - BLOCK), 0))
    if not CAUSAL:
        last = length - 1 - tl.maximum((length - 1 - row - lag) & (0 - BLOCK), 0)
        visible = visible | ((token > row) & (token <= last))
    return visible & (token >= 0) & (token < length)


@triton.jit
def sink_visible(row, token, length, lag, sink, BLOCK: tl.constexpr, CAUSAL: tl.constexpr):
    """Which sinks the rows see beyond what `direct_visible` tells."""
    visible = token < tl.maximum((row - lag) & (0 - BLOCK), 0)
    if not CAUSAL:
        last = length - 1 - tl.maximum((length - 1 - row - lag) & (0 - BLOCK), 0)
        visible = visible | (token > last)
    return visible & (token < sink) & (token < length)


@triton.jit
def window_range(first, length, lag, BLOCK: tl.constexpr, T: tl.constexpr, CAUSAL: tl.constexpr):
    """How many tiles of tokens before, and after, the own one a tile of queries sees directly."""
    low = tl.maximum((first - lag) & (0 - BLOCK), 0)
    before = tl.maximum(first - low + T - 1, 0) // T
    after = before * 0
    if not CAUSAL:
        high = length - 1 - tl.maximum((length - first - T - lag) & (0 - BLOCK), 0)
        after = tl.maximum(high - first, 0) // T
    return before, after


@triton.jit
def run_step(
    accumulator,
    total,
    peak,
    queries,
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
    """Add the regions, inside and before a run, to the softmax of the queries bound in it."""
    # Both kinds in one step: the accumulator is rescaled once.
    risen = peak
    if INNER:
        key, value, bias, alive, _, _, _, _, _ = inner_summaries(
            run_queries, keys, values, start, opens, closes, scale,
            BLOCK, T, WIDTH, KIND, SINKS, PRECISION,
        )  # fmt: skip
        inner = tl.dot(queries, tl.trans(key), input_precision=PRECISION) * scale
        if KIND >= MEAN_SIZE:
            inner += bias[None, :]
        inner = tl.where(inner_visible(bound, alive, BLOCK, T), inner, float("-inf"))
        risen = tl.maximum(risen, tl.max(inner, 1))
    if OUTER:
        region, some = outer_regions(start, units, opens, closes, UNIT, LEVELS, SINKS)
        far_key, far_value, far_bias = load_regions(
            region_key, region_value, region_bias, lst, units, region, some,
            DIM, WIDTH, KIND >= MEAN_SIZE,
        )  # fmt: skip
        outer = tl.dot(queries, tl.trans(far_key), input_precision=PRECISION) * scale
        if KIND >= MEAN_SIZE:
            outer += far_bias[None, :]
        reads = some[None, :] & ((bound >= 0) & (bound < T))[:, None]
        outer = tl.where(reads, outer, float("-inf"))
        risen = tl.maximum(risen, tl.max(outer, 1))
    shrink = tl.exp2(peak - risen)
    total = total * shrink
    accumulator = accumulator * shrink[:, None]
    if INNER:
        inner = tl.exp2(inner - risen[:, None])
        total += tl.sum(inner, 1)
        accumulator = tl.dot(inner.to(value.dtype), value, accumulator, input_precision=PRECISION)
    if OUTER:
        outer = tl.exp2(outer - risen[:, None])
        total += tl.sum(outer, 1)
        outer = outer.to(far_value.dtype)
        accumulator = tl.dot(outer, far_value, accumulator, input_precision=PRECISION)
    return accumulator, total, risen


@triton.jit(do_not_specialize=COUNTS)
def attend_logsparse(
    q,
    k,
    v,
    region_key,
    region_value,
    region_bias,
    out,  # [B * H, L, D]
    lse,  # [B * H, L] in units of log 2
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
    WINDOW: tl.constexpr,  # queries see tokens of other tiles directly
    OWN: tl.constexpr,  # no lag: a tile of queries is its own run
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
    order = reversed_bits(T)
    row = first + order
    queries = load_places(q, first, order, length, q_row, DIM, WIDTH)
    keys = load_places(k, first, order, length, k_row, DIM, WIDTH)
    values = load_places(v, first, order, length, v_row, DIM, WIDTH)

    # The own tile comes first: there every query sees a key, so that its peak is finite.
    own = direct_visible(row[:, None], row[None, :], length, lag, BLOCK, CAUSAL)
    own = own | (row[:, None] == row[None, :])
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    scores = tl.where(own, scores, float("-inf"))
    peak = tl.max(scores, 1) * scale
    weights = tl.exp2(scores * scale - peak[:, None])
    total = tl.sum(weights, 1)
    accumulator = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    if WINDOW:
        before, after = window_range(first, length, lag, BLOCK, T, CAUSAL)
        for step in range(before + after):
            tile = first + tl.where(step < before, step - before, step - before + 1) * T
            token = (tile + order)[None, :]
            near = direct_visible(row[:, None], token, length, lag, BLOCK, CAUSAL)
            near_keys = load_places(k, tile, order, length, k_row, DIM, WIDTH)
            near_values = load_places(v, tile, order, length, v_row, DIM, WIDTH)
            accumulator, total, peak = softmax_step(
                accumulator, total, peak, queries, near_keys, near_values, 0.0, near, scale,
                True, False, PRECISION,
            )  # fmt: skip
    if SINKS:
        for sunk in range(0, tl.minimum(sink, length), 16):
            few = tl.arange(0, 16)
            sunken = (sunk + few)[None, :]
            far = sink_visible(row[:, None], sunken, length, lag, sink, BLOCK, CAUSAL)
            far_keys = load_places(k, sunk, few, length, k_row, DIM, WIDTH)
            far_values = load_places(v, sunk, few, length, v_row, DIM, WIDTH)
            accumulator, total, peak = softmax_step(
                accumulator, total, peak, queries, far_keys, far_values, 0.0, far, scale,
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
        accumulator, total, peak = run_step(
            accumulator, total, peak, queries, bound, run_queries, run_keys, run_values,
            region_key, region_value, region_bias, lst, run, units, sink, length, scale,
            BLOCK, UNIT, T, DIM, WIDTH, LEVELS, KIND, INNER, OUTER, SINKS, PRECISION,
        )  # fmt: skip
    if not CAUSAL:
        # The runs of the other side are counted from the end: a tile of queries may touch two.
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
            accumulator, total, peak = run_step(
                accumulator, total, peak, queries, offset, ahead_queries, ahead_keys, ahead_values,
                region_key, region_value, region_bias, lst + lines, ahead, units,
                0, length - sink, scale,
                BLOCK, UNIT, T, DIM, WIDTH, LEVELS, KIND, INNER, OUTER, SINKS, PRECISION,
            )  # fmt: skip

    base = line.to(tl.int64) * length
    store_places(
        out + base * DIM,
        accumulator * (1.0 / total)[:, None],
        first,
        order,
        length,
        DIM,
        DIM,
        WIDTH,
    )
    tl.store(lse + base + row, peak + tl.log2(total), mask=(row >= 0) & (row < length))
