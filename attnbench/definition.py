"""What the definition gives on the checked rows, and how far from it a fast form may be.

In float64 it is what is expected; in the dtype of the run it says how far rounding alone leads.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.predict import free_bytes
from attnbench.rows import few
from patterns.base import Pattern, expand_groups

LONG = 4096  # tokens, from which on the dtype of the run and gradients get a few rows alone
_NO_SIZE = 1e-2  # a gradient this small beside the others is zero but for cancellation
_WEIGHT_BYTES = 1 << 28  # of the definition's rows at once
_PIECE_ELEMENTS = 1 << 24  # batch x heads x length x width that the definition is given at once
_GRAPH_ELEMENTS = 1 << 26  # batch x heads x length x width x rows that one autograd graph may hold
_GRAPH_BYTES = 256  # of each of those on a GPU, where there may be more; 7 to 163 were measured

Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a tensor should be, and how far the definition in the dtype of the run is from that."""

    value: Tensor
    plain_error: float
    largest: float
    sizes: Tensor  # the norm of every row of the output, or the one norm of a gradient
    plain_share: float  # the error of the definition over that, the worst of them


@torch.no_grad()
def expected_output(
    pattern: Pattern, inputs: Inputs, rows: Tensor, scale: float | None
) -> Expected:
    """What the rows of the output should be."""
    pieces = _pieces(inputs)
    precise = torch.cat([_precise(pattern, piece, rows, scale) for piece in pieces], dim=1)
    some = rows if inputs[0].shape[2] <= LONG else few(rows)
    plain = torch.cat([_output(pattern, piece, some, scale) for piece in pieces], dim=1)
    chosen = torch.isin(rows, some)
    sizes = sizes_of(precise, len(rows))
    return _expected(precise, plain, precise[:, :, chosen], sizes, sizes[chosen])


