"""Combiner-Fixed on the GPU: two launches forward, five backward, nothing held but summaries.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import by_hand
from patterns.kernels.combiner_form import Form
from patterns.kernels.fixed_launches import backward_launches, forward_launches
from patterns.kernels.fixed_sizes import Sizes
from patterns.kernels.launching import may_overlap, on_device_of, precision, unit_rows


def attend(q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    return by_hand.attend(forward, backward, q, k, v, form, alone=_forward_alone)


def empty_results(
    q: Tensor, k: Tensor, v: Tensor, form: Form, indexed: bool = True
) -> tuple[Tensor, ...]:
    """Room for what `forward` returns, in its order."""
    sizes = Sizes(q.shape, k.shape[1], q.dtype, precision(q), form)
    lines, far, regions = sizes.lines, sizes.columns, sizes.regions
    length, dim = q.shape[2:]
    largest = regions if indexed and form.kind == "max" else 0
    whole = torch.promote_types(q.dtype, torch.float32)
    return (
        q.new_empty(q.shape),
        q.new_empty((lines, length), dtype=whole),
        k.new_empty((lines, far, dim)),
        v.new_empty((lines, far, dim)),
        q.new_empty((lines, sizes.biases), dtype=whole),
        q.new_empty((lines, regions, dim), dtype=whole),
        q.new_empty((lines, regions), dtype=whole),
        q.new_empty((lines, largest, dim), dtype=torch.int32),
        q.new_empty((lines, largest, dim), dtype=torch.int32),
    )


def forward(
    q: Tensor, k: Tensor, v: Tensor, form: Form, *, indexed: bool = True
) -> tuple[Tensor, ...]:
    """The output, and what the backward needs: log-sum-exps, far keys, local distributions.

    Args:
        indexed: a backward will follow, which needs to know where each maximum was.
    """
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    results = empty_results(q, k, v, form, indexed)
    out, lse, far_key, far_value, far_bias, query, local_lse, first_query, first_key = results
    launches = forward_launches(
        q.shape, k.shape[1], q.dtype, precision(q), form,
        (q.stride(), k.stride(), v.stride()), q.device, indexed, may_overlap(q),
    )  # fmt: skip
    count(launches.pairs)
    with on_device_of(q):
        if launches.summaries is not None:
            launches.summaries(
                q, k, v, far_key, far_value, far_bias, query, local_lse, first_query, first_key
            )
        launches.attention(q, k, v, far_key, far_value, far_bias, out, lse)
    return results


_forward_alone = partial(forward, indexed=False)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, ...], form: Form
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output and what `forward` returned."""
    out, lse, far_key, far_value, far_bias, query, local_lse, first_query, first_key = kept
    q, k, v, grad = unit_rows(q), unit_rows(k), unit_rows(v), unit_rows(grad)
    launches = backward_launches(
        q.shape, k.shape[1], q.dtype, precision(q), form,
        (q.stride(), k.stride(), v.stride(), grad.stride()), q.device,
    )  # fmt: skip
    room = launches.room
    single: dict[str, Any] = {"device": q.device, "dtype": torch.float32}
    delta = torch.empty(room.rows, **single)
    part_key = torch.empty(room.part_keys, **single)
    part_value = torch.empty(room.part_keys, **single)
    part_bias = torch.empty(room.part_biases, **single)
    grad_key, grad_value, grad_query = torch.empty(room.region_keys, **single).unbind()
    grad_bias, middle = torch.empty(room.region_biases, **single).unbind()
    dq, dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v))
    parts = part_key, part_value, part_bias
    with on_device_of(q):
        launches.products(out, grad, delta)
        if launches.far is not None and launches.summaries is not None:
            launches.far(q, grad, lse, delta, far_key, far_value, far_bias, *parts)
            launches.summaries(
                k, v, query, local_lse, *parts, grad_key, grad_value, grad_bias, grad_query, middle
            )
        launches.tokens(
            q, k, v, grad, lse, delta, query, local_lse, first_key,
            grad_key, grad_value, grad_bias, middle, part_key, part_value, dk, dv,
        )  # fmt: skip
        launches.queries(
            q, k, v, grad, lse, delta, far_key, far_value, far_bias, first_query, grad_query, dq
        )
    return dq, dk, dv
