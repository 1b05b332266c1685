"""What a call of Combiner-Fixed launches: worked out once for inputs of one kind, then kept.

Letters as in `patterns.kernels.fixed_sizes`; the arguments of both ways in are

    shape: of q, [B, H, L, D].
    kv_heads: Hkv.
    dtype: of q, k and v.
    exactness: of the products of float32 numbers.
    strides: of the inputs, in the order of their gradients; that of the output last.
    device: of all of them, on which tile sizes depend.

While tile sizes are watched (`patterns.kernels.tile_choice`), nothing is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from patterns.kernels import (
    fixed_back_queries,
    fixed_back_tokens,
    fixed_backward,
    fixed_forward,
    fixed_summary,
    tuned,
)
from patterns.kernels.combiner_form import Form
from patterns.kernels.fixed_sizes import Sizes
from patterns.kernels.launching import early_launch
from patterns.kernels.prepared import Launch
from patterns.kernels.tile_choice import remembered

_ROWS = 64  # of a tile of `row_products`
_PROGRAMS = 528  # at least so many share the far gradients: four a multiprocessor of an H100
_MOST_SPLITS = 32

Strides = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The launches forward: of the summaries, where there are any, and of the attention."""

    sizes: Sizes
    tiles: tuned.Tiles
    summaries: Launch | None
    attention: Launch

    def pairs(self) -> int:
        """Products that the tiles make, over all heads."""
        return self.sizes.lines * _computed_pairs(self.sizes, self.tiles)