def _precise(pattern: Pattern, inputs: Inputs, rows: Tensor, scale: float | None) -> Tensor:
    batch, heads, length, _ = inputs[0].shape
    step = max(1, _WEIGHT_BYTES // (8 * batch * heads * length))
    doubled = _doubled(inputs)
    parts = [_output(pattern, doubled, some, scale) for some in torch.split(rows, step)]
    return torch.cat(parts, dim=2)


def _pieces(inputs: Inputs) -> list[Inputs]:
    """Some of the heads at a time, where all of them would fill the device: heads are apart."""
    q, k, v = inputs
    count = min(k.shape[1], -(-q.numel() // _PIECE_ELEMENTS))
    kv_heads = -(-k.shape[1] // count)
    heads = kv_heads * (q.shape[1] // k.shape[1])
    parts = torch.split(q, heads, 1), torch.split(k, kv_heads, 1), torch.split(v, kv_heads, 1)
    return list(zip(*parts, strict=True))


def expected_gradients(
    pattern: Pattern, inputs: Inputs, rows: Tensor, d_rows: Tensor, scale: float | None
) -> list[Expected]:
    """What the gradients of q, k and v should be, for these gradients of these rows."""
    pieces = _pieces(inputs)
    d_pieces = torch.split(d_rows, pieces[0][0].shape[1], 1)
    # In the dtype of the run a graph of more rows rounds their sum once more, and allows more.
    few_rows = max(1, _GRAPH_ELEMENTS // inputs[0].numel())
    found = [
        _expected_piece(pattern, piece, rows, d_some, scale, few_rows)
        for piece, d_some in zip(pieces, d_pieces, strict=True)
    ]
    parts = list(zip(*found, strict=True))
    # A gradient that is zero by cancellation is as far off as its terms: as the largest of three.
    sizes = torch.stack([torch.stack([x.sizes for x in one]).norm() for one in parts])
    sizes = torch.where(sizes > _NO_SIZE * sizes.max(), sizes, sizes.max())
    largest = max(x.largest for one in parts for x in one)
    return [
        Expected(
            value=one[0].value if len(one) == 1 else torch.cat([x.value for x in one], dim=1),
            plain_error=max(x.plain_error for x in one),
            largest=largest,
            sizes=size[None],
            plain_share=math.hypot(*(x.plain_share for x in one)) / (float(size) or 1.0),
        )
        for one, size in zip(parts, sizes, strict=True)
    ]


def _expected_piece(
    pattern: Pattern,
    inputs: Inputs,
    rows: Tensor,
    d_rows: Tensor,
    scale: float | None,
    few_rows: int,
) -> list[Expected]:
    """The same for some heads; each `plain_share` is still a norm."""
    many = _many_rows(inputs[0])
    precise = _gradients(pattern, _doubled(inputs), rows, d_rows.double(), scale, many)
    plain = _gradients(pattern, inputs, rows, d_rows, scale, few_rows)
    one = torch.ones(1, device=rows.device, dtype=torch.float64)
    found = [
        _expected(value, coarse, value, value.norm(), one)
        for value, coarse in zip(precise, plain, strict=True)
    ]
    if inputs[0].element_size() > 2:
        return found
    # To keep for as long as kernels of 16 bits are compared with it, this is exact enough.
    return [dataclasses.replace(one, value=one.value.float()) for one in found]


def _gradients(
    pattern: Pattern,
    inputs: Inputs,
    rows: Tensor,
    d_rows: Tensor,
    scale: float | None,
    step: int,
) -> list[Tensor]:
    """Autograd through the definition, `step` rows at a time, summed without further rounding."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    totals = [torch.zeros_like(x, dtype=wide) for x in inputs]
    parts = zip(torch.split(rows, step), torch.split(d_rows, step, dim=2), strict=True)
    for some, d_some in parts:
        with torch.enable_grad():
            out = _output(pattern, (leaves[0], leaves[1], leaves[2]), some, scale)
        found = torch.autograd.grad(out, leaves, d_some, allow_unused=True)
        for total, grad in zip(totals, found, strict=True):
            if grad is not None:
                total.add_(grad)
    return totals


def _many_rows(q: Tensor) -> int:
    """How many rows one graph may have: the fewer graphs, the less often regions are pooled."""
    most = _GRAPH_ELEMENTS
    if q.is_cuda:
        most = max(most, free_bytes(q.device) // _GRAPH_BYTES)
    return max(1, most // q.numel())


def _output(pattern: Pattern, inputs: Inputs, rows: Tensor, scale: float | None) -> Tensor:
    q, k, v = inputs
    return pattern.weights(q, k, rows=rows, scale=scale) @ expand_groups(v, q.shape[1])


def _doubled(inputs: Inputs) -> Inputs:
    q, k, v = inputs
    return q.double(), k.double(), v.double()


def _expected(
    precise: Tensor, plain: Tensor, same: Tensor, sizes: Tensor, same_sizes: Tensor
) -> Expected:
    """`same` are the places of `precise` that `plain` has, `same_sizes` their sizes."""
    plain_error = float((plain.double() - same).abs().max())
    finite = plain_error < float("inf")  # a definition that overflows excuses nothing
    return Expected(
        value=precise,
        plain_error=plain_error if finite else 0.0,
        largest=float(precise.abs().max()),
        sizes=sizes,
        plain_share=worst_share(plain.double() - same, same_sizes) if finite else 0.0,
    )


def sizes_of(x: Tensor, count: int) -> Tensor:
    """The norm of each row of [B, H, R, D], or of all of it where `count` is 1."""
    rows = x.transpose(0, 2).flatten(1) if count > 1 else x.flatten()[None]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms


def worst_share(error: Tensor, sizes: Tensor) -> float:
    """The error over the size, the worst of the rows; 0 over 0 is no error."""
    errors = sizes_of(error, len(sizes))
    return float(torch.where(errors == 0, errors, errors / sizes).max())
