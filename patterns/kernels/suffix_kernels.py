"""Triton kernels of attention to the ends of blocks that the binary digits of a position cut.

A query at position p sees itself and the last token of every block when [0, p) is cut by the
binary digits of p. Positions are cut into tiles of T, a power of two: within a tile the low digits
choose among its own tokens, by one mask for all tiles; the high digits, which are those of the
tile's number t, choose the last token before tile (t >> b) << b for every bit b of t.

MIRRORED, positions count from the end of the sequence, no query sees itself, and what an earlier
launch wrote is gone on from. Letters: B batch, H query heads, L length, D head width; scores and
log-sum-exps are in units of log 2.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.tiles import load_tile, softmax_step, store_tile

COUNTS = ("length", "heads", "bits")
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def at_position(base, stride, length, MIRRORED: tl.constexpr):
    """Where position 0 lies, and how far it is to the next."""
    if MIRRORED:
        base += tl.cast(length - 1, tl.int64) * stride
        stride = -stride
    return base, stride


@triton.jit
def near_visible(T: tl.constexpr, MIRRORED: tl.constexpr):
    """Which tokens of its tile a query sees, [T, T]."""
    query = tl.arange(0, T)[:, None]
    end = tl.arange(0, T)[None, :] + 1
    lowest = end & -end
    seen = (query // lowest) * lowest == end
    if not MIRRORED:
        seen = seen | (query + 1 == end)
    return seen


@triton.jit
def far_positions(tile, T: tl.constexpr, FAR: tl.constexpr):
    """Whether there is a key of each bit of the tile's number, and its position; [FAR] both."""
    bit = tl.arange(0, FAR)
    return (tile >> bit) & 1 == 1, (tile >> bit << bit) * T - 1


