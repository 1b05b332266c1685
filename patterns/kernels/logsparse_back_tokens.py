"""Combiner-Logsparse backward: gradients of keys and values, and of queries for what they pooled.

A program has a run of one side: its tokens as direct keys, in regions inside the run, and in one
longer region of each level, or none. Letters as in `patterns.kernels.logsparse_regions`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_backward import key_step
from patterns.kernels.logsparse_back_regions import local_gradients
from patterns.kernels.logsparse_forward import direct_visible, sink_visible
from patterns.kernels.logsparse_regions import powers
from patterns.kernels.logsparse_tree import (
    COUNTS,
    LOG2E,
    MAX,
    MEAN_SIZE,
    VARIATIONAL,
    inner_summaries,
    inner_visible,
    load_places,
    members,
    reversed_bits,
    side_base,
    store_places,
    unpool,
)


@triton.jit
def inner_gradients(
    keys,
    values,
    run_queries,
    queries,  # those that have their bound in the run, as have the next three
    grads,
    norm,
    product,
    start,
    opens,
    closes,
    scale,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """What the regions inside a run give to its tokens.

    Returns:
        Gradients of the keys, those of them that the scale multiplies apart; of values; and of
        the queries that were pooled: four float32 [T, WIDTH].
    """
    key, value, bias, alive, asked, lse, inside, count, member = inner_summaries(
        run_queries, keys, values, start, opens, closes, scale,
        BLOCK, T, WIDTH, KIND, SINKS, PRECISION,
    )  # fmt: skip
    dtype = keys.dtype
    bound = reversed_bits(T) & (0 - BLOCK)
    visible = inner_visible(bound, alive, BLOCK, T)
    scores = tl.dot(queries, tl.trans(key), input_precision=PRECISION) * scale
    if KIND >= MEAN_SIZE:
        scores += bias[None, :]
    weights = tl.where(visible, tl.exp2(scores - norm[:, None]), 0.0)
    dvalue = tl.dot(tl.trans(weights.to(dtype)), grads, input_precision=PRECISION).to(dtype)
    change = tl.dot(grads, tl.trans(value), input_precision=PRECISION)
    change = weights * (change - product[:, None])
    dkey = tl.dot(tl.trans(change.to(dtype)), queries, input_precision=PRECISION)
    dkey = dkey * (scale / LOG2E)
    dbias = tl.sum(change, 0)

    scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION) * scale
    local = tl.where(inside, tl.exp2(scores - lse[:, None]), 0.0)
    change = tl.dot(dvalue, tl.trans(values), input_precision=PRECISION)
    if KIND == VARIATIONAL:
        change += tl.dot(dkey.to(dtype), tl.trans(keys), input_precision=PRECISION)
        change -= dbias[:, None] * scores / LOG2E
    change = local * (change - tl.sum(local * change, 1)[:, None])
    local = local.to(dtype)
    dv = tl.dot(tl.trans(local), dvalue, input_precision=PRECISION)
    scaled = tl.dot(tl.trans(change.to(dtype)), asked, input_precision=PRECISION)
    dquery = tl.dot(change.to(dtype), keys, input_precision=PRECISION) * (scale / LOG2E)
    if KIND == VARIATIONAL:
        dk = tl.dot(tl.trans(local), dkey.to(dtype), input_precision=PRECISION)
    else:
        dk = unpool(dkey, keys, inside, count, member, T, WIDTH, KIND, SINKS, PRECISION, MIRRORED)
    dq = unpool(
        dquery, run_queries, inside, count, member, T, WIDTH, KIND, SINKS, PRECISION, MIRRORED
    )
    return scaled, dk, dv, dq


@triton.jit(do_not_specialize=COUNTS)
def token_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    pooled,
    local_lse,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    grad_query,
    first_query,
    first_key,
    part_key,  # [splits, B * H, sinks, D] float32: what far queries give to sinks
    part_value,
    dk_so_far,  # [B * Hkv, L, D] float32: from the other side; MIRRORED
    dv_so_far,
    dk_out,  # [B * Hkv, L, D]
    dv_out,
    dq_pooled,  # [B * H, L, D] float32: MIRRORED adds to it
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
    sink,
    scale,
    heads,
    lines,
    units,
    splits,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    KIND: tl.constexpr,
    CAUSAL: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    SINKS: tl.constexpr,
    MIRRORED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a run and key-value head."""
    kv_heads = heads // GROUP
    kv_lines = lines // GROUP
    kv_line = tl.program_id(0) % kv_lines
    start = tl.program_id(0) // kv_lines * T
    batch, kv_head = kv_line // kv_heads, kv_line % kv_heads
    k = side_base(k, kv_line, kv_heads, k_batch, k_head, 1)
    v = side_base(v, kv_line, kv_heads, v_batch, v_head, 1)
    k_step, v_step, q_step, g_step = k_row, v_row, q_row, g_row
    opens, closes = sink, length
    out_step = DIM
    end = tl.cast(length * 0, tl.int64)
    if MIRRORED:
        end = tl.cast(length - 1, tl.int64)
        k_step, v_step, q_step, g_step = 0 - k_row, 0 - v_row, 0 - q_row, 0 - g_row
        opens, closes = 0, length - sink
        out_step = 0 - DIM
        k += end * k_row
        v += end * v_row
    order = reversed_bits(T)
    place = start + order
    token = length - 1 - place if MIRRORED else place
    keys = load_places(k, start, order, length, k_step, DIM, WIDTH)
    values = load_places(v, start, order, length, v_step, DIM, WIDTH)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    member = (place >= opens) & (place < closes)
    scaled = tl.zeros([T, WIDTH], tl.float32)  # gradients of keys that the scale multiplies
    dk = tl.zeros([T, WIDTH], tl.float32)
    dv = tl.zeros([T, WIDTH], tl.float32)
    if MIRRORED:
        source = kv_line.to(tl.int64) * length * DIM + end * DIM
        dk += load_places(dk_so_far + source, start, order, length, out_step, DIM, WIDTH)
        dv += load_places(dv_so_far + source, start, order, length, out_step, DIM, WIDTH)
    none = tl.zeros([T], tl.float32)
    size = powers(LEVELS)
    unit = start // UNIT
    region = unit | (size - 1)
    last = (region + 1) * UNIT
    alive = ((unit & size) == 0) & (region < units)
    alive = alive & (members(last - size * UNIT, last, opens, closes) > 0)
    reads = members(last - size * UNIT, last, opens, closes)

    for sharing in range(GROUP):
        head = kv_head * GROUP + sharing
        line = batch * heads + head
        lst = line.to(tl.int64)
        ours = side_base(q, line, heads, q_batch, q_head, 1)
        theirs = side_base(grad, line, heads, g_batch, g_head, 1)
        norms = lse + lst * length
        products = delta + lst * length
        dq = tl.zeros([T, WIDTH], tl.float32)
        if not MIRRORED:
            low = start
            high = tl.minimum(((start + T - 1) | (BLOCK - 1)) + lag + 1, length)
            if not CAUSAL:
                low = length - 1 - (((length - 1 - start) | (BLOCK - 1)) + lag)
                low = tl.maximum(low, 0) // T * T
            for step in range(low, high, T):
                row = (step + tl.arange(0, T))[None, :]
                visible = direct_visible(row, token[:, None], length, lag, BLOCK, CAUSAL)
                scaled, dv, none = key_step(
                    scaled, dv, none, keys, values, 0.0, ours, theirs, norms, products,
                    q_row, g_row, step, length, scale, visible,
                    DIM, T, WIDTH, True, False, PRECISION,
                )  # fmt: skip
        if not MIRRORED and SINKS:
            sunk = ((token < sink) & (token < length))[:, None] & inside[None, :]
            for split in range(splits):
                part = (tl.cast(split, tl.int64) * lines + line) * sink + token
                at = part[:, None] * DIM + column[None, :]
                dk += tl.load(part_key + at, mask=sunk, other=0.0)
                dv += tl.load(part_value + at, mask=sunk, other=0.0)
        if INNER:
            known = (start + lag + order) < length
            at = length - 1 - (start + lag + order) if MIRRORED else start + lag + order
            norm = tl.load(norms + at, mask=known, other=float("inf"))
            product = tl.load(products + at, mask=known, other=0.0)
            ours += end * q_row
            theirs += end * g_row
            run_queries = load_places(ours, start, order, length, q_step, DIM, WIDTH)
            queries = load_places(ours, start + lag, order, length, q_step, DIM, WIDTH)
            grads = load_places(theirs, start + lag, order, length, g_step, DIM, WIDTH)
            more_scaled, more_k, more_v, more_q = inner_gradients(
                keys, values, run_queries, queries, grads, norm, product, start, opens, closes,
                scale, BLOCK, T, WIDTH, KIND, SINKS, PRECISION, MIRRORED,
            )  # fmt: skip
            scaled += more_scaled
            dk += more_k
            dv += more_v
            dq += more_q
        if OUTER:
            if MIRRORED:
                lst += lines
            asked, dkey, dvalue, local, change = local_gradients(
                keys, values, pooled, local_lse, grad_key, grad_value, grad_bias, middle,
                lst, units, region, alive, member, scale, DIM, WIDTH, KIND, PRECISION,
            )  # fmt: skip
            local = tl.trans(local.to(keys.dtype))
            dv = tl.dot(local, dvalue, dv, input_precision=PRECISION)
            change = tl.trans(change.to(keys.dtype))
            scaled = tl.dot(change, asked, scaled, input_precision=PRECISION)
            target = (lst * units + region)[:, None] * DIM + column[None, :]
            some = alive[:, None] & inside[None, :]
            if KIND == VARIATIONAL:
                dk = tl.dot(local, dkey, dk, input_precision=PRECISION)
            if KIND == MAX:
                step = 1
                while (unit | (step - 1)) < units:
                    stop = ((unit | (step - 1)) + 1) * UNIT
                    full = members(stop - step * UNIT, stop, opens, closes) > 0
                    here = inside & ((unit & step) == 0) & full
                    target_row = (lst * units + (unit | (step - 1))) * DIM + column
                    where = tl.load(first_key + target_row, mask=here, other=-1)
                    extra = tl.load(grad_key + target_row, mask=here, other=0.0)
                    dk += tl.where(token[:, None] == where[None, :], extra[None, :], 0.0)
                    where = tl.load(first_query + target_row, mask=here, other=-1)
                    extra = tl.load(grad_query + target_row, mask=here, other=0.0)
                    dq += tl.where(token[:, None] == where[None, :], extra[None, :], 0.0)
                    step = step * 2
            else:
                share = 1.0 / tl.maximum(reads, 1).to(tl.float32)
                extra = tl.load(grad_query + target, mask=some, other=0.0)
                extra = tl.sum(extra * share[:, None], 0)
                dq += tl.where(member[:, None], extra[None, :], 0.0)
                if KIND != VARIATIONAL:
                    extra = tl.load(grad_key + target, mask=some, other=0.0)
                    extra = tl.sum(extra * share[:, None], 0)
                    dk += tl.where(member[:, None], extra[None, :], 0.0)
        own = dq_pooled + (line.to(tl.int64) * length + end) * DIM
        if MIRRORED:
            dq += load_places(own, start, order, length, out_step, DIM, WIDTH)
        store_places(own, dq, start, order, length, out_step, DIM, WIDTH)
    base = (kv_line.to(tl.int64) * length + end) * DIM
    dk += scaled * (scale / LOG2E)
    store_places(dk_out + base, dk, start, order, length, out_step, DIM, WIDTH)
    store_places(dv_out + base, dv, start, order, length, out_step, DIM, WIDTH)


