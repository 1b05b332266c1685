"""The own block and the tails of others: `torch.library` operators over the Combiner-Fixed kernels.

To a query the last tokens of another block are what the summary of that block is in Combiner-Fixed:
far columns that it reads beside its own block, in one online softmax. Opaque to torch.compile,
captured by CUDA graphs. Letters as in `patterns.kernels.fixed_summary`; F far columns.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patterns.computed import count
from patterns.kernels import (
    fixed_back_queries,
    fixed_back_tokens,
    fixed_backward,
    fixed_forward,
    tails_kernels,
    tuned,
)
from patterns.kernels.launching import on_device_of, precision, unit_rows
from patterns.kernels.prepared import launch

_LIBRARY = torch.library.Library("attnbench", "FRAGMENT")
_ARGUMENTS = "float scale, int block, int tail, bool causal"
_LIBRARY.define(f"tails(Tensor q, Tensor k, Tensor v, {_ARGUMENTS}) -> Tensor[]")
_LIBRARY.define(
    f"tails_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor[] kept, {_ARGUMENTS}) "
    "-> (Tensor, Tensor, Tensor)"
)
_GIVEN = 4  # `patterns.kernels.fixed_summary.GIVEN`
_COPIED = 64  # far columns that a program copies
_ROWS = 64  # of a tile of `row_products`
_PROGRAMS = 528  # at least so many share the far gradients: four a multiprocessor of an H100
_MOST_SPLITS = 32


def attend_tails(
    q: Tensor, k: Tensor, v: Tensor, *, block: int, tail: int, causal: bool, scale: float
) -> Tensor:
    """Softmax over the own block and the last `tail` tokens of every other (if `causal`: earlier).

    Args:
        q: queries [B, H, L, D], D up to 256; any strides.
        k: keys [B, Hkv, L, D]; H is a multiple of Hkv.
        v: values [B, Hkv, L, D].
        block: tokens a block; the last one may be short.
        tail: at most `block`.
        causal: no query sees a key behind it.
        scale: factor on the scores.

    Returns:
        [B, H, L, D] in the dtype of q, differentiable in q, k and v.
    """
    block = min(block, q.shape[2])
    out: Tensor = torch.ops.attnbench.tails(q, k, v, scale, block, min(tail, block), causal)[0]
    return out


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Sizes and constants that all launches of a call share."""

    batch: int
    heads: int
    group: int  # query heads that share a head of keys
    length: int
    dim: int
    half: bool
    scale: float  # of scores in units of log 2
    block: int
    tail: int
    causal: bool
    exactness: str

    @property
    def lines(self) -> int:
        return self.batch * self.heads

    @property
    def blocks(self) -> int:
        return -(-self.length // self.block)

    @property
    def far(self) -> int:
        """F; none where a single block holds everything."""
        return self.blocks * self.tail if self.blocks > 1 else 0

    @property
    def width(self) -> int:
        return max(16, 1 << (self.dim - 1).bit_length())

    @property
    def sizes(self) -> tuple[Any, ...]:
        """Arguments of every kernel that multiplies matrices."""
        return self.length, self.far, 0, self.scale, self.heads, self.lines

    @property
    def shape(self) -> dict[str, Any]:
        """Constants of every kernel."""
        return {"BLOCK": self.block, "EACH": self.tail, "DIM": self.dim, "WIDTH": self.width}

    @property
    def reading(self) -> dict[str, Any]:
        """Constants of every kernel that multiplies matrices."""
        return {**self.shape, "NEAR": 0, "CAUSAL": self.causal, "PRECISION": self.exactness}

    @property
    def masking(self) -> dict[str, Any]:
        """Constants of those of them that read far columns."""
        return {"PLAIN": self.causal, "BIASED": False}

    def programs(self, tile: int) -> int:
        """Tiles of all blocks of one head, a short last block counted as whole."""
        return self.blocks * -(-self.block // tile)


def _call(q: Tensor, k: Tensor, scale: float, block: int, tail: int, causal: bool) -> _Call:
    batch, heads, length, dim = q.shape
    return _Call(
        batch=batch,
        heads=heads,
        group=heads // k.shape[1],
        length=length,
        dim=dim,
        half=q.element_size() == 2,
        scale=scale / math.log(2),
        block=block,
        tail=tail,
        causal=causal,
        exactness=precision(q),
    )


def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, scale: float, block: int, tail: int, causal: bool
) -> list[Tensor]:
    """The output, its log-sum-exps [B, H, L], and the keys and values of the tails [B, H, F, D]."""
    call = _call(q, k, scale, block, tail, causal)
    far = (call.batch, call.heads, call.far, call.dim)
    return [
        q.new_empty(q.shape),
        q.new_empty(q.shape[:3], dtype=torch.float32),
        k.new_empty(far),
        v.new_empty(far),
    ]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, block: int, tail: int, causal: bool
) -> list[Tensor]:
    q, k, v = unit_rows(q), unit_rows(k), unit_rows(v)
    call = _call(q, k, scale, block, tail, causal)
    results = _forward_fake(q, k, v, scale, block, tail, causal)
    out, lse, far_key, far_value = results
    strides = *k.stride()[:3], *v.stride()[:3]
    tiles = tuned.forward_tiles(call.width, call.half, block, q.device).within(block)
    count(lambda: call.lines * _computed_pairs(call, tiles))
    with on_device_of(q):
        if call.far:
            launch(
                tails_kernels.copy_tails, -(-call.far // _COPIED) * call.lines,
                k, v, far_key, far_value, *strides, call.length, call.blocks, call.heads,
                GROUP=call.group, N=_COPIED, **call.shape,
            )  # fmt: skip
        launch(
            fixed_forward.attend_fixed, call.programs(tiles.queries) * call.lines,
            q, k, v, far_key, far_value, lse, out, lse, *q.stride()[:3], *strides, *call.sizes,
            M=tiles.queries, N=tiles.keys, FAR=call.far > 0, GROUP=call.group,
            **call.reading, **call.masking,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return results


def _computed_pairs(call: _Call, tiles: tuned.Tiles) -> int:
    """Pairs of one head in the tiles of the forward kernel: own blocks, then tails."""
    start = torch.arange(0, call.length, call.block)[:, None]
    first = start + torch.arange(0, call.block, tiles.queries)
    end = (start + call.block).clamp(max=call.length)
    rows = (end - first).clamp(min=0, max=tiles.queries)
    stop = torch.minimum(first + tiles.queries, end) if call.causal else end
    tokens = _whole_tiles(stop - start, tiles.keys, call.length - start)
    seen = start // call.block * call.tail if call.causal else torch.full_like(start, call.far)
    far = _whole_tiles(seen, tiles.keys, torch.full_like(start, call.far))
    return int((rows * (tokens + far)).sum())


def _whole_tiles(keys: Tensor, tile: int, most: Tensor) -> Tensor:
    """Keys rounded up to tiles, of which only `most` exist."""
    return torch.minimum(-(-keys // tile) * tile, most)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: list[Tensor],
    scale: float,
    block: int,
    tail: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out, lse, far_key, far_value = kept
    grad, q, k, v = (unit_rows(x) for x in (grad, q, k, v))
    call = _call(q, k, scale, block, tail, causal)
    lines, dim, width = call.lines, call.dim, call.width
    strides_q, strides_g = q.stride()[:3], grad.stride()[:3]
    strides = *strides_q, *k.stride()[:3], *v.stride()[:3], *strides_g
    delta = torch.empty_like(lse)
    dq, dk, dv = (torch.empty(x.shape, device=x.device, dtype=x.dtype) for x in (q, k, v))
    cut = tuned.far_tiles(width, call.half, q.device)
    columns = -(-call.far // cut.keys)
    splits = 1
    if call.far:
        wanted = -(-_PROGRAMS // (columns * lines))
        splits = min(_MOST_SPLITS, -(-call.length // cut.queries), wanted)
    part_key, part_value = delta.new_empty(2, splits, lines, call.far, dim).unbind()
    with on_device_of(q):
        launch(
            fixed_backward.row_products, -(-call.length // _ROWS) * lines,
            out, grad, delta, *strides_g, call.length, call.heads,
            ROWS=_ROWS, DIM=dim, WIDTH=width,
        )  # fmt: skip
        if call.far:
            launch(
                fixed_backward.far_gradients, columns * splits * lines,
                q, grad, lse, delta, far_key, far_value, lse, part_key, part_value, delta,
                *strides_q, *strides_g, *call.sizes, splits,
                M=cut.queries, N=cut.keys, **call.reading, **call.masking,
                num_warps=cut.warps, num_stages=cut.stages,
            )  # fmt: skip
        cut = tuned.token_tiles(width, call.half, block, q.device).within(block)
        unused = [delta] * 7  # what goes back through summaries
        launch(
            fixed_back_tokens.token_gradients, call.programs(cut.keys) * (lines // call.group),
            q, k, v, grad, lse, delta, *unused, part_key, part_value, dk, dv,
            *strides, *call.sizes, splits,
            M=cut.queries, N=cut.keys, GROUP=call.group, FAR=call.far > 0, KIND=_GIVEN,
            SINKS=False, **call.reading,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        cut = tuned.query_tiles(width, call.half, q.device).within(block)
        launch(
            fixed_back_queries.query_gradients, call.programs(cut.queries) * lines,
            q, k, v, grad, lse, delta, far_key, far_value, lse, delta, delta, dq,
            *strides, *call.sizes,
            M=cut.queries, N=cut.keys, GROUP=call.group, FAR=call.far > 0, KIND=_GIVEN,
            **call.reading, **call.masking,
            num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
    return dq, dk, dv


def _backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor], *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, *ctx.arguments = inputs
    ctx.save_for_backward(q, k, v, *output)


def _differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    q, k, v, *kept = ctx.saved_tensors
    found = torch.ops.attnbench.tails_backward(grads[0], q, k, v, kept, *ctx.arguments)
    return *found, None, None, None, None


for _device in ("CPU", "CUDA"):  # on a CPU in Triton's interpreter
    _LIBRARY.impl("tails", _forward, _device)
    _LIBRARY.impl("tails_backward", _backward, _device)
torch.library.register_fake("attnbench::tails", _forward_fake, lib=_LIBRARY)
torch.library.register_fake("attnbench::tails_backward", _backward_fake, lib=_LIBRARY)
torch.library.register_autograd(
    "attnbench::tails", _differentiate, setup_context=_keep, lib=_LIBRARY
)