@triton.jit
def load_far(base, step, seen, position, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """The rows at these positions, [FAR, WIDTH]; zeros where there is none."""
    column = tl.arange(0, WIDTH)
    inside = seen[:, None] & (column < DIM)[None, :]
    return tl.load(
        base + position.to(tl.int64)[:, None] * step + column[None, :], mask=inside, other=0.0
    )


@triton.jit(do_not_specialize=COUNTS)
def attend_suffixes(
    q,
    k,
    v,
    out,  # [B * H, L, D]
    lse,  # [B * H, L]
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
    heads,
    scale,
    MIRRORED: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    T: tl.constexpr,
    FAR: tl.constexpr,  # bits that a tile's number may have
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of queries, and head."""
    tiles = tl.cdiv(length, T)
    line = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    first = tile * T
    batch, head = (line // heads).to(tl.int64), line % heads
    q += batch * q_batch + head.to(tl.int64) * q_head
    k += batch * k_batch + (head // GROUP).to(tl.int64) * k_head
    v += batch * v_batch + (head // GROUP).to(tl.int64) * v_head
    base = line.to(tl.int64) * length
    q, q_step = at_position(q, q_row, length, MIRRORED)
    k, k_step = at_position(k, k_row, length, MIRRORED)
    v, v_step = at_position(v, v_row, length, MIRRORED)
    out, out_step = at_position(out + base * DIM, DIM, length, MIRRORED)
    lse, lse_step = at_position(lse + base, 1, length, MIRRORED)
    row = first + tl.arange(0, T)
    queries = load_tile(q, first, length, q_step, DIM, T, WIDTH, True)
    keys = load_tile(k, first, length, k_step, DIM, T, WIDTH, True)
    values = load_tile(v, first, length, v_step, DIM, T, WIDTH, True)
    if MIRRORED:
        peak = tl.load(lse + row * lse_step, mask=row < length, other=0.0)
        total = tl.full([T], 1.0, tl.float32)
        accumulator = load_tile(out, first, length, out_step, DIM, T, WIDTH, True).to(tl.float32)
    else:
        peak = tl.full([T], float("-inf"), tl.float32)
        total = tl.full([T], 0.0, tl.float32)
        accumulator = tl.zeros([T, WIDTH], tl.float32)
    accumulator, total, peak = softmax_step(
        accumulator, total, peak, queries, keys, values, 0.0, near_visible(T, MIRRORED), scale,
        True, False, PRECISION,
    )  # fmt: skip
    seen, position = far_positions(tile, T, FAR)
    keys = load_far(k, k_step, seen, position, DIM, WIDTH)
    values = load_far(v, v_step, seen, position, DIM, WIDTH)
    accumulator, total, peak = softmax_step(
        accumulator, total, peak, queries, keys, values, 0.0, seen[None, :], scale,
        True, False, PRECISION,
    )  # fmt: skip
    store_tile(out, accumulator / total[:, None], first, length, out_step, DIM, T, WIDTH)
    tl.store(lse + row * lse_step, peak + tl.log2(total), mask=row < length)


@triton.jit
def pair_gradients(
    dq,
    dk,
    dv,
    queries,
    grads,
    keys,
    values,
    norm,
    product,
    visible,
    scale,
    PRECISION: tl.constexpr,
):
    """Add what some queries and some keys give to the gradients of each; dq, dk lack the scale."""
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    weights = tl.where(visible, tl.exp2(scores - norm[:, None]), 0.0)
    dv = tl.dot(tl.trans(weights.to(grads.dtype)), grads, dv, input_precision=PRECISION)
    change = tl.dot(grads, tl.trans(values), input_precision=PRECISION)
    change = (weights * (change - product[:, None])).to(keys.dtype)
    dq = tl.dot(change, keys, dq, input_precision=PRECISION)
    dk = tl.dot(tl.trans(change), queries, dk, input_precision=PRECISION)
    return dq, dk, dv


@triton.jit(do_not_specialize=COUNTS)
def suffix_gradients(
    q,
    k,
    v,
    grad,
    out,  # [B * H, L, D]
    lse,  # [B * H, L]
    dq,  # [B * H, L, D]
    dk,  # [B * H / GROUP, L, D]
    dv,
    part_key,  # [B * H / GROUP, bits, tiles, D] float32: what each tile gives to its far keys
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
    bits,  # of the number of the last tile
    heads,
    scale,
    MIRRORED: tl.constexpr,  # add to what dq, dk and dv hold
    GROUP: tl.constexpr,
    T: tl.constexpr,
    FAR: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a tile of tokens, as queries and as keys, and key-value head."""
    tiles = tl.cdiv(length, T)
    kv_line = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    first = tile * T
    kv_heads = heads // GROUP
    batch, kv_head = (kv_line // kv_heads).to(tl.int64), (kv_line % kv_heads).to(tl.int64)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    k, k_step = at_position(k, k_row, length, MIRRORED)
    v, v_step = at_position(v, v_row, length, MIRRORED)
    row = first + tl.arange(0, T)
    keys = load_tile(k, first, length, k_step, DIM, T, WIDTH, True)
    values = load_tile(v, first, length, v_step, DIM, T, WIDTH, True)
    near = near_visible(T, MIRRORED)
    seen, position = far_positions(tile, T, FAR)
    far_keys = load_far(k, k_step, seen, position, DIM, WIDTH)
    far_values = load_far(v, v_step, seen, position, DIM, WIDTH)
    found_k = tl.zeros([T, WIDTH], tl.float32)
    found_v = tl.zeros([T, WIDTH], tl.float32)
    far_k = tl.zeros([FAR, WIDTH], tl.float32)
    far_v = tl.zeros([FAR, WIDTH], tl.float32)

    for member in range(GROUP):
        head = kv_head * GROUP + member
        base = (batch * heads + head) * length
        ours, q_step = at_position(q + batch * q_batch + head * q_head, q_row, length, MIRRORED)
        theirs, g_step = at_position(
            grad + batch * g_batch + head * g_head, g_row, length, MIRRORED
        )
        results, out_step = at_position(out + base * DIM, DIM, length, MIRRORED)
        changes, out_step = at_position(dq + base * DIM, DIM, length, MIRRORED)
        norms, lse_step = at_position(lse + base, 1, length, MIRRORED)
        queries = load_tile(ours, first, length, q_step, DIM, T, WIDTH, True)
        grads = load_tile(theirs, first, length, g_step, DIM, T, WIDTH, True)
        result = load_tile(results, first, length, out_step, DIM, T, WIDTH, True)
        product = tl.sum(result.to(tl.float32) * grads.to(tl.float32), 1)
        # A row past the end has weight exp2(-inf) = 0.
        norm = tl.load(norms + row * lse_step, mask=row < length, other=float("inf"))
        found_q = tl.zeros([T, WIDTH], tl.float32)
        found_q, found_k, found_v = pair_gradients(
            found_q, found_k, found_v, queries, grads, keys, values, norm, product, near, scale,
            PRECISION,
        )  # fmt: skip
        found_q, far_k, far_v = pair_gradients(
            found_q, far_k, far_v, queries, grads, far_keys, far_values, norm, product,
            seen[None, :], scale, PRECISION,
        )  # fmt: skip
        found_q = found_q * (scale / _LOG2E)
        if MIRRORED:
            earlier = load_tile(changes, first, length, out_step, DIM, T, WIDTH, True)
            found_q += earlier.to(tl.float32)
        store_tile(changes, found_q, first, length, out_step, DIM, T, WIDTH)

    base = kv_line.to(tl.int64) * length * DIM
    dk, dk_step = at_position(dk + base, DIM, length, MIRRORED)
    dv, dk_step = at_position(dv + base, DIM, length, MIRRORED)
    found_k = found_k * (scale / _LOG2E)
    if MIRRORED:
        found_k += load_tile(dk, first, length, dk_step, DIM, T, WIDTH, True).to(tl.float32)
        found_v += load_tile(dv, first, length, dk_step, DIM, T, WIDTH, True).to(tl.float32)
    store_tile(dk, found_k, first, length, dk_step, DIM, T, WIDTH)
    store_tile(dv, found_v, first, length, dk_step, DIM, T, WIDTH)
    column = tl.arange(0, WIDTH)
    slot = (kv_line.to(tl.int64) * bits + tl.arange(0, FAR)) * tiles + tile
    place = slot[:, None] * DIM + column[None, :]
    inside = seen[:, None] & (column < DIM)[None, :]
    tl.store(part_key + place, far_k * (scale / _LOG2E), mask=inside)
    tl.store(part_value + place, far_v, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def sum_suffixes(
    part_key,  # [B * H / GROUP, bits, tiles, D] float32
    part_value,
    dk,  # [B * H / GROUP, L, D]: added to
    dv,
    length,
    bits,
    MIRRORED: tl.constexpr,
    T: tl.constexpr,
    ROWS: tl.constexpr,  # tiles whose shares are read at once
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program the last token before a tile, and key-value head: what later tiles give to it.

    It is read by as many tiles, from that one on, as the lowest bit of the tile's number says.
    """
    tiles = tl.cdiv(length, T)
    kv_line = (tl.program_id(0) // (tiles - 1)).to(tl.int64)
    tile = tl.program_id(0) % (tiles - 1) + 1
    lowest = tile & -tile
    bit = tl.sum(((lowest >> tl.arange(0, 32)) > 1).to(tl.int32), 0)
    stop = tl.minimum(tile + lowest, tiles)
    base = (kv_line * bits + bit) * tiles * DIM
    found_k = tl.zeros([WIDTH], tl.float32)
    found_v = tl.zeros([WIDTH], tl.float32)
    for first in range(tile, stop, ROWS):
        keys = load_tile(part_key + base, first, stop, DIM, DIM, ROWS, WIDTH, True)
        values = load_tile(part_value + base, first, stop, DIM, DIM, ROWS, WIDTH, True)
        found_k += tl.sum(keys, 0)
        found_v += tl.sum(values, 0)
    token = tile.to(tl.int64) * T - 1
    if MIRRORED:
        token = length - 1 - token
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    place = (kv_line * length + token) * DIM + column
    found_k += tl.load(dk + place, mask=inside, other=0.0).to(tl.float32)
    found_v += tl.load(dv + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(dk + place, found_k.to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + place, found_v.to(dv.dtype.element_ty), mask=inside)
