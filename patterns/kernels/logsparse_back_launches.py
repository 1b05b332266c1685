"""What a backward pass of Combiner-Logsparse launches: worked out once, then kept.

`strides` are those of q, k, v and of the output's gradient.
"""

from dataclasses import dataclass

from patterns.kernels import (
    logsparse_back_queries,
    logsparse_back_regions,
    logsparse_back_tokens,
)
from patterns.kernels.fixed_backward import row_products
from patterns.kernels.logsparse_call import Call
from patterns.kernels.logsparse_launches import Strides, steps, tile_programs
from patterns.kernels.prepared import Launch
from patterns.kernels.tile_choice import remembered

_ROWS = 64  # of a tile of `row_products`
_PROGRAMS = 528  # at least so many share the gradients of sinks: four a multiprocessor of an H100
_MOST_SPLITS = 32
_SINKS = 16  # a program of `sink_gradients` has


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The launches that make the gradients of whole units' regions, in their order, and their room.

    read_parts: of what each chunk of readers gives to longer regions, [S, R, LEVELS].
    parts: of what each chunk gives to them, [S, C, LEVELS].
    sum_reads, sum_summaries: None where a side is one chunk.
    """

    read_parts: tuple[int, ...]
    parts: tuple[int, ...]
    read: Launch
    sum_reads: Launch | None
    summaries: Launch
    sum_summaries: Launch | None


@dataclass(frozen=True, kw_only=True)
class Backward:
    """The launches of a backward pass, in their order.

    sink_parts: of what far queries give to sinks, [splits, B * H, sinks, D].
    sinks: None where there are none.
    tokens: one for each side.
    """

    call: Call
    sink_parts: tuple[int, ...]
    products: Launch
    regions: Regions | None
    sinks: Launch | None
    tokens: tuple[Launch, ...]
    queries: Launch


@remembered
def backward_launches(call: Call, strides: Strides) -> Backward:
    """Those of a backward pass."""
    lines, cut = call.lines, call.tiles
    columns = -(-call.sink // _SINKS)
    splits = min(_MOST_SPLITS, -(-_PROGRAMS // (columns * lines))) if columns else 0
    return Backward(
        call=call,
        sink_parts=(splits, lines, call.sink, call.dim),
        products=Launch(
            row_products,
            -(-call.length // _ROWS) * lines,
            (*steps(strides[3]), call.length, call.heads),
            {"ROWS": _ROWS, "DIM": call.dim, "WIDTH": call.width},
        ),
        regions=_regions(call, strides) if call.units else None,
        sinks=_sinks(call, strides, columns, splits) if columns else None,
        tokens=tuple(_tokens(call, strides, splits, side) for side in range(call.sides)),
        queries=Launch(
            logsparse_back_queries.query_gradients,
            tile_programs(call),
            (*_each(call, strides, call.front), call.units),
            {**call.reading, **cut.queries.options},
        ),
    )


def _each(call: Call, strides: Strides, *front: int) -> tuple[float, ...]:
    """Numbers of the kernels that read all tokens."""
    counts = call.length, call.lag, *front, call.sink, call.scale, call.heads, call.lines
    return *steps(*strides), *counts


def _sinks(call: Call, strides: Strides, columns: int, splits: int) -> Launch:
    names = ("BLOCK", "GROUP", "T", "DIM", "WIDTH", "CAUSAL", "PRECISION")
    return Launch(
        logsparse_back_tokens.sink_gradients,
        columns * splits * call.lines,
        (*_each(call, strides), splits),
        {**{name: call.reading[name] for name in names}, "num_warps": 4, "num_stages": 1},
    )


def _tokens(call: Call, strides: Strides, splits: int, side: int) -> Launch:
    reading = {name: x for name, x in call.reading.items() if name not in ("OWN", "WINDOW")}
    return Launch(
        logsparse_back_tokens.token_gradients,
        -(-call.length // call.tiles.rows) * (call.lines // call.group),
        (*_each(call, strides), call.units, splits),
        {**reading, "MIRRORED": side == 1, **call.tiles.tokens.options},
    )


def _regions(call: Call, strides: Strides) -> Regions:
    q, k, v, grad = strides
    cut, levels, several = call.tiles, call.weighing["LEVELS"], call.chunks > 1
    each = {**call.weighing, "KIND": call.kind}
    multiplying = {**each, "TILE": cut.rows, "PRECISION": call.exactness}
    readers = -(-(call.units + 1) // call.chunk_units)
    reads = call.units, readers, call.chunk_units
    chunks = call.units, call.chunks, call.chunk_units
    longer = call.lists * (call.chunks // 2)  # regions longer than a chunk, of all lists
    summing = {"ROWS": 16, "num_warps": 4}
    return Regions(
        read_parts=(call.lists, readers if several else 0, levels),
        parts=(call.lists, call.chunks if several else 0, levels),
        read=Launch(
            logsparse_back_regions.read_gradients,
            call.lists * readers,
            (*_each(call, (q, grad)), *reads),
            {**multiplying, "BIASED": call.biased, **cut.reads.options},
        ),
        sum_reads=Launch(
            logsparse_back_regions.sum_reads,
            longer,
            (call.length, call.sink, call.scale, call.lines, *reads),
            {**each, **summing},
        )
        if several
        else None,
        summaries=Launch(
            logsparse_back_regions.summary_gradients,
            call.lists * call.chunks,
            (*steps(k, v), call.length, call.sink, call.scale, call.heads, call.lines, *chunks),
            {**multiplying, "GROUP": call.group, **cut.summaries.options},
        ),
        sum_summaries=Launch(
            logsparse_back_regions.sum_summaries,
            longer,
            (call.scale, call.lines, *chunks),
            {**{name: x for name, x in each.items() if name != "UNIT"}, **summing},
        )
        if several
        else None,
    )
