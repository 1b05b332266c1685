"""Pooled maps of attention: full, effective, and how they differ, in bins that fit a screen.

Letters: B batch, H heads (Hq/Hkv), L length, D head width, N bins, W keys of a slab.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench import effective
from attnbench.mapfile import Array, Maps, load_map, save_map
from attnbench.reference import scale_of
from attnbench.softmax import Operands, attention, log_weights
from attnbench.sources import Inputs
from patterns.base import Pattern, expand_groups
from patterns.errors import BadInput, Unsupported

__all__ = ["BINS", "Maps", "bin_size", "effective_map", "load_map", "make", "save_map"]

BINS = 512
CROP = 256  # tokens of a 1:1 corner
_SAME = 64  # units in the last place between a head alone and among the others


@torch.no_grad()
def make(
    pattern: Pattern,
    inputs: Inputs,
    *,
    bins: int = BINS,
    heads: Sequence[int] | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    case: Mapping[str, Any] | None = None,
) -> Maps:
    """The maps of a pattern on the first sequence of a source, in slabs: never L x L at once.

    Args:
        pattern: whose effective map is wanted.
        inputs: from a source, on the device to run on.
        bins: at most so many; each is ceil(L / bins) tokens wide, but the last may be narrower.
        heads: the numbers of the query heads; all if None.
        backend: of the implementation whose map is wanted.
        dtype: it runs in; that of the inputs if None.
        case: what `meta` is to say of the case.

    Raises:
        BadInput: no such heads, or no bins.
        Unsupported: the pattern has no map, or the backend cannot run these inputs.
    """
    if not pattern.linear_in_values:
        raise Unsupported(
            f"the output of {pattern.name} is not linear in the values: it has no map"
        )
    chosen = _chosen(heads, inputs.q.shape[1])
    q, k, v = (x[:1].to(dtype or inputs.q.dtype) for x in (inputs.q, inputs.k, inputs.v))
    length, scale = q.shape[2], scale_of(inputs)
    pattern = pattern.resolve(length)
    run = _HeadsToRun.of(pattern, q, k, v, chosen, scale=scale, backend=backend)
    high = torch.promote_types(q.dtype, torch.float32)
    x = Operands(
        q=q[:, chosen].to(high),
        k=expand_groups(k, q.shape[1])[:, chosen].to(high),
        v=expand_groups(v, q.shape[1])[:, chosen].to(high),
        causal=pattern.causal,
        scale=scale,
    )
    lse = attention(x).lse
    pool = _Pool.empty(length, bins, heads=len(chosen), like=x.q)
    checks = _Checks.empty(x)
    for keys, slab in effective.columns(pattern, run.q, run.k, scale=scale, backend=backend):
        weights = slab[:, run.kept].to(high)
        checks.add(weights, keys, x)
        first = int(keys[0]) // pool.width * pool.width if x.causal else 0
        rows = x.all_rows()[first:]
        full = log_weights(x, rows, keys, lse[:, :, first:]).exp_()
        pool.add(full[0], weights[0, :, first:], rows, keys, causal=x.causal)
    implementation = pattern.implementation(q, k, v, backend)
    meta = {
        "case": dict(case or {}),
        "pattern": pattern.spec,
        "causal": pattern.causal,
        "implementation": asdict(implementation),
        "dtype": str(q.dtype).removeprefix("torch."),
        "length": length,
        "bin_size": pool.width,
        "heads": chosen,
        "crops": [0, length - pool.crops.shape[-1]],
        "checks": checks.result(run.out, x.causal),
    }
    return Maps(**pool.result(causal=pattern.causal), meta=meta)


@torch.no_grad()
def effective_map(
    pattern: Pattern,
    inputs: Inputs,
    *,
    bins: int = BINS,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The effective map in the means of bins alone, [Hq, N, N]: ceil(N / D) calls of `attend`.

    The values are indicators of key bins, so a call gives D columns of the key-pooled map exactly.
    """
    q, k = (x[:1].to(dtype or inputs.q.dtype) for x in (inputs.q, inputs.k))
    length, scale = q.shape[2], scale_of(inputs)
    width = bin_size(length, bins)
    bin_of = torch.arange(length, device=q.device) // width
    count = int(bin_of[-1]) + 1
    parts = []
    for start in range(0, count, q.shape[-1]):
        columns = torch.arange(start, start + q.shape[-1], device=q.device)
        indicators = (bin_of[:, None] == columns).to(k.dtype).expand(1, k.shape[1], -1, -1)
        out = pattern.attend(q, k, indicators.contiguous(), scale=scale, backend=backend)
        out = out[0, :, :, : count - start].to(torch.promote_types(q.dtype, torch.float32))
        parts.append(_sum_rows(out, width))
    pairs = visible_pairs(length, width, causal=pattern.causal).to(q.device)
    return torch.cat(parts, dim=-1) / pairs.clamp(min=1)


