"""Combiner-Logsparse: regions inside a tile, pooled as the tokens are loaded; maxima of columns.

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
def pooled(x, y, LARGEST: tl.constexpr, PACKED: tl.constexpr):
    """The larger of each two, or their sum."""
    if LARGEST:
        return larger(x, y, PACKED)
    return x + y


@triton.jit
def load_each(
    base, first, length, stride, each: tl.constexpr, T: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, LARGEST: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Of each 16 tokens of a tile the one numbered `each`: [T / 16, WIDTH]."""
    column = tl.arange(0, WIDTH)
    row = tl.arange(0, T // 16) * 16 + each
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    if WHOLE:
        x = tl.load(at)
    else:
        inside = (first + row < length)[:, None] & (column < DIM)[None, :]
        x = tl.load(at, mask=inside, other=0.0)
    return x if LARGEST else x.to(tl.float32)


@triton.jit
def load_pair(
    base, first, length, stride, each: tl.constexpr, T: tl.constexpr, DIM: tl.constexpr,
    WIDTH: tl.constexpr, LARGEST: tl.constexpr, PACKED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Tokens `each` and the next of each 16, pooled."""
    x = load_each(base, first, length, stride, each, T, DIM, WIDTH, LARGEST, WHOLE)
    y = load_each(base, first, length, stride, each + 1, T, DIM, WIDTH, LARGEST, WHOLE)
    return pooled(x, y, LARGEST, PACKED)


@triton.jit
def pool_loaded(
    base,
    first,
    length,
    stride,
    T: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LARGEST: tl.constexpr,
    PACKED: tl.constexpr,
    WHOLE: tl.constexpr,  # all places and columns exist
):
    """Maxima or means of the regions inside a tile of at most 64, by their ends: [T / 2, WIDTH].

    The last row has no meaning: a region that ends with the tile is none inside it.
    """
    tl.static_assert(T <= 64)
    a = load_pair(base, first, length, stride, 0, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    b = load_pair(base, first, length, stride, 2, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    c = load_pair(base, first, length, stride, 4, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    d = load_pair(base, first, length, stride, 6, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    e = load_pair(base, first, length, stride, 8, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    f = load_pair(base, first, length, stride, 10, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    g = load_pair(base, first, length, stride, 12, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    h = load_pair(base, first, length, stride, 14, T, DIM, WIDTH, LARGEST, PACKED, WHOLE)
    ab = pooled(a, b, LARGEST, PACKED)
    ef = pooled(e, f, LARGEST, PACKED)
    abcd = pooled(ab, pooled(c, d, LARGEST, PACKED), LARGEST, PACKED)
    efgh = pooled(ef, pooled(g, h, LARGEST, PACKED), LARGEST, PACKED)
    whole = pooled(abcd, efgh, LARGEST, PACKED)
    group = tl.arange(0, T // 16)[:, None]
    if T == 64:
        if LARGEST:
            both = tl.max(tl.where(group < 2, whole, float("-inf")).to(tl.float32), 0)
        else:
            both = tl.sum(tl.where(group < 2, whole, 0.0), 0)
        whole = tl.where(group == 1, both[None, :].to(whole.dtype), whole)
    if not LARGEST:
        kind: tl.constexpr = base.dtype.element_ty
        a, c, e, g = (a * 0.5).to(kind), (c * 0.5).to(kind), (e * 0.5).to(kind), (g * 0.5).to(kind)
        ab, ef, abcd = (ab * 0.25).to(kind), (ef * 0.25).to(kind), (abcd * 0.125).to(kind)
        whole = (whole * tl.where(group == 1, 0.03125, 0.0625)).to(kind)
    even = tl.join(tl.join(a, e), tl.join(c, g))
    odd = tl.join(tl.join(ab, ef), tl.join(abcd, whole))
    found = tl.permute(tl.join(even, odd), (0, 2, 3, 4, 1))
    return tl.reshape(found, [T // 2, WIDTH])


@triton.jit
def halved(x, N: tl.constexpr, WIDTH: tl.constexpr, PACKED: tl.constexpr):
    """The larger of each row of [N, WIDTH] and the one N / 2 after it."""
    first, second = tl.split(tl.permute(tl.reshape(x, [2, N // 2, WIDTH]), (1, 2, 0)))
    return larger(first, second, PACKED)


@triton.jit
def largest(x, N: tl.constexpr, WIDTH: tl.constexpr, PACKED: tl.constexpr):
    """The largest of each column of [N, WIDTH], in float32: first of rows that a thread holds."""
    if PACKED and N >= 32:
        x = halved(halved(x, N, WIDTH, PACKED), N // 2, WIDTH, PACKED)
    return tl.max(x.to(tl.float32), 0)
