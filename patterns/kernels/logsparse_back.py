"""Combiner-Logsparse backward: three to nine launches, none of them with atomics.

In this order: the product of output and gradient, row by row; what far queries give to sinks; the
gradients of regions, from their readers (`read_gradients`) and through their members
(`summary_gradients`), each put together from chunks; keys and values; queries.
"""

from typing import Any

import torch
from torch import Tensor

from patterns.kernels import (
    logsparse_back_queries,
    logsparse_back_regions,
    logsparse_back_tokens,
)
from patterns.kernels.fixed_backward import row_products
from patterns.kernels.launching import on_device_of, precision, unit_rows
from patterns.kernels.logsparse_call import KINDS, Call, Logsparse

_ROWS = 64  # of a tile of `row_products`
_PROGRAMS = 528  # at least so many share the gradients of sinks: four a multiprocessor of an H100
_MOST_SPLITS = 32


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, ...], form: Logsparse
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output and what the forward returned."""
    out, lse, region_key, region_value, region_bias, pooled, local_lse, first_query = kept
    q, k, v, grad = (unit_rows(x) for x in (q, k, v, grad))
    call = Call(q, k, form)
    heads, length, dim = q.shape[1:]
    lines, kv_lines, lists = call.lines, call.lines // call.group, call.lines * call.sides
    cut, kind = call.tiles, KINDS[form.kind]
    single: dict[str, Any] = {"device": q.device, "dtype": torch.float32}
    whole: dict[str, Any] = {"device": q.device, "dtype": torch.int32}
    strides = *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *grad.stride()[:3]
    delta = torch.empty(lines, length, **single)
    units = call.units
    grad_key, grad_value, grad_query = torch.empty(3, lists, units, dim, **single)
    grad_bias, middle = torch.empty(2, lists, units, **single)
    first_key = torch.empty(lists, units if kind == 0 else 0, dim, **whole)
    with on_device_of(q):
        row_products[(-(-length // _ROWS) * lines,)](
            out, grad, delta, *grad.stride()[:3], length, heads,
            ROWS=_ROWS, DIM=dim, WIDTH=call.width,
        )  # fmt: skip
        if units:
            _regions(
                grad, q, k, v, lse, delta, kept, call,
                (grad_key, grad_value, grad_bias, middle, grad_query, first_key),
            )  # fmt: skip
        reading = {name: x for name, x in call.reading.items() if name not in ("OWN", "WINDOW")}
        columns = -(-call.sink // 16)
        splits = min(_MOST_SPLITS, -(-_PROGRAMS // (columns * lines))) if columns else 0
        part_key = torch.empty(splits, lines, call.sink, dim, **single)
        part_value = torch.empty_like(part_key)
        if columns:
            names = ("BLOCK", "GROUP", "T", "DIM", "WIDTH", "CAUSAL", "PRECISION")
            logsparse_back_tokens.sink_gradients[(columns * splits * lines,)](
                q, k, v, grad, lse, delta, part_key, part_value, *strides,
                length, call.lag, call.sink, call.scale, heads, lines, splits,
                **{name: reading[name] for name in names},
                num_warps=4, num_stages=1,
            )  # fmt: skip
        dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (k, v))
        dq = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        dq_pooled = torch.empty(q.shape, **single)
        sides = [(dk, dv)]
        if call.sides == 2:
            sides.insert(0, (torch.empty(k.shape, **single), torch.empty(v.shape, **single)))
        for side, (dk_side, dv_side) in enumerate(sides):
            logsparse_back_tokens.token_gradients[(-(-length // cut.rows) * kv_lines,)](
                q, k, v, grad, lse, delta, pooled, local_lse,
                grad_key, grad_value, grad_bias, middle, grad_query, first_query, first_key,
                part_key, part_value, *sides[0], dk_side, dv_side, dq_pooled, *strides,
                length, call.lag, call.sink, call.scale, heads, lines, units, splits,
                MIRRORED=side == 1, **reading,
                **cut.tokens.options,
            )  # fmt: skip
        grid = (-(-(length + call.front) // cut.rows) * lines,)
        logsparse_back_queries.query_gradients[grid](
            q, k, v, grad, lse, delta, region_key, region_value, region_bias, dq_pooled, dq,
            *strides, length, call.lag, call.front, call.sink, call.scale, heads, lines, units,
            **call.reading,
            **cut.queries.options,
        )  # fmt: skip
    return dq, dk, dv


def _regions(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    kept: tuple[Tensor, ...],
    call: Call,
    results: tuple[Tensor, ...],
) -> None:
    """Fill in the gradients of the regions of whole units."""
    _, _, region_key, region_value, region_bias, pooled, local_lse, _ = kept
    grad_key, grad_value, grad_bias, middle, grad_query, first_key = results
    heads, length, dim = q.shape[1:]
    lines, lists = call.lines, call.lines * call.sides
    units, chunk_units, cut = call.units, call.chunk_units, call.tiles
    shape, kind = {**call.weighing, "KIND": KINDS[call.form.kind]}, KINDS[call.form.kind]
    several = call.chunks > 1
    single: dict[str, Any] = {"device": q.device, "dtype": torch.float32}

    readers = -(-(units + 1) // chunk_units)
    parts = (lists, readers if several else 0, shape["LEVELS"])
    part_key, part_value = torch.empty(2, *parts, dim, **single)
    part_bias = torch.empty(parts, **single)
    logsparse_back_regions.read_gradients[(lists * readers,)](
        q, grad, lse, delta, pooled, region_key, region_value, region_bias,
        grad_key, grad_value, grad_bias, middle, part_key, part_value, part_bias,
        *q.stride()[:3], *grad.stride()[:3],
        length, call.lag, call.sink, call.scale, heads, lines, units, readers, chunk_units,
        TILE=cut.rows, BIASED=call.biased, PRECISION=precision(q), **shape,
        **cut.reads.options,
    )  # fmt: skip
    if several:
        logsparse_back_regions.sum_reads[(lists * (call.chunks // 2),)](
            pooled, region_key, region_value, grad_key, grad_value, grad_bias, middle,
            part_key, part_value, part_bias,
            length, call.sink, call.scale, lines, units, readers, chunk_units,
            ROWS=16, **shape,
            num_warps=4,
        )  # fmt: skip
    parts = (lists, call.chunks if several else 0, shape["LEVELS"])
    part_query = torch.empty(*parts, dim, **single)
    part_first = torch.empty(*parts, dim if kind == 0 else 0, device=q.device, dtype=torch.int32)
    logsparse_back_regions.summary_gradients[(lists * call.chunks,)](
        k, v, pooled, region_key, local_lse, grad_key, grad_value, grad_bias, middle,
        grad_query, first_key, part_query, part_first, *k.stride()[:3], *v.stride()[:3],
        length, call.sink, call.scale, heads, lines, units, call.chunks, chunk_units,
        TILE=cut.rows, GROUP=call.group, PRECISION=precision(q), **shape,
        **cut.summaries.options,
    )  # fmt: skip
    if several:
        logsparse_back_regions.sum_summaries[(lists * (call.chunks // 2),)](
            grad_query, first_key, part_query, part_first,
            call.scale, lines, units, call.chunks, chunk_units,
            ROWS=16, **{name: x for name, x in shape.items() if name != "UNIT"},
            num_warps=4,
        )  # fmt: skip
