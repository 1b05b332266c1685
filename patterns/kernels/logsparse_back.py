"""Combiner-Logsparse backward: three to nine launches, none of them with atomics.

In this order: the product of output and gradient, row by row; the gradients of regions, from their
readers (`read_gradients`) and through their members (`summary_gradients`), each put together from
chunks; what far queries give to sinks; keys and values; queries.
"""

from typing import Any

import torch
from torch import Tensor

from patterns.kernels.combiner_form import Form
from patterns.kernels.launching import on_device_of, unit_rows
from patterns.kernels.logsparse_back_launches import Regions, backward_launches
from patterns.kernels.logsparse_call import call_of


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, ...], form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output and what the forward returned."""
    out, lse, region_key, region_value, region_bias, pooled, local_lse, first_query = kept
    q, k, v, grad = unit_rows(q), unit_rows(k), unit_rows(v), unit_rows(grad)
    strides = q.stride(), k.stride(), v.stride(), grad.stride()
    launches = backward_launches(call_of(q, k, form), strides)
    call = launches.call
    lists, units, dim = call.lists, call.units, call.dim
    largest = units if form.kind == "max" else 0
    single: dict[str, Any] = {"device": q.device, "dtype": torch.float32}
    delta = torch.empty((call.lines, call.length), **single)
    grad_key, grad_value, grad_query = torch.empty((3, lists, units, dim), **single).unbind()
    grad_bias, middle = torch.empty((2, lists, units), **single).unbind()
    first_key = torch.empty((lists, largest, dim), device=q.device, dtype=torch.int32)
    grads = grad_key, grad_value, grad_bias, middle
    part_key, part_value = torch.empty((2, *launches.sink_parts), **single).unbind()
    with on_device_of(q):
        launches.products(out, grad, delta)
        if launches.regions is not None:
            reading = q, grad, lse, delta
            _regions(reading, (k, v), kept, launches.regions, grads, grad_query, first_key)
        if launches.sinks is not None:
            launches.sinks(q, k, v, grad, lse, delta, part_key, part_value)
        # Not earlier: what the regions needed for a while is free again.
        dq, dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v))
        dq_pooled = torch.empty(q.shape, **single)
        sides = [(dk, dv)]
        if call.sides == 2:
            sides.insert(0, (torch.empty(k.shape, **single), torch.empty(v.shape, **single)))
        for tokens, of_side in zip(launches.tokens, sides, strict=True):
            tokens(
                q, k, v, grad, lse, delta, pooled, local_lse, *grads, grad_query,
                first_query, first_key, part_key, part_value, *sides[0], *of_side, dq_pooled,
            )  # fmt: skip
        launches.queries(
            q, k, v, grad, lse, delta, region_key, region_value, region_bias, dq_pooled, dq
        )
    return dq, dk, dv


def _regions(
    reading: tuple[Tensor, ...],
    members: tuple[Tensor, Tensor],
    kept: tuple[Tensor, ...],
    launches: Regions,
    grads: tuple[Tensor, ...],
    grad_query: Tensor,
    first_key: Tensor,
) -> None:
    """Fill in the gradients of the regions of whole units."""
    _, _, region_key, region_value, region_bias, pooled, local_lse, _ = kept
    single: dict[str, Any] = {"device": pooled.device, "dtype": torch.float32}
    dim = pooled.shape[2]
    part_key, part_value = torch.empty((2, *launches.read_parts, dim), **single).unbind()
    part_bias = torch.empty(launches.read_parts, **single)
    launches.read(
        *reading, pooled, region_key, region_value, region_bias, *grads,
        part_key, part_value, part_bias,
    )  # fmt: skip
    if launches.sum_reads is not None:
        launches.sum_reads(
            pooled, region_key, region_value, *grads, part_key, part_value, part_bias
        )
    part_query = torch.empty((*launches.parts, dim), **single)
    largest = dim if first_key.shape[1] else 0
    part_first = torch.empty((*launches.parts, largest), device=pooled.device, dtype=torch.int32)
    launches.summaries(
        *members, pooled, region_key, local_lse, *grads, grad_query, first_key,
        part_query, part_first,
    )  # fmt: skip
    if launches.sum_summaries is not None:
        launches.sum_summaries(grad_query, first_key, part_query, part_first)