@triton.jit(do_not_specialize=COUNTS)
def sink_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    part_key,
    part_value,
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
    sink,
    scale,
    heads,
    lines,
    splits,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program 16 sinks, part of the queries, and query head: what far queries give."""
    line = tl.program_id(0) % lines
    split = tl.program_id(0) // lines % splits
    first = tl.program_id(0) // lines // splits * 16
    q = side_base(q, line, heads, q_batch, q_head, 1)
    k = side_base(k, line, heads, k_batch, k_head, GROUP)
    v = side_base(v, line, heads, v_batch, v_head, GROUP)
    grad = side_base(grad, line, heads, g_batch, g_head, 1)
    few = tl.arange(0, 16)
    keys = load_places(k, first, few, sink, k_row, DIM, WIDTH)
    values = load_places(v, first, few, sink, v_row, DIM, WIDTH)
    dk = tl.zeros([16, WIDTH], tl.float32)
    dv = tl.zeros([16, WIDTH], tl.float32)
    none = tl.zeros([16], tl.float32)
    share = tl.cdiv(tl.cdiv(length, splits), T) * T
    start = split * share
    stop = tl.minimum(start + share, length)
    lse += line.to(tl.int64) * length
    delta += line.to(tl.int64) * length
    for step in range(start, stop, T):
        row = (step + tl.arange(0, T))[None, :]
        visible = sink_visible(row, (first + few)[:, None], length, lag, sink, BLOCK, CAUSAL)
        dk, dv, none = key_step(
            dk, dv, none, keys, values, 0.0, q, grad, lse, delta, q_row, g_row, step, stop, scale,
            visible, DIM, T, WIDTH, True, False, PRECISION,
        )  # fmt: skip
    base = (tl.cast(split, tl.int64) * lines + line) * sink * DIM
    dk = dk * (scale / LOG2E)
    store_places(part_key + base, dk, first, few, sink, DIM, DIM, WIDTH)
    store_places(part_value + base, dv, first, few, sink, DIM, DIM, WIDTH)
