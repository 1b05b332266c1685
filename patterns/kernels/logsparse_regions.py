"""Combiner-Logsparse: the regions of whole units, which may be as long as the sequence.

A unit is a run of tokens no region of this kind divides; region u is the one that ends with unit
u (see `patterns.kernels.logsparse_tree`). Units are gone through in chunks: what lies in a chunk
is finished there, longer regions are put together from chunks. Letters: S lists, one for each
side (back, ahead) and query head; U units, C chunks of one side; D head width.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from patterns.kernels.logsparse_maxima import largest
from patterns.kernels.logsparse_tree import (
    COUNTS,
    MAX,
    MEAN_SIZE,
    VARIATIONAL,
    fenwick,
    fenwick_first,
    load_places,
    members,
    reversed_bits,
    side_base,
)


@triton.jit
def powers(LEVELS: tl.constexpr):
    """How many units a region of each level has."""
    return tl.full([LEVELS], 1, tl.int32) << tl.minimum(tl.arange(0, LEVELS), 30)


@triton.jit(do_not_specialize=COUNTS)
def pool_queries(
    q,
    pooled,  # [S, U, D] float32: the query of each region
    first_query,  # [S, U, D] int32: the token it is from; INDEXED
    sums,  # [S, C, D] float32: the largest of, or the sum over each chunk
    first_sum,  # [S, C, D] int32
    q_batch,
    q_head,
    q_row,
    length,
    sink,
    heads,
    lines,
    units,
    chunks,
    chunk_units,
    UNIT: tl.constexpr,
    TILE: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    LARGEST: tl.constexpr,
    INDEXED: tl.constexpr,
    SINKS: tl.constexpr = True,
    PACKED: tl.constexpr = False,
    EARLY: tl.constexpr = False,  # the launch after this may begin while this ends
):
    """One program a chunk, side and query head: regions up to a chunk."""
    if EARLY:
        gdc_launch_dependents()
    PARTS: tl.constexpr = UNIT // TILE
    line = tl.program_id(0) % lines
    side = tl.program_id(0) // lines % SIDES
    chunk = tl.program_id(0) // lines // SIDES
    base = side_base(q, line, heads, q_batch, q_head, 1)
    opens, closes, step = sink, length, q_row
    if SIDES == 2:
        opens = tl.where(side == 1, 0, sink)
        closes = tl.where(side == 1, length - sink, length)
        step = tl.where(side == 1, 0 - q_row, q_row)
        base += tl.where(side == 1, length - 1, 0).to(tl.int64) * q_row
    lst = (side * lines + line).to(tl.int64)
    size = powers(LEVELS)
    column = tl.arange(0, WIDTH)
    row = tl.arange(0, TILE)
    state = tl.zeros([LEVELS, WIDTH], tl.float32)
    token_state = tl.zeros([LEVELS, WIDTH], tl.int32)
    for part in range(chunk_units * PARTS):
        unit = chunk * chunk_units + part // PARTS
        first = unit * UNIT + part % PARTS * TILE
        x = load_places(base, first, row, length, step, DIM, WIDTH)
        place = first + row
        member = ((place >= opens) & (place < closes))[:, None]
        opening = (part % PARTS == 0) & ((unit & (size - 1)) == 0)
        if LARGEST:
            if SINKS:
                x = tl.where(member, x, float("-inf")).to(x.dtype)
            found = largest(x, TILE, WIDTH, PACKED)
            if INDEXED:
                token = tl.where(side == 1, length - 1 - place, place)
                same = tl.where(x.to(tl.float32) == found[None, :], token[:, None], 2147483647)
                at = tl.min(same, 0)[None, :]
                better = (found[None, :] > state) | ((found[None, :] == state) & (at < token_state))
                token_state = tl.where(opening[:, None] | better, at, token_state)
            longer = tl.maximum(state, found[None, :])
        else:
            x = x.to(tl.float32)
            if SINKS:
                x = tl.where(member, x, 0.0)
            found = tl.sum(x, 0)
            longer = state + found[None, :]
        state = tl.where(opening[:, None], found[None, :], longer)
        closing = (part % PARTS == PARTS - 1) & (((unit + 1) & (2 * size - 1)) == size)
        closing = closing & (size <= chunk_units) & (unit < units)
        end = (unit + 1) * UNIT
        count = members(end - size * UNIT, end, opens, closes)
        if LARGEST:  # a region that the sinks have emptied is never read; it must only be finite
            query = tl.where((count > 0)[:, None], state, 0.0)
        else:
            query = state / tl.maximum(count, 1).to(tl.float32)[:, None]
        target = (lst * units + unit) * DIM + column[None, :]
        target = target + tl.zeros([LEVELS, 1], tl.int32)
        writes = closing[:, None] & (column < DIM)[None, :]
        tl.store(pooled + target, query, mask=writes)
        if INDEXED:
            tl.store(first_query + target, token_state, mask=writes)
    whole = (size == chunk_units)[:, None] & (column < DIM)[None, :]
    target = (lst * chunks + chunk) * DIM + column[None, :]
    target = target + tl.zeros([LEVELS, 1], tl.int32)
    tl.store(sums + target, state, mask=whole)
    if INDEXED:
        tl.store(first_sum + target, token_state, mask=whole)


@triton.jit(do_not_specialize=COUNTS)
def pool_chunks(
    sums,
    first_sum,
    pooled,
    first_query,
    length,
    sink,
    lines,
    units,
    chunks,
    chunk_units,
    UNIT: tl.constexpr,
    DIM: tl.constexpr,
    SLICE: tl.constexpr,
    CHUNKS: tl.constexpr,  # a power of two, no less than `chunks`
    SIDES: tl.constexpr,
    LARGEST: tl.constexpr,
    INDEXED: tl.constexpr,
    EARLY: tl.constexpr = False,  # this may begin while the launch before it ends
):
    """One program a slice of columns, side and query head: the queries of longer regions."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    SLICES: tl.constexpr = (DIM + SLICE - 1) // SLICE
    lst = tl.program_id(0) // SLICES
    opens, closes = sink, length
    if SIDES == 2:
        opens = tl.where(lst >= lines, 0, sink)
        closes = tl.where(lst >= lines, length - sink, length)
    column = tl.program_id(0) % SLICES * SLICE + tl.arange(0, SLICE)
    chunk = reversed_bits(CHUNKS)
    inside = (chunk < chunks)[:, None] & (column < DIM)[None, :]
    at = (lst.to(tl.int64) * chunks + chunk)[:, None] * DIM + column[None, :]
    x = tl.load(sums + at, mask=inside, other=0.0)
    end = chunk + 1
    size = end & (0 - end)
    unit = end * chunk_units - 1
    writes = ((size > 1) & (unit < units))[:, None] & inside
    target = (lst.to(tl.int64) * units + unit)[:, None] * DIM + column[None, :]
    count = members((unit + 1 - size * chunk_units) * UNIT, (unit + 1) * UNIT, opens, closes)
    if INDEXED:
        token = tl.load(first_sum + at, mask=inside, other=0)
        found, token = fenwick_first(x, token, CHUNKS, SLICE)
        tl.store(first_query + target, token, mask=writes)
    else:
        found = fenwick(x, CHUNKS, SLICE, LARGEST)
    if LARGEST:
        found = tl.where((count > 0)[:, None], found, 0.0)
    else:
        found = found / tl.maximum(count, 1).to(tl.float32)[:, None]
    tl.store(pooled + target, found, mask=writes)


