"""Combiner-Fixed backward: gradients of the keys and values of tokens.

A program owns a tile of keys, and passes over the queries of their neighbourhood.
Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_backward import key_step
from patterns.kernels.fixed_summary import GIVEN, MAX, VARIATIONAL
from patterns.kernels.tiles import COUNTS, LOG2E, load_tile, store_tile


@triton.jit(do_not_specialize=COUNTS)
def token_gradients(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    query,
    local_lse,
    first_key,
    grad_key,
    grad_value,
    grad_bias,
    middle,
    part_key,
    part_value,
    dk_out,  # [B * Hkv, L, D]
    dv_out,
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
    blocks,
    sink,
    scale,
    heads,
    lines,
    splits,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    NEAR: tl.constexpr,
    DIM: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr,
    FAR: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    EACH: tl.constexpr = 1,
):
    """One program a tile of keys, which lies in one block, and key-value head."""
    tiles: tl.constexpr = (BLOCK + N - 1) // N
    kv_heads = heads // GROUP
    kv_lines = lines // GROUP
    kv_line = tl.program_id(0) % kv_lines
    number = tl.program_id(0) // kv_lines
    block = number // tiles
    first = block * BLOCK + number % tiles * N
    end = tl.minimum(block * BLOCK + BLOCK, length)
    if first >= end:
        return
    batch, kv_head = kv_line // kv_heads, kv_line % kv_heads
    k += batch.to(tl.int64) * k_batch + kv_head.to(tl.int64) * k_head
    v += batch.to(tl.int64) * v_batch + kv_head.to(tl.int64) * v_head
    keys = load_tile(k, first, end, k_row, DIM, N, WIDTH, True)
    values = load_tile(v, first, end, v_row, DIM, N, WIDTH, True)
    token = first + tl.arange(0, N)
    column = tl.arange(0, WIDTH)
    inside = column < DIM
    begin = tl.minimum(tl.maximum(block * BLOCK, sink), end)
    member = (token >= begin) & (token < end)
    count = tl.maximum(end - begin, 1).to(tl.float32)
    dk = tl.zeros([N, WIDTH], tl.float32)
    dv = tl.zeros([N, WIDTH], tl.float32)
    extra_k = tl.zeros([N, WIDTH], tl.float32)
    none = tl.zeros([N], tl.float32)

    start = tl.maximum(block - NEAR, 0) * BLOCK
    edge = start
    if CAUSAL:
        start = first
        edge = first + tl.cdiv(N, M) * M
    stop = tl.minimum((block + NEAR + 1) * BLOCK, length)
    edge = tl.minimum(edge, stop)
    for member_of_group in range(GROUP):
        head = kv_head * GROUP + member_of_group
        line = batch * heads + head
        ours = q + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
        theirs = grad + batch.to(tl.int64) * g_batch + head.to(tl.int64) * g_head
        norms = lse + line.to(tl.int64) * length
        products = delta + line.to(tl.int64) * length
        if CAUSAL:
            for step in range(start, edge, M):
                visible = token[:, None] <= (step + tl.arange(0, M))[None, :]
                dk, dv, none = key_step(
                    dk,
                    dv,
                    none,
                    keys,
                    values,
                    0.0,
                    ours,
                    theirs,
                    norms,
                    products,
                    q_row,
                    g_row,
                    step,
                    stop,
                    scale,
                    visible,
                    DIM,
                    M,
                    WIDTH,
                    True,
                    False,
                    PRECISION,
                )
        for step in range(edge, stop, M):
            dk, dv, none = key_step(
                dk,
                dv,
                none,
                keys,
                values,
                0.0,
                ours,
                theirs,
                norms,
                products,
                q_row,
                g_row,
                step,
                stop,
                scale,
                0,
                DIM,
                M,
                WIDTH,
                False,
                False,
                PRECISION,
            )
        if FAR and KIND == GIVEN:
            # The far columns of a block are its last tokens.
            copied = ((token >= end - EACH) & (token < end))[:, None] & inside[None, :]
            own = block * EACH + token - (end - EACH)
            for split in range(tl.where(first + N > end - EACH, splits, 0)):
                part = (tl.cast(split, tl.int64) * lines + line) * blocks + own
                source = part[:, None] * DIM + column[None, :]
                extra_k += tl.load(part_key + source, mask=copied, other=0.0)
                dv += tl.load(part_value + source, mask=copied, other=0.0)
        elif FAR:
            region = line.to(tl.int64) * blocks + block
            asked = tl.load(query + region * DIM + column, mask=inside, other=0.0)
            dkey = tl.load(grad_key + region * DIM + column, mask=inside, other=0.0)
            dvalue = tl.load(grad_value + region * DIM + column, mask=inside, other=0.0)
            scores = tl.sum(keys.to(tl.float32) * asked[None, :], 1) * scale
            local = tl.where(member, tl.exp2(scores - tl.load(local_lse + region)), 0.0)
            gradient = tl.sum(values.to(tl.float32) * dvalue[None, :], 1)
            if KIND == VARIATIONAL:
                dbias = tl.load(grad_bias + region)
                gradient += tl.sum(keys.to(tl.float32) * dkey[None, :], 1)
                gradient -= dbias * scores / LOG2E
                extra_k += local[:, None] * dkey[None, :]
            elif KIND == MAX:
                place = tl.load(first_key + region * DIM + column, mask=inside, other=-1)
                extra_k += tl.where(token[:, None] == place[None, :], dkey[None, :], 0.0)
            else:
                extra_k += tl.where(member[:, None], dkey[None, :] / count, 0.0)
            change = local * (gradient - tl.load(middle + region))
            dk += change[:, None] * asked[None, :]
            dv += local[:, None] * dvalue[None, :]
            if SINKS:
                copied = ((token < sink) & (token < end))[:, None] & inside[None, :]
                for split in range(splits):
                    part = (tl.cast(split, tl.int64) * lines + line) * (sink + blocks) + token
                    source = part[:, None] * DIM + column[None, :]
                    extra_k += tl.load(part_key + source, mask=copied, other=0.0)
                    dv += tl.load(part_value + source, mask=copied, other=0.0)
    base = kv_line.to(tl.int64) * length * DIM
    store_tile(dk_out + base, dk * (scale / LOG2E) + extra_k, first, end, DIM, DIM, N, WIDTH)
    store_tile(dv_out + base, dv, first, end, DIM, DIM, N, WIDTH)
