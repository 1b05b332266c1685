"""Combiner-Logsparse forward where nothing but the own tile is read directly: causal, no near.

All that a query then sees is at hand at once: its leaf, the regions inside its tile, and one longer
region of each level. So it is in one softmax, whose maximum is known before anything is summed.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from patterns.kernels.logsparse_forward import load_regions, outer_regions
from patterns.kernels.logsparse_maxima import pool_loaded
from patterns.kernels.logsparse_tree import (
    COUNTS,
    MAX,
    MEAN_SIZE,
    VARIATIONAL,
    load_places,
    side_base,
    store_places,
)


@triton.jit
def load_own(
    base, first, length, stride, T: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """A tile [T, WIDTH], in the order of its places."""
    place, column = tl.arange(0, T), tl.arange(0, WIDTH)
    if WHOLE:
        start = base + tl.cast(first, tl.int64) * stride
        return tl.load(start + place[:, None] * stride + column[None, :])
    return load_places(base, first, place, length, stride, DIM, WIDTH)


@triton.jit
def own_ends(BLOCK: tl.constexpr, T: tl.constexpr):
    """Where the regions inside a tile end, as offsets, and how long they are; 0 where none is."""
    end = 2 * tl.arange(0, T // 2) + 2
    size = end & (0 - end)
    return end, tl.where((size >= BLOCK) & (size < T), size, 0)


@triton.jit
def own_summaries(
    q,
    k,
    queries,
    keys,
    values,
    first,
    length,
    q_row,
    k_row,
    scale,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Keys, values [T / 2, WIDTH] and biases of the regions inside a tile."""
    place = tl.arange(0, T)
    end, size = own_ends(BLOCK, T)
    inside = (place[None, :] < end[:, None]) & (place[None, :] >= (end - size)[:, None])
    asked = pool_loaded(q, first, length, q_row, T, DIM, WIDTH, KIND == MAX, PACKED, WHOLE)
    scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION)
    within = tl.where(inside, scores, float("-inf"))
    peak = tl.where(size > 0, tl.max(within, 1), 0.0) * scale
    weights = tl.exp2(within * scale - peak[:, None])
    total = tl.where(size > 0, tl.sum(weights, 1), 1.0)
    share = (1.0 / total)[:, None]
    if KIND == VARIATIONAL:  # its key by its query is the mean of the scores
        centre = scale * tl.sum(weights * scores, 1) / total
    weights = weights.to(values.dtype)
    value = (tl.dot(weights, values, input_precision=PRECISION) * share).to(values.dtype)
    bias = peak * 0
    if KIND == VARIATIONAL:
        key = tl.dot(weights, keys, input_precision=PRECISION) * share
        bias = peak + tl.log2(total) - centre
    else:
        key = pool_loaded(k, first, length, k_row, T, DIM, WIDTH, KIND == MAX, PACKED, WHOLE)
    if KIND == MEAN_SIZE:
        bias = tl.log2(tl.maximum(size, 1).to(tl.float32))
    return key.to(keys.dtype), value, bias


@triton.jit(do_not_specialize=COUNTS)
def attend_own(
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
    q_row: tl.constexpr,
    k_batch,
    k_head,
    k_row: tl.constexpr,
    v_batch,
    v_head,
    v_row: tl.constexpr,
    length,
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
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    PRECISION: tl.constexpr,
    PACKED: tl.constexpr,
    WHOLE: tl.constexpr,  # the length is one of tiles, and columns are as wide as heads
    EARLY: tl.constexpr = False,  # this may begin while the launch before it ends
):
    """One program a tile of queries and head."""
    line = tl.program_id(0) % lines
    first = tl.program_id(0) // lines * T
    q = side_base(q, line, heads, q_batch, q_head, 1)
    k = side_base(k, line, heads, k_batch, k_head, GROUP)
    v = side_base(v, line, heads, v_batch, v_head, GROUP)
    place = tl.arange(0, T)
    queries = load_own(q, first, length, q_row, T, DIM, WIDTH, WHOLE)
    keys = load_own(k, first, length, k_row, T, DIM, WIDTH, WHOLE)
    values = load_own(v, first, length, v_row, T, DIM, WIDTH, WHOLE)
    if EARLY:  # until the regions are there, and before the first store
        gdc_wait()
    if OUTER:
        region, some = outer_regions(first, units, 0, length, UNIT, LEVELS, False)
        far_key, far_value, far_bias = load_regions(
            region_key, region_value, region_bias, line.to(tl.int64), units, region, some,
            DIM, WIDTH, KIND >= MEAN_SIZE,
        )  # fmt: skip
    if INNER:
        key, value, bias = own_summaries(
            q, k, queries, keys, values, first, length, q_row, k_row, scale,
            BLOCK, T, DIM, WIDTH, KIND, PRECISION, PACKED, WHOLE,
        )  # fmt: skip

    own = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    row, token = place[:, None], place[None, :]
    own = tl.where((token <= row) & (token >= (row & (0 - BLOCK))), own, float("-inf"))
    peak = tl.max(own, 1) * scale  # finite: a query sees itself
    # A scale that is positive commutes with the maximum, and a product with an addition is one.
    if INNER:
        inner = tl.dot(queries, tl.trans(key), input_precision=PRECISION)
        if KIND >= MEAN_SIZE:
            inner += (bias * (1.0 / scale))[None, :]
        end, size = own_ends(BLOCK, T)
        reads = (place[:, None] & (0 - size)[None, :]) == end[None, :]
        inner = tl.where(reads, inner, float("-inf"))
        peak = tl.maximum(peak, tl.max(inner, 1) * scale)
    if OUTER:
        outer = tl.dot(queries, tl.trans(far_key), input_precision=PRECISION)
        shift = tl.where(some, far_bias * (1.0 / scale), float("-inf"))
        outer += shift[None, :]
        peak = tl.maximum(peak, tl.max(outer, 1) * scale)
    weights = tl.exp2(own * scale - peak[:, None])
    total = tl.sum(weights, 1)
    accumulator = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    if INNER:
        weights = tl.exp2(inner * scale - peak[:, None])
        total += tl.sum(weights, 1)
        weights = weights.to(value.dtype)
        accumulator = tl.dot(weights, value, accumulator, input_precision=PRECISION)
    if OUTER:
        weights = tl.exp2(outer * scale - peak[:, None])
        total += tl.sum(weights, 1)
        weights = weights.to(far_value.dtype)
        accumulator = tl.dot(weights, far_value, accumulator, input_precision=PRECISION)

    base = line.to(tl.int64) * length
    found = accumulator * (1.0 / total)[:, None]
    if WHOLE:
        at = out + (base + first) * DIM + place[:, None] * DIM + tl.arange(0, WIDTH)[None, :]
        tl.store(at, found.to(out.dtype.element_ty))
        tl.store(lse + base + first + place, peak + tl.log2(total))
    else:
        store_places(out + base * DIM, found, first, place, length, DIM, DIM, WIDTH)
        tl.store(lse + base + first + place, peak + tl.log2(total), mask=first + place < length)