@triton.jit(do_not_specialize=COUNTS)
def weigh_regions(
    k,
    v,
    pooled,
    region_key,  # [S, U, D]
    region_value,
    region_bias,  # [S, U] in units of log 2; MEAN_SIZE and VARIATIONAL
    local_lse,  # [S, U] in units of log 2
    part_key,  # [S, C, LEVELS, D] float32: what a chunk gives to the longer regions it is in
    part_value,
    part_peak,  # [S, C, LEVELS]
    part_total,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    length,
    sink,
    scale,  # in units of log 2
    heads,
    lines,
    units,
    chunks,
    chunk_units,
    UNIT: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    SINKS: tl.constexpr = True,
    PACKED: tl.constexpr = False,
    EARLY: tl.constexpr = False,
):
    """One program a chunk, side and query head: the local softmax of every region it touches."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    PARTS: tl.constexpr = UNIT // TILE
    line = tl.program_id(0) % lines
    side = tl.program_id(0) // lines % SIDES
    chunk = tl.program_id(0) // lines // SIDES
    k = side_base(k, line, heads, k_batch, k_head, GROUP)
    v = side_base(v, line, heads, v_batch, v_head, GROUP)
    opens, closes, k_step, v_step = sink, length, k_row, v_row
    if SIDES == 2:
        opens = tl.where(side == 1, 0, sink)
        closes = tl.where(side == 1, length - sink, length)
        k_step = tl.where(side == 1, 0 - k_row, k_row)
        v_step = tl.where(side == 1, 0 - v_row, v_row)
        last = tl.where(side == 1, length - 1, 0).to(tl.int64)
        k += last * k_row
        v += last * v_row
    lst = (side * lines + line).to(tl.int64)
    level = tl.arange(0, LEVELS)
    size = powers(LEVELS)
    column = tl.arange(0, WIDTH)
    inside = (column < DIM)[None, :]
    row = tl.arange(0, TILE)
    peak = tl.full([LEVELS], float("-inf"), tl.float32)
    total = tl.zeros([LEVELS], tl.float32)
    value = tl.zeros([LEVELS, WIDTH], tl.float32)
    key = tl.full([LEVELS, WIDTH], float("-inf") if KIND == MAX else 0.0, tl.float32)
    unit = chunk * chunk_units
    for part in range(chunk_units * PARTS):
        unit = chunk * chunk_units + part // PARTS
        first = unit * UNIT + part % PARTS * TILE
        region = unit | (size - 1)
        alive = ((unit & size) == 0) & (region < units)
        opening = (part % PARTS == 0) & ((unit & (size - 1)) == 0)
        keys = load_places(k, first, row, length, k_step, DIM, WIDTH)
        values = load_places(v, first, row, length, v_step, DIM, WIDTH)
        target = (lst * units + region)[:, None] * DIM + column[None, :]
        asked = tl.load(pooled + target, mask=alive[:, None] & inside, other=0.0).to(keys.dtype)
        place = first + row
        member = (place >= opens) & (place < closes)
        scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION) * scale
        if SINKS:
            scores = tl.where(alive[:, None] & member[None, :], scores, float("-inf"))
        else:
            scores = tl.where(alive[:, None], scores, float("-inf"))
        peak = tl.where(opening, float("-inf"), peak)
        risen = tl.maximum(peak, tl.max(scores, 1))
        floor = tl.where(risen == float("-inf"), 0.0, risen)  # no member so far
        weights = tl.exp2(scores - floor[:, None])
        shrink = tl.exp2(peak - floor)
        peak = risen
        total = total * shrink + tl.sum(weights, 1)
        value = value * shrink[:, None]
        value = tl.dot(weights.to(values.dtype), values, value, input_precision=PRECISION)
        if KIND == VARIATIONAL:
            key = key * shrink[:, None]
            key = tl.dot(weights.to(keys.dtype), keys, key, input_precision=PRECISION)
        elif KIND == MAX:
            counted = keys
            if SINKS:
                counted = tl.where(member[:, None], keys, float("-inf")).to(keys.dtype)
            found = largest(counted, TILE, WIDTH, PACKED)
            key = tl.where(opening[:, None], found[None, :], tl.maximum(key, found[None, :]))
        else:
            counted = keys.to(tl.float32)
            if SINKS:
                counted = tl.where(member[:, None], counted, 0.0)
            found = tl.sum(counted, 0)
            key = tl.where(opening[:, None], found[None, :], key + found[None, :])

        closing = alive & (region == unit) & (size <= chunk_units) & (part % PARTS == PARTS - 1)
        end = (unit + 1) * UNIT
        count = members(end - size * UNIT, end, opens, closes)
        full = tl.where(total > 0.0, total, 1.0)  # nothing yet, or nothing left by the sinks
        lse = tl.where(total > 0.0, peak, 0.0) + tl.log2(full)
        if KIND == VARIATIONAL:
            stands = key / full[:, None]
        elif KIND == MAX:
            stands = tl.where((count > 0)[:, None], key, 0.0)
        else:
            stands = key / tl.maximum(count, 1).to(tl.float32)[:, None]
        writes = closing[:, None] & inside
        stands = stands.to(region_key.dtype.element_ty)
        tl.store(region_key + target, stands, mask=writes)
        mean = (value / full[:, None]).to(region_value.dtype.element_ty)
        tl.store(region_value + target, mean, mask=writes)
        at = lst * units + region
        tl.store(local_lse + at, lse, mask=closing)
        if KIND == VARIATIONAL:
            centre = scale * tl.sum(key / full[:, None] * asked.to(tl.float32), 1)
            tl.store(region_bias + at, lse - centre, mask=closing)
        if KIND == MEAN_SIZE:
            tl.store(region_bias + at, tl.log2(tl.maximum(count, 1).to(tl.float32)), mask=closing)
    region = unit | (size - 1)
    longer = ((unit & size) == 0) & (region < units) & (size > chunk_units)
    at = (lst * chunks + chunk) * LEVELS + level
    target = at[:, None] * DIM + column[None, :]
    tl.store(part_key + target, key, mask=longer[:, None] & inside)
    tl.store(part_value + target, value, mask=longer[:, None] & inside)
    tl.store(part_peak + at, peak, mask=longer)
    tl.store(part_total + at, total, mask=longer)


@triton.jit(do_not_specialize=COUNTS)
def merge_regions(
    pooled,
    region_key,
    region_value,
    region_bias,
    local_lse,
    part_key,
    part_value,
    part_peak,
    part_total,
    length,
    sink,
    scale,
    lines,
    units,
    chunks,
    chunk_units,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    KIND: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """One program a region longer than a chunk, side and query head: its chunks, put together."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    lists = lines * SIDES
    lst = (tl.program_id(0) % lists).to(tl.int64)
    last = tl.program_id(0) // lists * 2 + 1
    opens, closes = sink, length
    if SIDES == 2:
        opens = tl.where(lst >= lines, 0, sink)
        closes = tl.where(lst >= lines, length - sink, length)
    width = (last + 1) & (0 - (last + 1))  # in chunks
    unit = (last + 1) * chunk_units - 1
    if unit >= units:
        return
    level = tl.sum(tl.where(powers(LEVELS) == width * chunk_units, tl.arange(0, LEVELS), 0), 0)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    peak = float("-inf")
    total = 0.0
    value = tl.zeros([WIDTH], tl.float32)
    key = tl.full([WIDTH], float("-inf") if KIND == MAX else 0.0, tl.float32)
    for start in range(last + 1 - width, last + 1, ROWS):
        chunk = start + tl.arange(0, ROWS)
        known = chunk <= last
        at = (lst * chunks + chunk) * LEVELS + level
        target = at[:, None] * DIM + column[None, :]
        some = known[:, None] & inside[None, :]
        peaks = tl.load(part_peak + at, mask=known, other=float("-inf"))
        totals = tl.load(part_total + at, mask=known, other=0.0)
        values = tl.load(part_value + target, mask=some, other=0.0)
        risen = tl.maximum(peak, tl.max(peaks, 0))
        floor = tl.where(risen == float("-inf"), 0.0, risen)
        share = tl.exp2(peaks - floor)
        shrink = tl.exp2(peak - floor)
        peak = risen
        total = total * shrink + tl.sum(totals * share, 0)
        value = value * shrink + tl.sum(values * share[:, None], 0)
        if KIND == MAX:
            keys = tl.load(part_key + target, mask=some, other=float("-inf"))
            key = tl.maximum(key, tl.max(keys, 0))
        else:
            keys = tl.load(part_key + target, mask=some, other=0.0)
            if KIND == VARIATIONAL:
                key = key * shrink + tl.sum(keys * share[:, None], 0)
            else:
                key += tl.sum(keys, 0)
    end = (unit + 1) * UNIT
    count = members(end - width * chunk_units * UNIT, end, opens, closes)
    full = tl.where(total > 0.0, total, 1.0)
    lse = tl.where(total > 0.0, peak, 0.0) + tl.log2(full)
    at = lst * units + unit
    target = at * DIM + column
    if KIND == VARIATIONAL:
        key = key / full
        asked = tl.load(pooled + target, mask=inside, other=0.0)
        asked = asked.to(region_key.dtype.element_ty).to(tl.float32)
        tl.store(region_bias + at, lse - scale * tl.sum(key * asked, 0))
    elif KIND == MAX:
        key = tl.where(count > 0, key, 0.0)
    else:
        key = key / tl.maximum(count, 1).to(tl.float32)
    if KIND == MEAN_SIZE:
        tl.store(region_bias + at, tl.log2(tl.maximum(count, 1).to(tl.float32)))
    tl.store(local_lse + at, lse)
    tl.store(region_key + target, key.to(region_key.dtype.element_ty), mask=inside)
    tl.store(region_value + target, (value / full).to(region_value.dtype.element_ty), mask=inside)
