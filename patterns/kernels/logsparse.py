"""Combiner-Logsparse on the GPU: at most five launches forward.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from functools import partial

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import by_hand
from patterns.kernels.combiner_form import Form
from patterns.kernels.launching import on_device_of, unit_rows
from patterns.kernels.logsparse_back import backward
from patterns.kernels.logsparse_call import Call, call_of
from patterns.kernels.logsparse_launches import Regions, forward_launches
from patterns.kernels.logsparse_pairs import computed_pairs


def attend(q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    return by_hand.attend(forward, backward, q, k, v, form, alone=_forward_alone)


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Form) -> tuple[Tensor, ...]:
    """Room for what `forward` returns, in its order."""
    return _room(q, k, v, call_of(q, k, form), indexed=True)


def _room(q: Tensor, k: Tensor, v: Tensor, call: Call, *, indexed: bool) -> tuple[Tensor, ...]:
    lists, units, dim = call.lists, call.units, call.dim
    largest = units if indexed and call.form.kind == "max" else 0
    whole = torch.promote_types(q.dtype, torch.float32)
    return (
        q.new_empty(q.shape),
        q.new_empty((call.lines, call.length), dtype=whole),
        k.new_empty((lists, units, dim)),
        v.new_empty((lists, units, dim)),
        q.new_empty((lists, units if call.biased else 0), dtype=whole),
        q.new_empty((lists, units, dim), dtype=whole),
        q.new_empty((lists, units), dtype=whole),
        q.new_empty((lists, largest, dim), dtype=torch.int32),
    )


def forward(
    q: Tensor, k: Tensor, v: Tensor, form: Form, *, indexed: bool = True
) -> tuple[Tensor, ...]:
    """The output, and what the backward needs: log-sum-exps, and the regions of whole units.

    Args:
        indexed: a backward will follow, which needs to know where each maximum was.
    """
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    strides = q.stride(), k.stride(), v.stride()
    launches = forward_launches(call_of(q, k, form), strides, indexed)
    count(lambda: computed_pairs(launches.call))
    results = _room(q, k, v, launches.call, indexed=indexed)
    out, lse, region_key, region_value, region_bias, *_ = results
    with on_device_of(q):
        if launches.regions is not None:
            _summarise(q, k, v, launches.regions, results)
        launches.attention(q, k, v, region_key, region_value, region_bias, out, lse)
    return results


_forward_alone = partial(forward, indexed=False)


def _summarise(
    q: Tensor, k: Tensor, v: Tensor, regions: Regions, results: tuple[Tensor, ...]
) -> None:
    """Fill in the regions of whole units."""
    _, _, *told, pooled, local_lse, first_query = results
    single, device = torch.float32, q.device
    sums = torch.empty(regions.sums, device=device, dtype=single)
    first_sum = torch.empty_like(sums, dtype=torch.int32) if regions.indexed else first_query
    regions.queries(q, pooled, first_query, sums, first_sum)
    if regions.chunks is not None:
        regions.chunks(sums, first_sum, pooled, first_query)
    dim = q.shape[3]
    part_key, part_value = torch.empty(2, *regions.parts, dim, device=device, dtype=single).unbind()
    part_peak, part_total = torch.empty(2, *regions.parts, device=device, dtype=single).unbind()
    parts = part_key, part_value, part_peak, part_total
    regions.weigh(k, v, pooled, *told, local_lse, *parts)
    if regions.merge is not None:
        regions.merge(pooled, *told, local_lse, *parts)
