"""Combiner-Logsparse: regions inside a tile, told by where they end.

Places are tokens counted from the side that a query looks back to: tokens themselves, or from the
end. A region is a dyadic block of places whose number is even. It ends where no other does: the
region that ends with place j, j + 1 in units of leaves, has as many as the lowest bit of j + 1
says. So a tile of T places has one column for two places: the regions inside it, from two tokens
on. All rows and columns of such tiles are in the order of `reversed_bits`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import triton
import triton.language as tl

MAX = tl.constexpr(0)
MEAN = tl.constexpr(1)
MEAN_SIZE = tl.constexpr(2)
VARIATIONAL = tl.constexpr(3)
LOG2E = tl.constexpr(1.4426950408889634)

# Arguments of which a kernel is not compiled once for 1 and once for multiples of 16.
COUNTS = ("length", "lag", "front", "sink", "heads", "lines", "units", "chunks", "chunk_units")


@triton.jit
def side_base(base, line, heads, batch_stride, head_stride, GROUP: tl.constexpr):
    """Where a head begins; 64 bits, for tensors of more than 2^31 numbers."""
    batch = (line // heads).to(tl.int64)
    head = (line % heads // GROUP).to(tl.int64)
    return base + batch * batch_stride + head * head_stride


@triton.jit
def reversed_bits(T: tl.constexpr):
    """The numbers below T, a power of two, their bits read backwards.

    In this order rows that differ by one lie far apart in a tile, which a thread holds: pooling
    pairs of them needs no exchange between threads.
    """
    index = tl.arange(0, T)
    found = index * 0
    for bit in tl.static_range(10):
        found += ((index >> bit) & 1) * (T >> (bit + 1))
    return found


@triton.jit
def load_places(base, first, row, length, stride, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Rows `first` + row [N], [N, WIDTH]: zeros before 0, from `length` on, and past `DIM`."""
    column = tl.arange(0, WIDTH)
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    inside = ((first + row >= 0) & (first + row < length))[:, None]
    if WIDTH > DIM:
        inside = inside & (column < DIM)[None, :]
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def store_places(base, tile, first, row, length, stride, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Write the rows `first` + row that are at least 0 and lie before `length`."""
    column = tl.arange(0, WIDTH)
    at = base + tl.cast(first, tl.int64) * stride + row[:, None] * stride + column[None, :]
    inside = ((first + row >= 0) & (first + row < length))[:, None] & (column < DIM)[None, :]
    tl.store(at, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def members(begin, end, opens, closes):
    """How many places of a region [begin, end) belong to it: those in [opens, closes) alone."""
    return tl.maximum(tl.minimum(end, closes) - tl.maximum(begin, opens), 0)


@triton.jit
def paired(x, N: tl.constexpr, WIDTH: tl.constexpr):
    """Rows in reversed order, [N, WIDTH], side by side: [0] the even ones, [1] the odd ones."""
    return tl.reshape(x, [2, N // 2, WIDTH])


@triton.jit
def doubled(x, N: tl.constexpr, WIDTH: tl.constexpr):
    """A row for each two of [N, WIDTH], twice: [2, N / 2, WIDTH]."""
    return tl.broadcast_to(x[None, :, :], [2, N // 2, WIDTH])


@triton.jit
def fenwick(x, N: tl.constexpr, WIDTH: tl.constexpr, LARGEST: tl.constexpr):
    """The rows of the region that ends with each row, pooled: [N, WIDTH] in reversed order."""
    pair = paired(x, N, WIDTH)
    # The maximum of bfloat16 is a float32.
    longer = tl.max(pair, 0).to(x.dtype) if LARGEST else tl.sum(pair, 0)
    if N > 2:
        longer = fenwick(longer, N // 2, WIDTH, LARGEST)
    odd = tl.arange(0, 2)[:, None, None] == 1
    return tl.reshape(tl.where(odd, doubled(longer, N, WIDTH), pair), [N, WIDTH])


@triton.jit
def fenwick_first(x, token, N: tl.constexpr, WIDTH: tl.constexpr):
    """As `fenwick` for the largest, and the first token that has it: two [N, WIDTH]."""
    pair, tokens = paired(x, N, WIDTH), paired(token, N, WIDTH)
    longer = tl.max(pair, 0)
    best = pair == doubled(longer, N, WIDTH)
    longer_token = tl.min(tl.where(best, tokens, 2147483647), 0)
    if N > 2:
        longer, longer_token = fenwick_first(longer, longer_token, N // 2, WIDTH)
    odd = tl.arange(0, 2)[:, None, None] == 1
    found = tl.where(odd, doubled(longer, N, WIDTH), pair)
    where = tl.where(odd, doubled(longer_token, N, WIDTH), tokens)
    return tl.reshape(found, [N, WIDTH]), tl.reshape(where, [N, WIDTH])


@triton.jit
def winners(x, N: tl.constexpr, WIDTH: tl.constexpr, MIRRORED: tl.constexpr):
    """The larger of each two rows [N / 2, WIDTH], and which it is [2, N / 2, WIDTH].

    Of two equal ones it is the first token: the odd row if the rows are MIRRORED.
    """
    pair = paired(x, N, WIDTH)
    larger = tl.max(pair, 0).to(x.dtype)
    smaller = tl.min(pair, 0).to(x.dtype)
    last = tl.arange(0, 2)[:, None, None] == (0 if MIRRORED else 1)
    wins = pair == doubled(larger, N, WIDTH)
    return larger, wins & ~(last & (pair == doubled(smaller, N, WIDTH)))


@triton.jit
def fenwick_back(x, grad, N: tl.constexpr, WIDTH: tl.constexpr, MIRRORED: tl.constexpr):
    """The gradient of x from that of `fenwick(x)`: equal maxima go to the first token."""
    longer, wins = winners(x, N, WIDTH, MIRRORED)
    odd = tl.arange(0, 2)[:, None, None] == 1
    pair = paired(grad, N, WIDTH)
    grad_longer = tl.sum(tl.where(odd, pair, 0.0), 0)
    if N > 2:
        grad_longer = fenwick_back(longer, grad_longer, N // 2, WIDTH, MIRRORED)
    found = tl.where(odd, 0.0, pair) + tl.where(wins, doubled(grad_longer, N, WIDTH), 0.0)
    return tl.reshape(found, [N, WIDTH])


@triton.jit
def inner_ends(BLOCK: tl.constexpr, T: tl.constexpr):
    """Where the regions inside a run end, as offsets, and how long they are; 0 where none is."""
    end = 2 * reversed_bits(T // 2) + 2
    size = end & (0 - end)
    return end, tl.where((size >= BLOCK) & (size < T), size, 0)


@triton.jit
def inner_members(start, opens, closes, BLOCK: tl.constexpr, T: tl.constexpr, SINKS: tl.constexpr):
    """Which places of a run are in each region: [T / 2, T], how many, and which are in any."""
    place = reversed_bits(T)
    end, size = inner_ends(BLOCK, T)
    inside = (place[None, :] < end[:, None]) & (place[None, :] >= (end - size)[:, None])
    member = (start + place >= opens) & (start + place < closes)
    count = size
    if SINKS:
        inside = inside & member[None, :]
        count = tl.where(size > 0, members(start + end - size, start + end, opens, closes), 0)
    return inside, count, member


@triton.jit
def inner_visible(bound, alive, BLOCK: tl.constexpr, T: tl.constexpr):
    """Which regions of a run the queries read whose bounds (offsets in the run) these are."""
    end, size = inner_ends(BLOCK, T)
    reads = (bound[:, None] & (0 - size)[None, :]) == end[None, :]
    return reads & alive[None, :]


@triton.jit
def pool(
    x,
    inside,
    count,
    member,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The pooled rows of every region inside a run, [T / 2, WIDTH]; zeros where nothing is left."""
    if KIND == MAX:
        if SINKS:
            x = tl.where(member[:, None], x, float("-inf")).to(x.dtype)
        found = tl.max(paired(x, T, WIDTH), 0).to(x.dtype)
        found = fenwick(found, T // 2, WIDTH, True)
        found = tl.where((count > 0)[:, None], found, 0.0)
    else:
        found = tl.dot(inside.to(x.dtype), x, input_precision=PRECISION)
        found = found / tl.maximum(count, 1).to(tl.float32)[:, None]
    return found.to(x.dtype)


@triton.jit
def unpool(
    grad,
    x,
    inside,
    count,
    member,
    T: tl.constexpr,
    WIDTH: tl.constexpr,
    KIND: tl.constexpr,
    SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """The gradient of x from that of `pool(x)`: float32 [T, WIDTH]."""
    if KIND == MAX:
        if SINKS:
            x = tl.where(member[:, None], x, float("-inf")).to(x.dtype)
        larger, wins = winners(x, T, WIDTH, MIRRORED)
        pair = doubled(fenwick_back(larger, grad, T // 2, WIDTH, MIRRORED), T, WIDTH)
        found = tl.reshape(tl.where(wins, pair, 0.0), [T, WIDTH])
    else:
        share = (grad / tl.maximum(count, 1).to(tl.float32)[:, None]).to(x.dtype)
        found = tl.dot(tl.trans(inside.to(x.dtype)), share, input_precision=PRECISION)
    return found


@triton.jit
def inner_summaries(
    queries,
    keys,
    values,
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
):
    """Of the regions inside a run keys, values, biases, and which of them have a member.

    Then what the backward goes through again: their queries, log-sum-exps, which places are in
    which region, how many, and which are in any.
    """
    inside, count, member = inner_members(start, opens, closes, BLOCK, T, SINKS)
    asked = pool(queries, inside, count, member, T, WIDTH, KIND, SINKS, PRECISION)
    scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION)
    scores = tl.where(inside, scores, float("-inf"))
    peak = tl.where(count > 0, tl.max(scores, 1), 0.0) * scale
    weights = tl.exp2(scores * scale - peak[:, None])
    total = tl.where(count > 0, tl.sum(weights, 1), 1.0)
    share = (1.0 / total)[:, None]
    value = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION) * share
    bias = tl.zeros([T // 2], tl.float32)
    if KIND == VARIATIONAL:
        key = tl.dot(weights.to(keys.dtype), keys, input_precision=PRECISION) * share
        bias = peak + tl.log2(total) - scale * tl.sum(key * asked.to(tl.float32), 1)
    else:
        key = pool(keys, inside, count, member, T, WIDTH, KIND, SINKS, PRECISION)
    if KIND == MEAN_SIZE:
        bias = tl.log2(tl.maximum(count, 1).to(tl.float32))
    key, value, lse = key.to(keys.dtype), value.to(values.dtype), peak + tl.log2(total)
    return key, value, bias, count > 0, asked, lse, inside, count, member
