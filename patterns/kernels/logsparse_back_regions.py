"""Combiner-Logsparse backward: gradients of the regions of whole units.

`read_gradients` goes over the queries that read regions, `summary_gradients` over the tokens that
are in them; both go through chunks as `patterns.kernels.logsparse_regions` does, with the sums of
longer regions put together afterwards. Letters as there; R chunks of readers of one side.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.logsparse_regions import powers
from patterns.kernels.logsparse_tree import (
    COUNTS,
    LOG2E,
    MAX,
    VARIATIONAL,
    load_places,
    members,
    side_base,
)


@triton.jit
def middle_of(key, value, query, dkey, dvalue, dbias, scale, KIND: tl.constexpr):
    """The mean of the gradients of local weights, of regions [N, WIDTH]: [N]."""
    found = tl.sum(value.to(tl.float32) * dvalue, 1)
    if KIND == VARIATIONAL:
        key = key.to(tl.float32)
        found += tl.sum(key * dkey, 1) - dbias * tl.sum(key * query, 1) * (scale / LOG2E)
    return found


@triton.jit(do_not_specialize=COUNTS)
def read_gradients(
    q,
    grad,
    lse,
    delta,
    pooled,
    region_key,
    region_value,
    region_bias,
    grad_key,  # [S, U, D] float32
    grad_value,
    grad_bias,  # [S, U]
    middle,  # [S, U]: the mean of the gradient of the local scores
    part_key,  # [S, R, LEVELS, D] float32
    part_value,
    part_bias,  # [S, R, LEVELS]
    q_batch,
    q_head,
    q_row,
    g_batch,
    g_head,
    g_row,
    length,
    lag,
    sink,
    scale,
    heads,
    lines,
    units,
    chunks,  # of readers
    chunk_units,
    UNIT: tl.constexpr,
    TILE: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    KIND: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a chunk of queries, side and query head."""
    PARTS: tl.constexpr = UNIT // TILE
    line = tl.program_id(0) % lines
    side = tl.program_id(0) // lines % SIDES
    chunk = tl.program_id(0) // lines // SIDES
    q = side_base(q, line, heads, q_batch, q_head, 1)
    grad = side_base(grad, line, heads, g_batch, g_head, 1)
    lse += line.to(tl.int64) * length
    delta += line.to(tl.int64) * length
    opens, closes, q_step, g_step = sink, length, q_row, g_row
    if SIDES == 2:
        opens = tl.where(side == 1, 0, sink)
        closes = tl.where(side == 1, length - sink, length)
        q_step = tl.where(side == 1, 0 - q_row, q_row)
        g_step = tl.where(side == 1, 0 - g_row, g_row)
        last = tl.where(side == 1, length - 1, 0).to(tl.int64)
        q += last * q_row
        grad += last * g_row
    lst = (side * lines + line).to(tl.int64)
    level = tl.arange(0, LEVELS)
    size = powers(LEVELS)
    column = tl.arange(0, WIDTH)
    inside = (column < DIM)[None, :]
    row = tl.arange(0, TILE)
    dkey = tl.zeros([LEVELS, WIDTH], tl.float32)
    dvalue = tl.zeros([LEVELS, WIDTH], tl.float32)
    dbias = tl.zeros([LEVELS], tl.float32)
    unit = chunk * chunk_units
    for part in range(chunk_units * PARTS):
        unit = chunk * chunk_units + part // PARTS
        first = unit * UNIT + part % PARTS * TILE + lag
        region = (unit // size) * size - 1
        end = (region + 1) * UNIT
        alive = ((unit & size) != 0) & (region < units)
        alive = alive & (members(end - size * UNIT, end, opens, closes) > 0)
        opening = (part % PARTS == 0) & ((unit & (size - 1)) == 0)
        queries = load_places(q, first, row, length, q_step, DIM, WIDTH)
        grads = load_places(grad, first, row, length, g_step, DIM, WIDTH)
        place = first + row
        token = tl.where(side == 1, length - 1 - place, place)
        known = place < length
        norm = tl.load(lse + token, mask=known, other=float("inf"))
        product = tl.load(delta + token, mask=known, other=0.0)
        at = lst * units + region
        target = at[:, None] * DIM + column[None, :]
        some = alive[:, None] & inside
        keys = tl.load(region_key + target, mask=some, other=0.0)
        values = tl.load(region_value + target, mask=some, other=0.0)
        scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale
        if BIASED:
            scores += tl.load(region_bias + at, mask=alive, other=0.0)[:, None]
        weights = tl.where(alive[:, None], tl.exp2(scores - norm[None, :]), 0.0)
        dvalue = tl.where(opening[:, None], 0.0, dvalue)
        dvalue = tl.dot(weights.to(grads.dtype), grads, dvalue, input_precision=PRECISION)
        change = tl.dot(values, tl.trans(grads), input_precision=PRECISION)
        change = weights * (change - product[None, :])
        dkey = tl.where(opening[:, None], 0.0, dkey)
        dkey = tl.dot(change.to(queries.dtype), queries, dkey, input_precision=PRECISION)
        dbias = tl.where(opening, 0.0, dbias) + tl.sum(change, 1)

        # The readers of a region are as many units as it has, or up to the end of the sequence.
        closing = (((unit + 1) & (size - 1)) == 0) | (unit == units)
        closing = closing & alive & (size <= chunk_units) & (part % PARTS == PARTS - 1)
        writes = closing[:, None] & inside
        final = dkey * (scale / LOG2E)
        tl.store(grad_key + target, final, mask=writes)
        tl.store(grad_value + target, dvalue, mask=writes)
        asked = tl.zeros([LEVELS, WIDTH], tl.float32)
        if KIND == VARIATIONAL:
            asked = tl.load(pooled + target, mask=some, other=0.0)
            asked = asked.to(keys.dtype).to(tl.float32)
            tl.store(grad_bias + at, dbias, mask=closing)
        mean = middle_of(keys, values, asked, final, dvalue, dbias, scale, KIND)
        tl.store(middle + at, mean, mask=closing)
    longer = ((unit & size) != 0) & (size > chunk_units)
    at = (lst * chunks + chunk) * LEVELS + level
    target = at[:, None] * DIM + column[None, :]
    tl.store(part_key + target, dkey, mask=longer[:, None] & inside)
    tl.store(part_value + target, dvalue, mask=longer[:, None] & inside)
    tl.store(part_bias + at, dbias, mask=longer)


@triton.jit(do_not_specialize=COUNTS)
def sum_reads(
    pooled,
    region_key,
    region_value,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    part_key,
    part_value,
    part_bias,
    length,
    sink,
    scale,
    lines,
    units,
    chunks,  # of readers
    chunk_units,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    KIND: tl.constexpr,
):
    """One program a region longer than a chunk, side and query head."""
    lists = lines * SIDES
    lst = (tl.program_id(0) % lists).to(tl.int64)
    last = tl.program_id(0) // lists * 2 + 1  # the chunk it ends with
    width = (last + 1) & (0 - (last + 1))
    unit = (last + 1) * chunk_units - 1
    if unit >= units:
        return
    level = tl.sum(tl.where(powers(LEVELS) == width * chunk_units, tl.arange(0, LEVELS), 0), 0)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    dkey = tl.zeros([WIDTH], tl.float32)
    dvalue = tl.zeros([WIDTH], tl.float32)
    dbias = 0.0
    stop = tl.minimum(last + 1 + width, chunks)
    for start in range(last + 1, stop, ROWS):
        chunk = start + tl.arange(0, ROWS)
        at = (lst * chunks + chunk) * LEVELS + level
        target = at[:, None] * DIM + column[None, :]
        some = (chunk < stop)[:, None] & inside[None, :]
        dkey += tl.sum(tl.load(part_key + target, mask=some, other=0.0), 0)
        dvalue += tl.sum(tl.load(part_value + target, mask=some, other=0.0), 0)
        dbias += tl.sum(tl.load(part_bias + at, mask=chunk < stop, other=0.0), 0)
    dkey = dkey * (scale / LOG2E)
    at = lst * units + unit
    target = at * DIM + column
    tl.store(grad_key + target, dkey, mask=inside)
    tl.store(grad_value + target, dvalue, mask=inside)
    value = tl.load(region_value + target, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value * dvalue, 0)
    if KIND == VARIATIONAL:
        tl.store(grad_bias + at, dbias)
        key = tl.load(region_key + target, mask=inside, other=0.0)
        asked = tl.load(pooled + target, mask=inside, other=0.0).to(key.dtype).to(tl.float32)
        key = key.to(tl.float32)
        mean += tl.sum(key * dkey, 0) - dbias * tl.sum(key * asked, 0) * (scale / LOG2E)
    tl.store(middle + at, mean)


@triton.jit
def local_gradients(
    keys,
    values,
    pooled,
    local_lse,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    lst,
    units,
    region,
    alive,
    member,
    scale,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of one tile of tokens [N] and a region of each level: queries, weights, and gradients.

    Returns:
        The regions' queries and gradients of keys and values [LEVELS, WIDTH] in the dtype of keys,
        the local weights and the gradients of the local scores [LEVELS, N].
    """
    column = tl.arange(0, WIDTH)
    at = lst * units + region
    target = at[:, None] * DIM + column[None, :]
    some = alive[:, None] & (column < DIM)[None, :]
    asked = tl.load(pooled + target, mask=some, other=0.0).to(keys.dtype)
    dvalue = tl.load(grad_value + target, mask=some, other=0.0).to(keys.dtype)
    dkey = tl.load(grad_key + target, mask=some, other=0.0).to(keys.dtype)
    norm = tl.load(local_lse + at, mask=alive, other=0.0)
    scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION) * scale
    local = tl.exp2(scores - norm[:, None])
    local = tl.where(alive[:, None] & member[None, :], local, 0.0)
    change = tl.dot(dvalue, tl.trans(values), input_precision=PRECISION)
    if KIND == VARIATIONAL:
        change += tl.dot(dkey, tl.trans(keys), input_precision=PRECISION)
        dbias = tl.load(grad_bias + at, mask=alive, other=0.0)
        change -= dbias[:, None] * scores / LOG2E
    change = local * (change - tl.load(middle + at, mask=alive, other=0.0)[:, None])
    return asked, dkey, dvalue, local, change


@triton.jit(do_not_specialize=COUNTS)
def summary_gradients(
    k,
    v,
    pooled,
    region_key,
    local_lse,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    grad_query,  # [S, U, D] float32
    first_key,  # [S, U, D] int32: the token each key is from; MAX
    part_query,  # [S, C, LEVELS, D] float32
    part_first,  # [S, C, LEVELS, D] int32; MAX
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    length,
    sink,
    scale,
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
):
    """One program a chunk, side and query head: gradients of the regions' queries."""
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
    dquery = tl.zeros([LEVELS, WIDTH], tl.float32)
    nearest = tl.full([LEVELS, WIDTH], 2147483647, tl.int32)
    unit = chunk * chunk_units
    for part in range(chunk_units * PARTS):
        unit = chunk * chunk_units + part // PARTS
        first = unit * UNIT + part % PARTS * TILE
        region = unit | (size - 1)
        end = (region + 1) * UNIT
        alive = ((unit & size) == 0) & (region < units)
        alive = alive & (members(end - size * UNIT, end, opens, closes) > 0)
        opening = (part % PARTS == 0) & ((unit & (size - 1)) == 0)
        keys = load_places(k, first, row, length, k_step, DIM, WIDTH)
        values = load_places(v, first, row, length, v_step, DIM, WIDTH)
        place = first + row
        member = (place >= opens) & (place < closes)
        _, _, _, _, change = local_gradients(
            keys, values, pooled, local_lse, grad_key, grad_value, grad_bias, middle,
            lst, units, region, alive, member, scale, DIM, WIDTH, KIND, PRECISION,
        )  # fmt: skip
        dquery = tl.where(opening[:, None], 0.0, dquery)
        dquery = tl.dot(change.to(keys.dtype), keys, dquery, input_precision=PRECISION)
        closing = alive & (region == unit) & (size <= chunk_units) & (part % PARTS == PARTS - 1)
        target = (lst * units + region)[:, None] * DIM + column[None, :]
        writes = closing[:, None] & inside
        tl.store(grad_query + target, dquery * (scale / LOG2E), mask=writes)
        if KIND == MAX:
            x = tl.where(member[:, None], keys.to(tl.float32), float("-inf"))
            found = tl.max(x, 0)
            token = tl.where(side == 1, length - 1 - place, place)
            at = tl.min(tl.where(x == found[None, :], token[:, None], 2147483647), 0)
            wanted = tl.load(region_key + target, mask=alive[:, None] & inside, other=float("inf"))
            hit = tl.where(wanted.to(tl.float32) == found[None, :], at[None, :], 2147483647)
            nearest = tl.minimum(tl.where(opening[:, None], 2147483647, nearest), hit)
            tl.store(first_key + target, nearest, mask=writes)
    longer = ((unit & size) == 0) & ((unit | (size - 1)) < units) & (size > chunk_units)
    at = (lst * chunks + chunk) * LEVELS + level
    target = at[:, None] * DIM + column[None, :]
    tl.store(part_query + target, dquery, mask=longer[:, None] & inside)
    if KIND == MAX:
        tl.store(part_first + target, nearest, mask=longer[:, None] & inside)


@triton.jit(do_not_specialize=COUNTS)
def sum_summaries(
    grad_query,
    first_key,
    part_query,
    part_first,
    scale,
    lines,
    units,
    chunks,
    chunk_units,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDES: tl.constexpr,
    KIND: tl.constexpr,
):
    """One program a region longer than a chunk, side and query head."""
    lists = lines * SIDES
    lst = (tl.program_id(0) % lists).to(tl.int64)
    last = tl.program_id(0) // lists * 2 + 1
    width = (last + 1) & (0 - (last + 1))
    unit = (last + 1) * chunk_units - 1
    if unit >= units:
        return
    level = tl.sum(tl.where(powers(LEVELS) == width * chunk_units, tl.arange(0, LEVELS), 0), 0)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    dquery = tl.zeros([WIDTH], tl.float32)
    nearest = tl.full([WIDTH], 2147483647, tl.int32)
    for start in range(last + 1 - width, last + 1, ROWS):
        chunk = start + tl.arange(0, ROWS)
        target = ((lst * chunks + chunk) * LEVELS + level)[:, None] * DIM + column[None, :]
        some = (chunk <= last)[:, None] & inside[None, :]
        dquery += tl.sum(tl.load(part_query + target, mask=some, other=0.0), 0)
        if KIND == MAX:
            found = tl.load(part_first + target, mask=some, other=2147483647)
            nearest = tl.minimum(nearest, tl.min(found, 0))
    target = (lst * units + unit) * DIM + column
    tl.store(grad_query + target, dquery * (scale / LOG2E), mask=inside)
    if KIND == MAX:
        tl.store(first_key + target, nearest, mask=inside)