def bin_size(length: int, bins: int) -> int:
    """Tokens of a bin, so that there are at most so many bins.

    Raises:
        BadInput: fewer than one bin.
    """
    if bins < 1:
        raise BadInput(f"expected at least 1 bin, got {bins}")
    return -(-length // bins)


def visible_pairs(length: int, width: int, *, causal: bool) -> Tensor:
    """How many visible pairs each bin holds: float64 [N, N], a ragged last bin included."""
    starts = torch.arange(0, length, width)
    sizes = (length - starts).clamp(max=width)
    pairs = (sizes[:, None] * sizes).double()
    if causal:
        pairs = pairs.tril(-1) + torch.diag((sizes * (sizes + 1) // 2).double())
    return pairs


def _chosen(heads: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if heads is None else list(heads)
    if not chosen or not all(0 <= head < count for head in chosen):
        raise BadInput(f"expected heads from 0 to {count - 1}, got {chosen}")
    return chosen


@dataclass(frozen=True, kw_only=True)
class _HeadsToRun:
    """The chosen heads alone where that changes nothing, else all of them.

    A pattern may draw something for each head, so that it is tried and not assumed.
    """

    q: Tensor
    k: Tensor
    kept: list[int]  # which of the heads that run were chosen
    out: Tensor  # what `attend` gives for the chosen heads

    @classmethod
    def of(
        cls,
        pattern: Pattern,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        chosen: list[int],
        *,
        scale: float,
        backend: str,
    ) -> "_HeadsToRun":
        out = pattern.attend(q, k, v, scale=scale, backend=backend)[:, chosen]
        if chosen == list(range(q.shape[1])):
            return cls(q=q, k=k, kept=chosen, out=out)
        few = [q[:, chosen], *(expand_groups(x, q.shape[1])[:, chosen] for x in (k, v))]
        alone = pattern.attend(*few, scale=scale, backend=backend)
        allowed = _SAME * torch.finfo(q.dtype).eps * float(out.abs().max())
        if float((alone - out).abs().max()) > allowed:
            return cls(q=q, k=k, kept=chosen, out=out)
        return cls(q=few[0], k=few[1], kept=list(range(len(chosen))), out=out)


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """Sums and maxima of bins as slabs come in; [heads, N, N] and the 1:1 corners."""

    length: int
    width: int
    sums: dict[str, Tensor]
    maxima: dict[str, Tensor]
    crops: Tensor  # [2 maps, heads, 2 corners, side, side]

    @classmethod
    def empty(cls, length: int, bins: int, *, heads: int, like: Tensor) -> "_Pool":
        width = bin_size(length, bins)
        count, side = -(-length // width), min(CROP, length)
        shape = (heads, count, count)
        names = ("full", "effective", "difference", "absolute")
        return cls(
            length=length,
            width=width,
            sums={name: like.new_zeros(shape) for name in names},
            maxima={name: like.new_full(shape, -torch.inf) for name in names[:2]},
            crops=like.new_zeros(2, heads, 2, side, side),
        )

    def add(self, full: Tensor, ours: Tensor, rows: Tensor, keys: Tensor, *, causal: bool) -> None:
        """Add a slab [heads, rows, W] of both maps: of the last rows, from the start of a bin."""
        self._crop(full, ours, rows, keys)
        bins, first = keys // self.width, int(rows[0]) // self.width
        hidden = None
        if causal:
            hidden = keys > rows[:, None]
            ours = ours.masked_fill(hidden, 0)
        difference = ours - full
        slabs = {"full": full, "effective": ours, "difference": difference}
        slabs["absolute"] = difference.abs()
        for name, slab in slabs.items():
            self.sums[name][:, first:].index_add_(2, bins, _sum_rows(slab, self.width))
        for name in self.maxima:
            slab = slabs[name] if hidden is None else slabs[name].masked_fill(hidden, -torch.inf)
            highest = _max_rows(slab, self.width)
            index = bins.expand_as(highest)
            self.maxima[name][:, first:].scatter_reduce_(2, index, highest, "amax")

    def _crop(self, full: Tensor, ours: Tensor, rows: Tensor, keys: Tensor) -> None:
        side, first = self.crops.shape[-1], int(rows[0])
        for corner, start in enumerate((0, self.length - side)):
            inside = (keys >= start) & (keys < start + side)
            if first >= start + side or not bool(inside.any()):
                continue
            low = max(first, start)
            for which, slab in enumerate((full, ours)):
                found = slab[:, low - first : start + side - first, inside]
                self.crops[which, :, corner, low - start :, keys[inside] - start] = found

    def result(self, *, causal: bool) -> dict[str, Array]:
        pairs = visible_pairs(self.length, self.width, causal=causal)
        pairs = pairs.to(self.crops.device)
        means = {name: total / pairs.clamp(min=1) for name, total in self.sums.items()}
        highest = {f"{name}_max": x.masked_fill(pairs == 0, 0) for name, x in self.maxima.items()}
        crops = {"crop_full": self.crops[0], "crop_effective": self.crops[1]}
        found = {**means, **highest, **crops, "visible": pairs}
        return {name: x.float().cpu().numpy() for name, x in found.items()}


@dataclass(frozen=True, kw_only=True)
class _Checks:
    """What a map has to satisfy, summed as slabs come in: [1, heads, L] and the product with v."""

    mass: Tensor
    magnitude: Tensor
    leaked: Tensor
    product: Tensor

    @classmethod
    def empty(cls, x: Operands) -> "_Checks":
        rows = x.q[..., 0]
        mass, magnitude, leaked = (torch.zeros_like(rows) for _ in range(3))
        return cls(mass=mass, magnitude=magnitude, leaked=leaked, product=torch.zeros_like(x.v))

    def add(self, slab: Tensor, keys: Tensor, x: Operands) -> None:
        self.mass.add_(slab.sum(dim=-1))
        magnitude = slab.abs()
        self.magnitude.add_(magnitude.sum(dim=-1))
        self.product.add_(slab @ x.v[:, :, keys])
        if x.causal:  # only rows before the last key have a future in this slab
            last = int(keys[-1])
            hidden = keys > x.all_rows()[:last, None]
            self.leaked[:, :, :last] += (magnitude[:, :, :last] * hidden).sum(dim=-1)

    def result(self, out: Tensor, causal: bool) -> dict[str, Any]:
        negative = (self.magnitude - self.mass).clamp(min=0).sum() / 2
        return {
            "linearity": float((self.product - out).norm() / out.norm()),
            "negative_share": float(negative / self.magnitude.sum()),
            "leakage": float(self.leaked.mean()) if causal else None,
            "row_sum": {"low": float(self.mass.min()), "high": float(self.mass.max())},
        }


def _in_bins(slab: Tensor, width: int, fill: float) -> Tensor:
    """[heads, rows, W] to [heads, N, width, W]; a ragged last bin is filled up."""
    missing = -slab.shape[1] % width
    if missing:
        slab = torch.nn.functional.pad(slab, (0, 0, 0, missing), value=fill)
    return slab.reshape(slab.shape[0], -1, width, slab.shape[2])


def _sum_rows(slab: Tensor, width: int) -> Tensor:
    return _in_bins(slab, width, 0.0).sum(dim=2)


def _max_rows(slab: Tensor, width: int) -> Tensor:
    return _in_bins(slab, width, -torch.inf).amax(dim=2)
