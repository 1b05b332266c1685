"""Combiner-Logsparse on the GPU: at most five launches forward.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from typing import Any

import torch
from torch import Tensor

from patterns.kernels import logsparse_forward, logsparse_own, logsparse_regions
from patterns.kernels.launching import early_launch, on_device_of, precision, unit_rows
from patterns.kernels.logsparse_back import backward
from patterns.kernels.logsparse_call import KINDS, Call, Logsparse, power

_SLICE = 32  # columns a program of `pool_chunks` has


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Logsparse) -> tuple[Tensor, ...]:
    """Room for what `forward` returns, in its order."""
    call = Call(q, k, form)
    lines, (length, dim) = call.lines, q.shape[2:]
    lists = lines * call.sides
    units = call.units
    largest = units if form.kind == "max" else 0
    whole = torch.promote_types(q.dtype, torch.float32)
    return (
        q.new_empty(q.shape),
        q.new_empty((lines, length), dtype=whole),
        k.new_empty((lists, units, dim)),
        v.new_empty((lists, units, dim)),
        q.new_empty((lists, units if call.biased else 0), dtype=whole),
        q.new_empty((lists, units, dim), dtype=whole),
        q.new_empty((lists, units), dtype=whole),
        q.new_empty((lists, largest, dim), dtype=torch.int32),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, form: Logsparse) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        found: Tensor = _Function.apply(q, k, v, form)
        return found
    return forward(q, k, v, form, indexed=False)[0]


def forward(
    q: Tensor, k: Tensor, v: Tensor, form: Logsparse, *, indexed: bool = True
) -> tuple[Tensor, ...]:
    """The output, and what the backward needs: log-sum-exps, and the regions of whole units.

    Args:
        indexed: a backward will follow, which needs to know where each maximum was.
    """
    q, k, v = (unit_rows(x) for x in (q, k, v))
    call = Call(q, k, form)
    results = empty_results(q, k, v, form)
    out, lse, region_key, region_value, region_bias, *_ = results
    length = q.shape[2]
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    cut = call.tiles
    early = call.early and call.units > 0
    with on_device_of(q):
        if call.units:
            _summarise(q, k, v, call, results, indexed and form.kind == "max")
        grid = (-(-(length + call.front) // cut.rows) * call.lines,)
        if call.reads_own:
            logsparse_own.attend_own[grid](
                q, k, v, region_key, region_value, region_bias, out, lse,
                *strides, length, call.scale, q.shape[1], call.lines, call.units,
                **call.reading_own, EARLY=early,
                **cut.own.options, **early_launch(early),
            )  # fmt: skip
        else:
            logsparse_forward.attend_logsparse[grid](
                q, k, v, region_key, region_value, region_bias, out, lse,
                *strides, length, call.lag, call.front, call.sink, call.scale, q.shape[1],
                call.lines, call.units,
                **call.reading,
                **cut.attend.options,
            )  # fmt: skip
    return results


def _summarise(
    q: Tensor, k: Tensor, v: Tensor, call: Call, results: tuple[Tensor, ...], indexed: bool
) -> None:
    """Fill in the regions of whole units."""
    _, _, region_key, region_value, region_bias, pooled, local_lse, first_query = results
    cut, lists = call.tiles, call.lines * call.sides
    heads, length, dim = q.shape[1:]
    units, chunks, chunk_units = call.units, call.chunks, call.chunk_units
    early = call.early
    shape, levels = call.weighing, call.weighing["LEVELS"]
    kind = KINDS[call.form.kind]
    sizes: dict[str, Any] = {"device": q.device, "dtype": torch.float32}
    sums = torch.empty(lists, chunks, dim, **sizes)
    first_sum = torch.empty_like(sums, dtype=torch.int32) if indexed else first_query
    logsparse_regions.pool_queries[(lists * chunks,)](
        q, pooled, first_query, sums, first_sum, *q.stride()[:3],
        length, call.sink, heads, call.lines, units, chunks, chunk_units,
        TILE=cut.rows, LARGEST=kind == 0, INDEXED=indexed, **shape,
        **call.lighter, EARLY=early,
        **cut.pool.options,
    )  # fmt: skip
    if chunks > 1:
        piece = min(_SLICE, call.width)
        logsparse_regions.pool_chunks[(lists * -(-dim // piece),)](
            sums, first_sum, pooled, first_query,
            length, call.sink, call.lines, units, chunks, chunk_units,
            SLICE=piece, CHUNKS=power(chunks), LARGEST=kind == 0, INDEXED=indexed,
            SIDES=call.sides, **call.shape, EARLY=early,
            num_warps=4, **early_launch(early),
        )  # fmt: skip
    parts = chunks if chunks > 1 else 0
    part_key = torch.empty(lists, parts, levels, dim, **sizes)
    part_value = torch.empty_like(part_key)
    part_peak, part_total = torch.empty(2, lists, parts, levels, **sizes)
    logsparse_regions.weigh_regions[(lists * chunks,)](
        k, v, pooled, region_key, region_value, region_bias, local_lse,
        part_key, part_value, part_peak, part_total, *k.stride()[:3], *v.stride()[:3],
        length, call.sink, call.scale, heads, call.lines, units, chunks, chunk_units,
        TILE=cut.rows, GROUP=call.group, KIND=kind, PRECISION=precision(q), **shape,
        **call.lighter, EARLY=early,
        **cut.weigh.options, **early_launch(early),
    )  # fmt: skip
    if chunks > 1:
        logsparse_regions.merge_regions[(lists * (chunks // 2),)](
            pooled, region_key, region_value, region_bias, local_lse,
            part_key, part_value, part_peak, part_total,
            length, call.sink, call.scale, call.lines, units, chunks, chunk_units,
            ROWS=16, KIND=kind, **shape, EARLY=early,
            num_warps=4, **early_launch(early),
        )  # fmt: skip


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, form: Logsparse) -> Tensor:
        kept = forward(q, k, v, form)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.form = form
        return kept[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        return *backward(grad, q, k, v, tuple(kept), ctx.form), None
