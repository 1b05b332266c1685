"""Combiner-Logsparse: maxima of regions inside a tile, pooled as the tokens are loaded.

A thread has a column, and 16 tokens of it one after the other: nothing is exchanged but what is
longer. Maxima of 16-bit numbers are taken two at a time, which is exact.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl


@triton.jit
def larger(x, y, PACKED: tl.constexpr):
    """The larger of each two; of 16-bit numbers one instruction takes two, if PACKED.

    Triton takes the maximum of bfloat16 in float32, and its interpreter runs no instructions.
    """
    if PACKED and x.dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            "max.bf16x2 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    if PACKED and x.dtype == tl.float16:
        return tl.inline_asm_elementwise(
            "max.f16x2 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.float16, is_pure=True, pack=2
        )
    return tl.maximum(x, y).to(x.dtype)


@triton.jit
def load_each(
    base, first, length, stride, each: tl.constexpr, T: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Of each 16 tokens of a tile the one numbered `each`: [T / 16, WIDTH]."""
    column = tl.arange(0, WIDTH)
    row = tl.arange(0, T // 16) * 16 + each
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if WHOLE:
        return tl.load(at)
    inside = (first + row < length)[:, None] & (column < DIM)[None, :]
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def load_pair(
    base, first, length, stride, each: tl.constexpr, T: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, PACKED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The maxima of tokens `each` and the next of each 16."""
    x = load_each(base, first, length, stride, each, T, DIM, WIDTH, WHOLE)
    y = load_each(base, first, length, stride, each + 1, T, DIM, WIDTH, WHOLE)
    return larger(x, y, PACKED)


@triton.jit
def pool_loaded(
    base,
    first,
    length,
    stride,
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PACKED: tl.constexpr,
    WHOLE: tl.constexpr,  # all places and columns exist
):
    """The maxima of the regions inside a tile of at most 64, by where they end: [T / 2, WIDTH].

    The last row has no meaning: a region that ends with the tile is none inside it.
    """
    tl.static_assert(T <= 64)
    a = load_pair(base, first, length, stride, 0, T, DIM, WIDTH, PACKED, WHOLE)
    b = load_pair(base, first, length, stride, 2, T, DIM, WIDTH, PACKED, WHOLE)
    c = load_pair(base, first, length, stride, 4, T, DIM, WIDTH, PACKED, WHOLE)
    d = load_pair(base, first, length, stride, 6, T, DIM, WIDTH, PACKED, WHOLE)
    e = load_pair(base, first, length, stride, 8, T, DIM, WIDTH, PACKED, WHOLE)
    f = load_pair(base, first, length, stride, 10, T, DIM, WIDTH, PACKED, WHOLE)
    g = load_pair(base, first, length, stride, 12, T, DIM, WIDTH, PACKED, WHOLE)
    h = load_pair(base, first, length, stride, 14, T, DIM, WIDTH, PACKED, WHOLE)
    ab = larger(a, b, PACKED)
    ef = larger(e, f, PACKED)
    abcd = larger(ab, larger(c, d, PACKED), PACKED)
    whole = larger(abcd, larger(ef, larger(g, h, PACKED), PACKED), PACKED)
    if T == 64:
        group = tl.arange(0, 4)[:, None]
        both = tl.max(tl.where(group < 2, whole, float("-inf")).to(tl.float32), 0)
        whole = tl.where(group == 1, both[None, :].to(whole.dtype), whole)
    even = tl.join(tl.join(a, e), tl.join(c, g))
    odd = tl.join(tl.join(ab, ef), tl.join(abcd, whole))
    found = tl.permute(tl.join(even, odd), (0, 2, 3, 4, 1))
    return tl.reshape(found, [T // 2, WIDTH])
