"""Combiner-Fixed forward in one launch: what is read for a summary is still near for the attention.

A program owns a block. It makes the summary, says so, waits until the blocks before it have said
so, and attends. Programs take their blocks in the order in which they begin, so that whoever is
waited for has begun before; nothing waits for ever, whatever order the device starts programs in.
Letters as in `patterns.kernels.fixed_summary`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

from patterns.kernels.fixed_forward import attend_tile
from patterns.kernels.fixed_summary import summarise_block
from patterns.kernels.tiles import COUNTS

_FLAGS = tl.constexpr(256)  # looked at together


@triton.jit
def announce(flag):
    """All that this program has written is to be seen by whoever sees the flag."""
    tl.debug_barrier()  # of all threads: the flag is written by one
    tl.atomic_xchg(flag, 1, sem="release")


@triton.jit
def wait_for(flags, count, own):
    """Return when the first `count` flags are set; what was written before them is then seen."""
    for first in range(0, count, _FLAGS):
        index = first + tl.arange(0, _FLAGS)
        seen = 0
        while seen == 0:
            seen = tl.min(tl.load(flags + index, mask=index < count, other=1, volatile=True), 0)
    tl.debug_barrier()
    tl.atomic_add(own, 0, sem="acq_rel")
    tl.debug_barrier()


@triton.jit(do_not_specialize=COUNTS)
def attend_in_order(
    q,
    k,
    v,
    far_key,
    far_value,
    far_bias,
    query,
    local_lse,
    first_query,
    first_key,
    out,  # [B * H, L, D]
    lse,  # [B * H, L] in units of log 2
    turns,  # [1 + B * H * R] int32, zeros: who is next, and which summaries are there
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
    blocks,
    sink,
    scale,  # in units of log 2
    heads,
    lines,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a key-value head
    NEAR: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    INDEXED: tl.constexpr,  # MAX, and a backward will follow
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program a block and query head; causal, and fewer sinks than a block."""
    turn = tl.atomic_add(turns, 1)
    line = turn % lines
    block = turn // lines
    summarise_block(
        line, block,
        q, k, v, far_key, far_value, far_bias, query, local_lse, first_query, first_key,
        q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
        length, blocks, sink, scale, heads,
        BLOCK, GROUP, DIM, TILE, WIDTH, KIND, SINKS, INDEXED,
    )  # fmt: skip
    flags = turns + 1 + line.to(tl.int64) * blocks
    announce(flags + block)
    wait_for(flags, block - NEAR, flags + block)
    end = tl.minimum(block * BLOCK + BLOCK, length)
    for tile in range(tl.cdiv(end - block * BLOCK, M)):
        attend_tile(
            line, block, block * BLOCK + tile * M, end,
            q, k, v, far_key, far_value, far_bias, out, lse,
            q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
            length, blocks, sink, scale, heads,
            BLOCK, GROUP, NEAR, DIM, M, N, WIDTH, True, True, True, BIASED, PRECISION,
        )  # fmt: skip
