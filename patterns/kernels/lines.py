"""What kernels over the lines of a grid share: where a line lies, which tiles of keys it reads.

The tokens of a grid, read row by row: token i lies in row i // U and column i % U. A line is a row
or (DOWN) a column; its tokens are numbered along it. Summaries lie as tokens do, in buffers that
are padded to the whole grid. Letters: B batch, H query heads, L length, S rows, U columns,
P = S * U, D head width; M queries and N keys of a tile.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

UPTO = tl.constexpr(0)  # keys at least `shift` before the query
APART = tl.constexpr(1)  # keys at least `shift` from the query
ALL = tl.constexpr(2)
FROM = tl.constexpr(3)  # keys at least `shift` after the query

# Arguments of which a kernel is not compiled once for 1 and once for multiples of 16.
COUNTS = (
    "length",
    "rows",
    "columns",
    "heads",
    "limit",
    "limit_a",
    "limit_b",
    "q_limit",
    "places",
    "dq_places",
    "dk_places",
)


@triton.jit
def line_start(line, columns, DOWN: tl.constexpr):
    """The first token of a line, as 64 bits: offsets may exceed 2**31 elements."""
    start = tl.cast(line, tl.int64)
    if not DOWN:
        start = start * columns
    return start


@triton.jit
def along(stride, columns, DOWN: tl.constexpr):
    """From a token of a line to the next, where tokens are `stride` apart."""
    step = stride
    if DOWN:
        step = tl.cast(columns, tl.int64) * stride
    return step


@triton.jit
def count_of(line, limit, rows, columns, DOWN: tl.constexpr):
    """How many tokens before `limit` this line has: none if there is no such line."""
    if DOWN:
        count = tl.minimum((limit - line + columns - 1) // columns, rows)
        known = (line >= 0) & (line < columns)
    else:
        count = tl.minimum(limit - line * columns, columns)
        known = (line >= 0) & (line < rows)
    return tl.where(known, tl.maximum(count, 0), 0)


@triton.jit
def spans(first, count, M: tl.constexpr, N: tl.constexpr, SHIFT: tl.constexpr, MASK: tl.constexpr):
    """Which of the tiles of `count` keys the M queries from `first` on see.

    Returns:
        (begin, low, high, whole, plain, masked): the `plain` tiles before `low` and from `high` to
        `whole` are seen whole, the `masked` ones from `begin` to `high`, and a short last one, in
        part; see `plain_tile` and `masked_tile`.
    """
    whole = count // N
    tiles = (count + N - 1) // N
    begin = whole
    low = whole
    high = whole
    if MASK == UPTO:
        low = tl.minimum(tl.maximum(first - SHIFT + 1, 0) // N, whole)
        begin = low
        last = (tl.maximum(first + M - SHIFT, 0) + N - 1) // N
        high = tl.minimum(tl.maximum(last, low), tiles)
    if MASK == APART:
        low = tl.minimum(tl.maximum(first - SHIFT + 1, 0) // N, whole)
        begin = low
        high = tl.minimum((first + M + SHIFT - 1 + N - 1) // N, tiles)
    if MASK == FROM:
        low = whole * 0
        begin = tl.minimum((first + SHIFT) // N, tiles)
        high = tl.minimum((first + M - 1 + SHIFT + N - 1) // N, tiles)
    plain = low
    masked = high - begin
    if MASK == ALL:
        masked = tiles - whole
    elif MASK != UPTO:
        plain += whole - tl.minimum(high, whole)
        masked += tiles - tl.maximum(high, whole)
    return begin, low, high, whole, plain, masked


@triton.jit
def plain_tile(step, low, high):
    """The number of a tile that is seen whole."""
    return tl.where(step < low, step, step - low + high)


@triton.jit
def masked_tile(step, begin, high, whole, masked, MASK: tl.constexpr):
    """The number of a tile that is seen in part: first one that every query sees some key of."""
    if MASK == FROM:
        short = masked - (high - begin)
        tile = tl.where(step < short, whole, high - 1 - step + short)
    else:
        tile = tl.where(step < high - begin, begin + step, whole)
    return tile


@triton.jit
def reader_spans(
    first, count, M: tl.constexpr, N: tl.constexpr, SHIFT: tl.constexpr, MASK: tl.constexpr
):
    """Which of the tiles of M of `count` queries see the N keys from `first` on.

    Returns:
        (begin, low, high, plain, masked): the `plain` tiles before `low` and from `high` on see
        them all, the `masked` ones from `begin` to `high` some.
    """
    tiles = (count + M - 1) // M
    low = tiles
    high = tiles
    begin = tiles
    if MASK == UPTO:
        low = tiles * 0
        begin = tl.minimum((first + SHIFT) // M, tiles)
        high = tl.minimum((first + N - 1 + SHIFT + M - 1) // M, tiles)
    if MASK == APART:
        low = tl.minimum(tl.maximum(first - SHIFT + 1, 0) // M, tiles)
        begin = low
        high = tl.minimum((first + N + SHIFT - 1 + M - 1) // M, tiles)
    if MASK == FROM:
        low = tl.minimum(tl.maximum(first - SHIFT + 1, 0) // M, tiles)
        begin = low
        last = (tl.maximum(first + N - SHIFT, 0) + M - 1) // M
        high = tl.minimum(tl.maximum(last, low), tiles)
    plain = low
    if MASK != FROM:
        plain += tiles - high
    return begin, low, high, plain, high - begin


@triton.jit
def may_read(key, query, count, SHIFT: tl.constexpr, MASK: tl.constexpr):
    """Whether the query sees the key; both are numbers along the line."""
    seen = key < count
    if MASK == UPTO:
        seen = seen & (key <= query - SHIFT)
    if MASK == FROM:  # rows past the end see something, lest their softmax be of nothing
        seen = seen & ((key >= query + SHIFT) | (query >= count))
    if MASK == APART:
        seen = seen & ((key <= query - SHIFT) | (key >= query + SHIFT))
    return seen
