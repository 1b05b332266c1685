"""Combiner-Fixed on the GPU: two launches forward, five backward, nothing held but summaries.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import fixed_backward, fixed_forward, fixed_summary, tuned
from patterns.kernels.launching import (
    early_launch,
    may_overlap,
    on_device_of,
    precision,
    unit_rows,
)

KINDS = {"max": 0, "mean": 1, "mean+size": 2, "variational": 3}
_LOG2E = 1.4426950408889634
_ROWS = 64  # of a tile of `row_products`
_PROGRAMS = 528  # at least so many share the far gradients: four a multiprocessor of an H100
_MOST_SPLITS = 32


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A resolved Combiner-Fixed; `scale` is the factor on the scores."""

    block: int
    near: int
    sink: int
    kind: str
    causal: bool
    scale: float


def attend(q: Tensor, k: Tensor, v: Tensor, form: Fixed) -> Tensor:
    """Differentiable attention of q [B, H, L, D] over k, v [B, Hkv, L, D]."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        found: Tensor = _Function.apply(q, k, v, form)
        return found
    return forward(q, k, v, form, indexed=False)[0]


@dataclass(frozen=True)
class _Launch:
    """Sizes and constants that all launches of a call share."""

    q: Tensor
    k: Tensor
    form: Fixed

    @property
    def lines(self) -> int:
        return self.q.shape[0] * self.q.shape[1]

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    @property
    def blocks(self) -> int:
        return -(-self.q.shape[2] // self.form.block)

    @property
    def sink(self) -> int:
        """Sinks that some query may find far: none, if there is nothing far."""
        return min(self.form.sink, self.q.shape[2]) if self.far else 0

    @property
    def far(self) -> bool:
        """Whether any query has keys beyond its neighbourhood."""
        return self.blocks > self.form.near + 1

    @property
    def width(self) -> int:
        return max(16, 1 << (self.q.shape[3] - 1).bit_length())

    @property
    def half(self) -> bool:
        return self.q.element_size() == 2

    @property
    def scale(self) -> float:
        return self.form.scale * _LOG2E

    @property
    def biased(self) -> bool:
        return KINDS[self.form.kind] >= KINDS["mean+size"]

    @property
    def shape(self) -> dict[str, Any]:
        """Constants that every kernel takes."""
        return {
            "BLOCK": self.form.block,
            "DIM": self.q.shape[3],
            "WIDTH": self.width,
        }

    @property
    def reading(self) -> dict[str, Any]:
        """Constants of the kernels that multiply matrices."""
        form = self.form
        return {
            **self.shape,
            "NEAR": form.near,
            "CAUSAL": form.causal,
            "PLAIN": form.causal and self.sink < form.block,
            "BIASED": self.biased,
            "PRECISION": precision(self.q),
        }


def empty_results(q: Tensor, k: Tensor, v: Tensor, form: Fixed) -> tuple[Tensor, ...]:
    """Room for what `forward` returns, in its order."""
    call = _Launch(q, k, form)
    lines, length, dim = call.lines, *q.shape[2:]
    regions = call.blocks if call.far else 0
    far = regions + call.sink
    largest = regions if form.kind == "max" else 0
    whole = torch.promote_types(q.dtype, torch.float32)
    return (
        q.new_empty(q.shape),
        q.new_empty((lines, length), dtype=whole),
        k.new_empty((lines, far, dim)),
        v.new_empty((lines, far, dim)),
        q.new_empty((lines, far if call.biased else 0), dtype=whole),
        q.new_empty((lines, regions, dim), dtype=whole),
        q.new_empty((lines, regions), dtype=whole),
        q.new_empty((lines, largest, dim), dtype=torch.int32),
        q.new_empty((lines, largest, dim), dtype=torch.int32),
    )


def forward(
    q: Tensor, k: Tensor, v: Tensor, form: Fixed, *, indexed: bool = True
) -> tuple[Tensor, ...]:
    """The output, and what the backward needs: log-sum-exps, far keys, local distributions.

    Args:
        indexed: a backward will follow, which needs to know where each maximum was.
    """
    q, k, v = (unit_rows(x) for x in (q, k, v))
    call = _Launch(q, k, form)
    heads, length = q.shape[1:3]
    results = empty_results(q, k, v, form)
    out, lse, far_key, far_value, far_bias, query, local_lse, first_query, first_key = results
    lines = call.lines
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3])
    early = call.far and may_overlap(q)
    with on_device_of(q):
        if call.far:
            indexed = indexed and form.kind == "max"
            pooled = tuned.summary_tiles(
                call.width, call.half, form.block, call.biased, indexed, q.device
            )
            fixed_summary.make_summaries[(call.blocks * lines,)](
                q, k, v, far_key, far_value, far_bias, query, local_lse, first_query, first_key,
                *strides, length, call.blocks, call.sink, call.scale, heads,
                TILE=pooled.keys,
                STAGES=pooled.stages,
                KIND=KINDS[form.kind],
                SINKS=call.sink > 0,
                GROUP=call.group,
                INDEXED=indexed,
                EARLY=early,
                **call.shape,
                num_warps=pooled.warps,
            )  # fmt: skip
        tiles = tuned.forward_tiles(call.width, call.half, form.block, q.device)
        tiles = tiles.within(form.block)
        count(lambda: lines * _computed_pairs(call, tiles))
        grid = (call.blocks * -(-form.block // tiles.queries) * lines,)
        fixed_forward.attend_fixed[grid](
            q, k, v, far_key, far_value, far_bias, out, lse,
            *strides, length, call.blocks, call.sink, call.scale, heads,
            lines,
            M=tiles.queries,
            N=tiles.keys,
            FAR=call.far,
            GROUP=call.group,
            EARLY=early,
            **call.reading,
            **early_launch(early),
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )  # fmt: skip
    return results


def _computed_pairs(call: _Launch, tiles: tuned.Tiles) -> int:
    """Pairs of one head in the tiles of the forward kernel, as its `ranges` has them."""
    form, length = call.form, call.q.shape[2]
    start = torch.arange(0, length, form.block)[:, None]
    first = start + torch.arange(0, form.block, tiles.queries)
    end = (start + form.block).clamp(max=length)
    rows = (end - first).clamp(min=0, max=tiles.queries)
    begin = (start - form.near * form.block).clamp(min=0)
    stop = torch.minimum(first + tiles.queries, end)
    far = start // form.block - form.near + call.sink
    far = torch.where(far > call.sink, far, 0)
    if not form.causal:
        stop = (start + (form.near + 1) * form.block).clamp(max=length)
        far = torch.full_like(start, call.blocks + call.sink)
    tokens = _whole_tiles(stop - begin, tiles.keys, length - begin)
    far = _whole_tiles(far, tiles.keys, call.blocks + call.sink) if call.far else far * 0
    pooled = length if call.far else 0  # each token answers the query of its region
    return int((rows * (tokens + far)).sum()) + pooled


def _whole_tiles(keys: Tensor, tile: int, most: Tensor | int) -> Tensor:
    """Keys rounded up to tiles, of which only `most` exist."""
    return torch.minimum(-(-keys // tile) * tile, torch.as_tensor(most))


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: tuple[Tensor, ...], form: Fixed
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from that of the output and what `forward` returned."""
    out, lse, far_key, far_value, far_bias, query, local_lse, first_query, first_key = kept
    q, k, v, grad = (unit_rows(x) for x in (q, k, v, grad))
    call = _Launch(q, k, form)
    heads, length, dim = q.shape[1:]
    lines, blocks, sink, group = call.lines, call.blocks, call.sink, call.group
    single: dict[str, Any] = {"device": q.device, "dtype": torch.float32}
    delta = torch.empty(lines, length, **single)
    width, shape, reading = call.width, call.shape, call.reading
    strides_q, strides_k, strides_v = q.stride()[:3], k.stride()[:3], v.stride()[:3]
    strides_g = grad.stride()[:3]
    with on_device_of(q):
        fixed_backward.row_products[(-(-length // _ROWS) * lines,)](
            out, grad, delta, *strides_g, length, heads,
            ROWS=_ROWS,
            DIM=dim,
            WIDTH=width,
        )  # fmt: skip

        keys = tuned.far_tiles(width, call.half, q.device)
        far = sink + blocks if call.far else 0
        columns = -(-far // keys.keys)
        splits = min(_MOST_SPLITS, -(-_PROGRAMS // max(1, columns * lines))) if far else 1
        part_key = torch.empty(splits, lines, far, dim, **single)
        part_value = torch.empty_like(part_key)
        part_bias = torch.empty(splits, lines, far if call.biased else 0, **single)
        regions = blocks if call.far else 0
        grad_key, grad_value, grad_query = torch.empty(3, lines, regions, dim, **single)
        grad_bias, middle = torch.empty(2, lines, regions, **single)
        if call.far:
            fixed_backward.far_gradients[(columns * splits * lines,)](
                q, grad, lse, delta, far_key, far_value, far_bias, part_key, part_value, part_bias,
                *strides_q, *strides_g, length, blocks, sink, call.scale, heads,
                lines, splits,
                M=keys.queries,
                N=keys.keys,
                **reading,
                num_warps=keys.warps,
                num_stages=keys.stages,
            )  # fmt: skip
            pooled = tuned.summary_gradient_tiles(width, form.block, q.device)
            fixed_summary.summary_gradients[(blocks * lines,)](
                k, v, query, local_lse, part_key, part_value, part_bias,
                grad_key, grad_value, grad_bias, grad_query, middle,
                *strides_k, *strides_v, length, blocks, sink, call.scale, heads, lines,
                splits,
                TILE=pooled.keys,
                KIND=KINDS[form.kind],
                GROUP=group,
                **shape,
                num_warps=pooled.warps,
            )  # fmt: skip

        dk = torch.empty(k.shape, device=k.device, dtype=k.dtype)
        dv = torch.empty(v.shape, device=v.device, dtype=v.dtype)
        dq = torch.empty(q.shape, device=q.device, dtype=q.dtype)
        owned = tuned.token_tiles(width, call.half, form.block, q.device).within(form.block)
        common = {**reading, "KIND": KINDS[form.kind], "FAR": call.far, "GROUP": group}
        grid = (blocks * -(-form.block // owned.keys) * (lines // group),)
        fixed_backward.token_gradients[grid](
            q, k, v, grad, lse, delta, query, local_lse, first_key,
            grad_key, grad_value, grad_bias, middle, part_key, part_value, dk, dv,
            *strides_q, *strides_k, *strides_v, *strides_g,
            length, blocks, sink, call.scale, heads, lines, splits,
            M=owned.queries,
            N=owned.keys,
            SINKS=sink > 0,
            **{name: x for name, x in common.items() if name not in ("PLAIN", "BIASED")},
            num_warps=owned.warps,
            num_stages=owned.stages,
        )  # fmt: skip
        tiles = tuned.query_tiles(width, call.half, q.device).within(form.block)
        grid = (blocks * -(-form.block // tiles.queries) * lines,)
        fixed_backward.query_gradients[grid](
            q, k, v, grad, lse, delta, far_key, far_value, far_bias, first_query, grad_query, dq,
            *strides_q, *strides_k, *strides_v, *strides_g,
            length, blocks, sink, call.scale, heads, lines,
            M=tiles.queries,
            N=tiles.keys,
            **common,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )  # fmt: skip
    return dq, dk, dv


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, form: Fixed) -> Tensor:
        kept = forward(q, k, v, form)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.form = form
        return kept[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, *kept = ctx.saved_tensors
        return *backward(grad, q, k, v, tuple(kept), ctx.form), None
