"""The map that a fast form really applies, read off by running it: in slabs, never L x L at once.

Where the output is linear in the values, it is A @ v for one map A. Columns of A are the outputs
for values that are columns of the identity. Rows of A are the gradients of the values for a
gradient of the output that is one at one row: far fewer calls where only some rows are wanted.
Letters: B batch, H heads (Hq/Hkv), L length, D head width, W columns or rows at once, R rows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench import mapstats
from attnbench.reference import Reference
from attnbench.softmax import Operands, log_weights
from patterns.base import Pattern, expand_groups
from patterns.errors import Unsupported

_WIDEST = 512  # columns at once
_SLAB_BYTES = {"cpu": 1 << 25}
_SLAB_BYTES_ELSEWHERE = 1 << 28
_CHUNK = {"cpu": 1 << 17}  # numbers of a map that are compared at once; elsewhere:
_CHUNK_ELSEWHERE = 1 << 25
_SAME = 64  # units in the last place by which zeros beside the heads may change an output


@torch.no_grad()
def columns(
    pattern: Pattern, q: Tensor, k: Tensor, *, scale: float, backend: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every column of the map: (keys int64 [W], slab [B, Hq, L, W]) in the dtype of q.

    Raises:
        Unsupported: the backend cannot run these inputs.
    """
    batch, length = q.shape[0], q.shape[2]
    q, k = _widened(pattern, q, k, scale, backend)
    width = q.shape[-1]
    # As many slabs at once as sequences of one batch: a call costs more than its arithmetic.
    most = max(1, min(_WIDEST // width, _room(q) // (q.numel() * q.element_size())))
    together = min(most, -(-length // width))
    q, k = (x.repeat(together, 1, 1, 1) for x in (q, k))
    identity = q.new_zeros(together, batch, *k.shape[1:])
    for start in range(0, length, together * width):
        keys = torch.arange(start, min(start + together * width, length), device=q.device)
        identity.zero_()
        identity[(keys - start) // width, :, :, keys, (keys - start) % width] = 1
        slabs = pattern.attend(q, k, identity.flatten(0, 1), scale=scale, backend=backend)
        slab = slabs.reshape(together, batch, *slabs.shape[1:]).permute(1, 2, 3, 0, 4).flatten(3)
        yield keys, slab[..., : len(keys)]


def rows(
    pattern: Pattern, q: Tensor, k: Tensor, wanted: Tensor, *, scale: float, backend: str
) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of the map: (which of `wanted`, slab [B, Hq, W, L]) in the dtype of q.

    Raises:
        Unsupported: the backend cannot run these inputs, or not their backward pass.
    """
    k = expand_groups(k, q.shape[1])  # so that each query head has values, and so rows, of its own
    with torch.enable_grad():
        v = torch.zeros_like(k, requires_grad=True)
        out = pattern.attend(q.detach(), k.detach(), v, scale=scale, backend=backend)
    if not out.requires_grad:
        raise Unsupported(f"{pattern.name} on backend {backend} has no backward pass")
    width = q.shape[-1]
    for start in range(0, len(wanted), width):
        some = wanted[start : start + width]
        grad = torch.zeros_like(out)
        grad[:, :, some, torch.arange(len(some), device=q.device)] = 1
        (found,) = torch.autograd.grad(out, v, grad, retain_graph=True)
        yield slice(start, start + len(some)), found[..., : len(some)].mT


def _widened(
    pattern: Pattern, q: Tensor, k: Tensor, scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    """The same q and k with zeros beside the heads, so that one call gives more columns.

    Zeros change no product of a query and a key, so that eager runs the same arithmetic; whether a
    pattern (one that draws features of the head's width, say) sees them is tried, not assumed.
    """
    bytes_a_column = q[..., 0].numel() * q.element_size()
    width = min(_WIDEST, q.shape[2], _room(q) // bytes_a_column)
    if pattern.implementation(q, k, k, backend).backend != "eager" or width < 2 * q.shape[-1]:
        return q, k
    wide_q, wide_k = (pad(x, (0, width - x.shape[-1])) for x in (q, k))
    narrow = pattern.attend(q, k, k, scale=scale, backend=backend)
    wide = pattern.attend(wide_q, wide_k, wide_k, scale=scale, backend=backend)
    largest = float(narrow.abs().max()) * _SAME * torch.finfo(q.dtype).eps
    same = float((wide[..., : q.shape[-1]] - narrow).abs().max()) <= largest
    return (wide_q, wide_k) if same else (q, k)


def _room(q: Tensor) -> int:
    return _SLAB_BYTES.get(q.device.type, _SLAB_BYTES_ELSEWHERE)


@torch.no_grad()
def compare(
    pattern: Pattern, shared: Reference, *, backend: str, out: Tensor
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """A record's `map` and its notes: the map that `attend` applies in the dtype of the run.

    Every row within the dense limit, the reference's sampled rows beyond it. `out` is what
    `attend` gave for the reference's inputs.
    """
    if not pattern.linear_in_values:
        return None, {"map": "the output is not linear in the values, so no map gives it"}
    dtype = torch.promote_types(shared.q.dtype, torch.float32)
    x = Operands(
        q=shared.q.to(dtype),
        k=shared.k.to(dtype),
        v=shared.v.to(dtype),
        causal=shared.causal,
        scale=shared.precise.scale,
    )
    values = expand_groups(x.v, x.q.shape[1])
    product = x.q.new_zeros(*x.q.shape[:2], len(shared.rows), values.shape[-1])
    total: dict[str, Tensor] = {}
    distances = x.q.new_zeros(mapstats.DISTANCES, dtype=torch.float64)
    for part, keys, slab in _slabs(pattern, shared, backend):
        product[:, :, part] += slab.to(dtype) @ values[:, :, keys]
        for some, chunk in _chunks(slab.to(dtype), part, keys, shared):
            rows = shared.rows[some]
            logs = log_weights(x, rows, keys, shared.attended.lse[:, :, some].to(dtype))
            limits = {n: limit[:, :, some] for n, limit in shared.thresholds.items()}
            found = mapstats.sums(chunk, logs, limits, rows=rows, keys=keys, causal=x.causal)
            for name, value in found.items():
                if name not in total:
                    total[name] = product.new_zeros(product.shape[:3], dtype=torch.float64)
                total[name][:, :, some] += value
            mass = chunk.sum(dim=(0, 1))
            distances += mapstats.by_distance(mass, rows, keys, causal=x.causal)
    block, notes = mapstats.statistics(total, distances, length=x.length, causal=x.causal)
    block["full_entropy"] = shared.entropy
    block["mass_by_distance"]["full"] = shared.by_distance
    ran = out[:, :, shared.rows].to(dtype)
    block["linearity"] = float((product - ran).norm() / ran.norm())
    how = f"what attend applies in {str(shared.q.dtype).removeprefix('torch.')} on {backend}"
    many = "every row" if shared.exact else f"{len(shared.rows)} sampled rows"
    return block, notes | {"map": f"{how}, {many}"}


def _slabs(
    pattern: Pattern, shared: Reference, backend: str
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The map at the reference's rows: (which of these rows, keys, slab [B, Hq, R, K])."""
    q, k, scale = shared.q, shared.k, shared.precise.scale
    if not shared.exact:
        try:
            for part, slab in rows(pattern, q, k, shared.rows, scale=scale, backend=backend):
                yield part, shared.precise.all_rows(), slab
            return
        except Unsupported:  # no backward pass: all columns, of which the sampled rows are kept
            pass
    for keys, slab in columns(pattern, q, k, scale=scale, backend=backend):
        some = slab if shared.exact else slab[:, :, shared.rows]
        yield slice(0, len(shared.rows)), keys, some


def _chunks(
    slab: Tensor, part: slice, keys: Tensor, shared: Reference
) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a slab, some at a time; those before its first key only if they have weight."""
    start = 0
    if shared.causal:
        before = int(torch.searchsorted(shared.rows[part], keys[0]))
        start = 0 if bool(slab[:, :, :before].any()) else before
    most = _CHUNK.get(slab.device.type, _CHUNK_ELSEWHERE)
    step = max(1, most // max(1, slab[:, :, 0].numel()))
    for first in range(start, slab.shape[2], step):
        last = min(first + step, slab.shape[2])
        yield slice(part.start + first, part.start + last), slab[:, :, first:last]
