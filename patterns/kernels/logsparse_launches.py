"""What a call of Combiner-Logsparse launches forward: worked out once, then kept.

`strides` are those of q, k and v. While tile sizes are watched (`patterns.kernels.tile_choice`),
nothing is kept.
"""

from dataclasses import dataclass

from patterns.kernels import logsparse_forward, logsparse_own, logsparse_regions
from patterns.kernels.combiner_form import power
from patterns.kernels.launching import early_launch
from patterns.kernels.logsparse_call import Call
from patterns.kernels.prepared import Launch
from patterns.kernels.tile_choice import remembered

_SLICE = 32  # columns a program of `pool_chunks` has

Strides = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The launches that make regions of whole units, in their order, and the room they need.

    sums: of what each chunk has one of, [S, C, D].
    parts: of what each chunk gives to the longer regions that it is in, [S, C, LEVELS].
    indexed: they tell where each maximum was.
    chunks, merge: None where a side is one chunk.
    """

    sums: tuple[int, ...]
    parts: tuple[int, ...]
    indexed: bool
    queries: Launch
    chunks: Launch | None
    weigh: Launch
    merge: Launch | None


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The launches forward: of the regions, where there are any, and of the attention."""

    call: Call
    regions: Regions | None
    attention: Launch


@remembered
def forward_launches(call: Call, strides: Strides, indexed: bool) -> Forward:
    """Those of a forward pass; `indexed` where they are to tell where each maximum was."""
    regions = _regions(call, strides, indexed and call.form.kind == "max") if call.units else None
    make = _own_attention if call.reads_own else _attention
    return Forward(call=call, regions=regions, attention=make(call, strides))


def steps(*strides: tuple[int, ...]) -> tuple[int, ...]:
    """From sequence to sequence, head to head and row to row; those in a row are one."""
    return tuple(step for of_tensor in strides for step in of_tensor[:3])


def tile_programs(call: Call) -> int:
    """One for each tile of queries and head."""
    return -(-(call.length + call.front) // call.tiles.rows) * call.lines


def _attention(call: Call, strides: Strides) -> Launch:
    counts = call.length, call.lag, call.front, call.sink, call.scale, call.heads
    return Launch(
        logsparse_forward.attend_logsparse,
        tile_programs(call),
        (*steps(*strides), *counts, call.lines, call.units),
        {**call.reading, **call.tiles.attend.options},
    )


def _own_attention(call: Call, strides: Strides) -> Launch:
    early = call.early and call.units > 0
    options = {**call.tiles.own.options, **early_launch(early)}
    return Launch(
        logsparse_own.attend_own,
        tile_programs(call),
        (*steps(*strides), call.length, call.scale, call.heads, call.lines, call.units),
        {**call.reading_own, "EARLY": early, **options},
    )


def _regions(call: Call, strides: Strides, indexed: bool) -> Regions:
    q, k, v = strides
    cut, early, several = call.tiles, call.early, call.chunks > 1
    cuts = call.units, call.chunks, call.chunk_units
    options = {"EARLY": early, **early_launch(early)}
    each = {**call.weighing, **call.lighter, "TILE": cut.rows}
    pooling = {"LARGEST": call.form.kind == "max", "INDEXED": indexed}
    chunks = merge = None
    if several:
        piece = min(_SLICE, call.width)
        chunks = Launch(
            logsparse_regions.pool_chunks,
            call.lists * -(-call.dim // piece),
            (call.length, call.sink, call.lines, *cuts),
            {
                **call.constants,
                **pooling,
                "SLICE": piece,
                "CHUNKS": power(call.chunks),
                "SIDES": call.sides,
                "num_warps": 4,
                **options,
            },
        )
        merge = Launch(
            logsparse_regions.merge_regions,
            call.lists * (call.chunks // 2),
            (call.length, call.sink, call.scale, call.lines, *cuts),
            {**call.weighing, "ROWS": 16, "KIND": call.kind, "num_warps": 4, **options},
        )
    return Regions(
        sums=(call.lists, call.chunks, call.dim),
        parts=(call.lists, call.chunks if several else 0, call.weighing["LEVELS"]),
        indexed=indexed,
        queries=Launch(
            logsparse_regions.pool_queries,
            call.lists * call.chunks,
            (*steps(q), call.length, call.sink, call.heads, call.lines, *cuts),
            {**each, **pooling, "EARLY": early, **cut.pool.options},
        ),
        chunks=chunks,
        weigh=Launch(
            logsparse_regions.weigh_regions,
            call.lists * call.chunks,
            (*steps(k, v), call.length, call.sink, call.scale, call.heads, call.lines, *cuts),
            {
                **each,
                "GROUP": call.group,
                "KIND": call.kind,
                "PRECISION": call.exactness,
                **options,
                **cut.weigh.options,
            },
        ),
        merge=merge,
    )
