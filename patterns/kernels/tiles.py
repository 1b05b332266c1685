"""What the kernels share: loading tiles, and one step of an online softmax.

Letters: M queries of a tile, N keys of a tile, D head width padded to a power of two.
Scores are in units of log 2, so that `exp2`, which is one instruction, serves.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # takes a gradient out of those units

# Arguments of which a kernel is not compiled once for 1 and once for multiples of 16.
COUNTS = ("length", "blocks", "sink", "heads", "lines", "splits")


@triton.jit
def load_tile(
    base,
    first,
    limit,
    stride,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHECK: tl.constexpr,
):
    """Rows `first` onwards, [ROWS, WIDTH]: zeros from `limit` on (if CHECK) and past `DIM`."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    # One 64-bit product a tile: the whole tensor may have more than 2**31 numbers, a tile has not.
    place = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if CHECK:
        inside = (first + row)[:, None] < limit
        if WIDTH > DIM:
            inside = inside & (column < DIM)[None, :]
        return tl.load(place, mask=inside, other=0.0)
    if WIDTH > DIM:
        return tl.load(place, mask=(column < DIM)[None, :], other=0.0)
    return tl.load(place)


@triton.jit
def store_tile(
    base,
    tile,
    first,
    limit,
    stride,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the rows `first` onwards that lie before `limit`."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    place = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    inside = ((first + row)[:, None] < limit) & (column < DIM)[None, :]
    tl.store(place, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def weigh_scores(accumulator, total, peak, scores, v, scale, PRECISION: tl.constexpr):
    """Add a tile of values [N, D] by their scores [M, N] to the running softmax."""
    risen = tl.maximum(peak, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - risen[:, None])
    shrink = tl.exp2(peak - risen)
    total = total * shrink + tl.sum(weights, 1)
    accumulator = accumulator * shrink[:, None]
    accumulator = tl.dot(weights.to(v.dtype), v, accumulator, input_precision=PRECISION)
    return accumulator, total, risen


@triton.jit
def softmax_step(
    accumulator,
    total,
    peak,
    q,
    k,
    v,
    bias,
    visible,
    scale,
    MASKED: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the keys [N, D] of one tile to the running softmax of the queries [M, D].

    The scale is positive: it commutes with the maximum and, where there is no bias, enters the
    exponent by a fused multiplication and addition.
    """
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if BIASED:
        scores = scores * scale + bias[None, :]
        scale = 1.0
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    return weigh_scores(accumulator, total, peak, scores, v, scale, PRECISION)