@remembered
def forward_launches(
    shape: tuple[int, ...],
    kv_heads: int,
    dtype: torch.dtype,
    exactness: str,
    form: Form,
    strides: Strides,
    device: torch.device,
    indexed: bool,
    overlapping: bool,
) -> Forward:
    """Those of a forward pass.

    Args:
        indexed: they are to tell where each maximum was.
        overlapping: the attention may begin while the summaries end.
    """
    sizes = Sizes(shape, kv_heads, dtype, exactness, form)
    numbers = (*_steps(strides), *sizes.counts)
    tiles = tuned.forward_tiles(
        sizes.width, sizes.half, form.block, device, biased=sizes.biases > 0
    ).within(form.block)
    early = sizes.far and overlapping
    return Forward(
        sizes=sizes,
        tiles=tiles,
        summaries=_summaries(sizes, numbers, device, indexed, early) if sizes.far else None,
        attention=Launch(
            fixed_forward.attend_fixed,
            sizes.blocks * -(-form.block // tiles.queries) * sizes.lines,
            (*numbers, sizes.lines),
            {
                **sizes.far_reading,
                **_cut(tiles),
                **early_launch(early),
                "FAR": sizes.far,
                "GROUP": sizes.group,
                "EARLY": early,
            },
        ),
    )


def _summaries(
    sizes: Sizes, numbers: tuple[float, ...], device: torch.device, indexed: bool, early: bool
) -> Launch:
    form = sizes.form
    indexed = indexed and form.kind == "max"
    tiles = tuned.summary_tiles(
        sizes.width, sizes.half, form.block, sizes.biases > 0, indexed, device
    )
    constants = {
        **sizes.constants,
        "TILE": tiles.keys,
        "STAGES": tiles.stages,
        "KIND": sizes.kind,
        "SINKS": sizes.sink > 0,
        "GROUP": sizes.group,
        "INDEXED": indexed,
        "EARLY": early,
        "num_warps": tiles.warps,
    }
    return Launch(fixed_summary.make_summaries, sizes.blocks * sizes.lines, numbers, constants)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Shapes of the float32 tensors between the launches of a backward pass.

    rows: of what each row of the output has one of.
    part_keys, part_biases: of gradients of far keys, in parts.
    region_keys, region_biases: of three and of two things that each region has.
    """

    rows: tuple[int, ...]
    part_keys: tuple[int, ...]
    part_biases: tuple[int, ...]
    region_keys: tuple[int, ...]
    region_biases: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Backward:
    """The launches backward, in their order, and the room that they need."""

    room: Room
    products: Launch
    far: Launch | None
    summaries: Launch | None
    tokens: Launch
    queries: Launch


@remembered
def backward_launches(
    shape: tuple[int, ...],
    kv_heads: int,
    dtype: torch.dtype,
    exactness: str,
    form: Form,
    strides: Strides,
    device: torch.device,
) -> Backward:
    """Those of a backward pass."""
    sizes = Sizes(shape, kv_heads, dtype, exactness, form)
    lines, regions, dim = sizes.lines, sizes.regions, sizes.dim
    tiles = tuned.far_tiles(sizes.width, sizes.half, device)
    programs = -(-sizes.columns // tiles.keys) * lines
    splits = min(_MOST_SPLITS, -(-_PROGRAMS // max(1, programs))) if sizes.far else 1
    q, k, v, grad = strides
    steps = _steps(strides)
    kind, shared = sizes.kind, {"FAR": sizes.far, "GROUP": sizes.group}
    far = summaries = None
    if sizes.far:
        far = Launch(
            fixed_backward.far_gradients,
            programs * splits,
            (*_steps((q, grad)), *sizes.counts, lines, splits),
            {**sizes.far_reading, **_cut(tiles)},
        )
        pooled = tuned.summary_gradient_tiles(sizes.width, form.block, device)
        summaries = Launch(
            fixed_summary.summary_gradients,
            sizes.blocks * lines,
            (*_steps((k, v)), *sizes.counts, lines, splits),
            {
                **sizes.constants,
                "TILE": pooled.keys,
                "KIND": kind,
                "GROUP": sizes.group,
                "num_warps": pooled.warps,
            },
        )
    owned = tuned.token_tiles(sizes.width, sizes.half, form.block, device).within(form.block)
    asking = tuned.query_tiles(sizes.width, sizes.half, device).within(form.block)
    return Backward(
        room=Room(
            rows=(lines, sizes.length),
            part_keys=(splits, lines, sizes.columns, dim),
            part_biases=(splits, lines, sizes.biases),
            region_keys=(3, lines, regions, dim),
            region_biases=(2, lines, regions),
        ),
        products=Launch(
            fixed_backward.row_products,
            -(-sizes.length // _ROWS) * lines,
            (*_steps((grad,)), sizes.length, sizes.heads),
            {"ROWS": _ROWS, "DIM": dim, "WIDTH": sizes.width},
        ),
        far=far,
        summaries=summaries,
        tokens=Launch(
            fixed_back_tokens.token_gradients,
            sizes.blocks * -(-form.block // owned.keys) * (lines // sizes.group),
            (*steps, *sizes.counts, lines, splits),
            {**sizes.reading, **shared, **_cut(owned), "KIND": kind, "SINKS": sizes.sink > 0},
        ),
        queries=Launch(
            fixed_back_queries.query_gradients,
            sizes.blocks * -(-form.block // asking.queries) * lines,
            (*steps, *sizes.counts, lines),
            {**sizes.far_reading, **shared, **_cut(asking), "KIND": kind},
        ),
    )


def _steps(strides: Strides) -> tuple[int, ...]:
    """From sequence to sequence, head to head and row to row; those in a row are one."""
    return tuple(step for of_tensor in strides for step in of_tensor[:3])


def _cut(tiles: tuned.Tiles) -> dict[str, int]:
    return {
        "M": tiles.queries,
        "N": tiles.keys,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _computed_pairs(sizes: Sizes, tiles: tuned.Tiles) -> int:
    """Pairs of one head in the tiles of the forward kernel, as its `ranges` has them."""
    form, length = sizes.form, sizes.length
    start = torch.arange(0, length, form.block)[:, None]
    first = start + torch.arange(0, form.block, tiles.queries)
    end = (start + form.block).clamp(max=length)
    rows = (end - first).clamp(min=0, max=tiles.queries)
    begin = (start - form.near * form.block).clamp(min=0)
    stop = torch.minimum(first + tiles.queries, end)
    far = start // form.block - form.near + sizes.sink
    far = torch.where(far > sizes.sink, far, 0)
    if not form.causal:
        stop = (start + (form.near + 1) * form.block).clamp(max=length)
        far = torch.full_like(start, sizes.columns)
    tokens = _whole_tiles(stop - begin, tiles.keys, length - begin)
    far = _whole_tiles(far, tiles.keys, sizes.columns) if sizes.far else far * 0
    pooled = length if sizes.far else 0  # each token answers the query of its region
    return int((rows * (tokens + far)).sum()) + pooled


def _whole_tiles(keys: Tensor, tile: int, most: Tensor | int) -> Tensor:
    """Keys rounded up to tiles, of which only `most` exist."""
    return torch.minimum(-(-keys // tile) * tile, torch.as_tensor(most))
