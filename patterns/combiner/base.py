"""What all Combiners share: partitions of the keys, and the dense map that follows from them."""

import abc
import math
from typing import ClassVar

import torch
from torch import Tensor

from patterns.base import Paper, Pattern, Shape, expand_groups
from patterns.checks import check_inputs, chosen_scale, describe
from patterns.combiner.summary import AS_THEY_ARE, Told
from patterns.dense import refusal as dense_refusal
from patterns.errors import BadInput, Unsupported
from patterns.taken import taken

DIRECT = -1
INVISIBLE = -2

_PART_ELEMENTS = 1 << 27  # numbers that the dense map may hold for each token of its regions

PAPER = Paper(
    title="Combiner: Full Attention Transformer with Sparse Computation Cost",
    authors="Ren, H. Dai, Z. Dai, Yang, Leskovec, Schuurmans, B. Dai",
    year=2021,
    link="https://arxiv.org/abs/2107.05768",
)


class CombinerPattern(Pattern):
    """A pattern that partitions what a query sees into direct keys and regions.

    Subclasses have the fields `summary` (see `patterns.combiner.summary`), `sink` (leading tokens
    that are always direct and belong to no region) and `near` (previous blocks or rows that are
    direct), say who belongs where in `partitions`, and count it in `region_counts`.
    """

    paper: ClassVar = PAPER
    aim: ClassVar = "approximates"
    backends: ClassVar[tuple[str, ...]] = ("sdpa", "eager")

    summary: str
    sink: int
    near: int

    @abc.abstractmethod
    def partitions(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        """For each plan, what every key is to these queries: int64 [rows, L].

        DIRECT, INVISIBLE, or the number of the region that holds the key. Equal numbers mean the
        same region: the same tokens, hence one summary, for every query that uses it.
        """

    @abc.abstractmethod
    def region_counts(self, length: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """For each plan, of every region its tokens and its readers: two int64 tensors."""

    @property
    def joint(self) -> bool:
        """Several plans share one softmax, direct keys told once; otherwise they are averaged."""
        return True

    def _support(self, rows: Tensor, length: int) -> Tensor:
        return self.partitions(rows, length)[0] != INVISIBLE

    def weights_told(
        self,
        q: Tensor,
        k: Tensor,
        told: Told,
        *,
        rows: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """`weights` where regions are pooled from other tensors than q and k: learned ones, say.

        Raises:
            BadInput: as `weights`, or `told` does not have the shapes of q and k.
        """
        check_inputs(q, k, None)
        told = _fitting(told, q, k)
        length = q.shape[2]
        rows = torch.arange(length, device=q.device) if rows is None else rows
        k = expand_groups(k, q.shape[1])
        return self.resolve(length)._weights(q, k, rows, chosen_scale(scale, q), told)

    def attend_told(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        told: Told,
        *,
        scale: float | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """`attend` where regions are pooled from other tensors than q and k, with their gradients.

        Raises:
            BadInput: as `attend`, or `told` does not have the shapes of q and k.
            Unsupported: the backend pools by itself, or cannot run these inputs.
        """
        check_inputs(q, k, v)
        told = _fitting(told, q, k)
        if backend == "triton":
            raise Unsupported("the Triton kernels pool q and k themselves; use sdpa or eager")
        able = ("sdpa", "eager") if backend == "auto" else (backend,)
        chosen = next((name for name in able if dense_refusal(name, q) is None), able[-1])
        chosen = self.implementation(q, k, v, chosen).backend
        k, v = (expand_groups(x, q.shape[1]) for x in (k, v))
        return self.resolve(q.shape[2])._attend(q, k, v, chosen_scale(scale, q), chosen, told)

    @abc.abstractmethod
    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        backend: str,
        told: Told = AS_THEY_ARE,
    ) -> Tensor:
        """The fast form for the resolved pattern; k, v and told have been expanded to Hq heads."""

    def _weights(
        self, q: Tensor, k: Tensor, rows: Tensor, scale: float, told: Told = AS_THEY_ARE
    ) -> Tensor:
        most = _PART_ELEMENTS // (q.shape[0] * q.shape[1] * q.shape[3])
        parts = self._parts(rows, q.shape[2], most)
        return torch.cat([self._map(q, k, part, scale, told) for part in parts], dim=2)

    def _parts(self, rows: Tensor, length: int, most: int) -> list[Tensor]:
        """Rows in parts whose regions hold no more tokens than this, together or in one row."""
        if len(rows) <= 1:
            return [rows]
        entries = sum(len(_entries(plan)[1]) for plan in self.partitions(rows, length))
        if entries + len(rows) * length // 8 <= most:
            return [rows]
        halves = torch.tensor_split(rows, 2)
        return [part for half in halves for part in self._parts(half, length, most)]

    def _map(self, q: Tensor, k: Tensor, rows: Tensor, scale: float, told: Told) -> Tensor:
        plans = self.partitions(rows, q.shape[2])
        if len(plans) == 1 or not self.joint:
            maps = [self._one_softmax(q, k, rows, (plan,), scale, told) for plan in plans]
            return torch.stack(maps).mean(dim=0)
        return self._one_softmax(q, k, rows, plans, scale, told)

    def _one_softmax(
        self,
        q: Tensor,
        k: Tensor,
        rows: Tensor,
        plans: tuple[Tensor, ...],
        scale: float,
        told: Told,
    ) -> Tensor:
        reading = q[:, :, rows]
        direct = scale * (reading @ k.transpose(-1, -2))
        logits = [direct.masked_fill(plans[0] != DIRECT, -math.inf)]
        members = []
        for plan in plans:
            regions, belongs = torch.unique(plan.clamp(min=DIRECT), return_inverse=True)
            inside = plan > DIRECT
            entry, pairs = _entries(plan)
            if len(pairs) == 0:
                continue
            label, token = pairs // plan.shape[1], pairs % plan.shape[1]
            region = torch.searchsorted(regions, label)
            asking, asked = told.asking(q), told.asked(k)
            key, bias, local = self._summarise(asking, k, asked, regions, region, token, scale)
            scores = scale * (reading @ key.transpose(-1, -2)) + bias[..., None, :]
            seen = torch.zeros(len(rows), len(regions), dtype=torch.bool, device=q.device)
            seen.scatter_(1, belongs, True)
            seen &= regions > DIRECT
            logits.append(scores.masked_fill(~seen, -math.inf))
            members.append((belongs, taken(local, 2, entry), inside))
        sizes = [part.shape[-1] for part in logits]
        whole, *shares = torch.split(torch.cat(logits, dim=-1).softmax(dim=-1), sizes, dim=-1)
        for share, (belongs, local, inside) in zip(shares, members, strict=True):
            mass = share.gather(-1, belongs.expand(*share.shape[:2], -1, -1))
            whole = whole + torch.where(inside, mass * local, 0)
        return whole

    def _summarise(
        self,
        q: Tensor,
        k: Tensor,
        told: Tensor,
        regions: Tensor,
        region: Tensor,
        token: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Region keys [B, H, R, D], biases [B, H, R] and local weights [B, H, entries].

        Pooled from q and told.
        """
        count = len(regions)
        pooled, keys = (taken(q, 2, token), taken(told, 2, token)), taken(k, 2, token)
        if self.summary == "max":
            query, key = (_segment_max(x, region, count) for x in pooled)
        else:
            query, key = (_segment_mean(x, region, count) for x in pooled)
        local, total = local_softmax(query, keys, region, scale)
        bias = torch.zeros_like(total)
        if self.summary == "variational":
            key = weighted_sum(local, keys, region, count)
            bias = total - scale * (query * key).sum(dim=-1)
        elif self.summary == "mean+size":
            bias = bias + torch.bincount(region, minlength=count).to(bias.dtype).log()
        return key, bias - math.log(self._multiplicity()) * (self.summary == "variational"), local

    def _multiplicity(self) -> int:
        """How many regions of one softmax hold the same token."""
        return 1

    def _pairs(self, length: int) -> tuple[int, int]:
        # Direct keys and regions partition what a query sees.
        attended = building = 0
        visible = length * (length + 1) // 2 if self.causal else length**2
        for index, (sizes, readers) in enumerate(self.region_counts(length)):
            if index == 0 or not self.joint:
                attended += visible - int((sizes * readers).sum())
            attended += int(readers[sizes > 0].sum())
            building += int(sizes[readers > 0].sum())
        return attended, building

    def _summaries(self, length: int) -> int:
        counts = self.region_counts(length)
        return sum(int(((sizes > 0) & (readers > 0)).sum()) for sizes, readers in counts)

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        # These summaries also weigh the keys of their region.
        weighed = 6 if self.summary in ("variational", "wsum") else 4
        return shape.dim * (4 * attended + weighed * building)


def _fitting(told: Told, q: Tensor, k: Tensor) -> Told:
    """The same for each query head, if it fits q and k."""
    for name, x, like in (("queries", told.queries, q), ("keys", told.keys, k)):
        if x is not None and (x.shape, x.dtype, x.device) != (like.shape, like.dtype, like.device):
            raise BadInput(
                f"told.{name} must be like the {name}, {describe(like)}, got {describe(x)}"
            )
    keys = told.keys if told.keys is None else expand_groups(told.keys, q.shape[1])
    return Told(told.queries, keys)


def local_softmax(
    query: Tensor, keys: Tensor, region: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Weights of the keys [B, H, E, D] of regions for their query [B, H, R, D], and log-sum-exps.

    `region` [E] says which of the R regions each key belongs to.
    """
    scores = scale * (taken(query, 2, region) * keys).sum(dim=-1)
    return _segment_softmax(scores, region, query.shape[2])


def weighted_sum(local: Tensor, keys: Tensor, region: Tensor, count: int) -> Tensor:
    """The keys of each of `count` regions, summed with their weights: [B, H, R, D]."""
    return _segment_sum(local[..., None] * keys, region, count)


def _entries(plan: Tensor) -> tuple[Tensor, Tensor]:
    """One entry for each (region, token), whichever queries use the region.

    Returns:
        For every place of the plan its entry (0 where it is in no region), and for every entry
        region * L + token, ascending.
    """
    key = torch.arange(plan.shape[1], device=plan.device)
    pairs = torch.where(plan > DIRECT, plan * plan.shape[1] + key, -1)
    found, entry = torch.unique(pairs, return_inverse=True)
    first = int((found < 0).sum())
    return (entry - first).clamp(min=0), found[first:]


def _index(region: Tensor, like: Tensor) -> Tensor:
    return (
        region.expand(like.shape[:2] + region.shape)
        if like.ndim == 3
        else (region[:, None].expand(like.shape))
    )


def _segment_sum(x: Tensor, region: Tensor, count: int) -> Tensor:
    total = x.new_zeros(*x.shape[:2], count, *x.shape[3:])
    return total.scatter_add(2, _index(region, x), x)


def _segment_mean(x: Tensor, region: Tensor, count: int) -> Tensor:
    size = torch.bincount(region, minlength=count).clamp(min=1).to(x.dtype)
    return _segment_sum(x, region, count) / size[:, None]


def _segment_max(x: Tensor, region: Tensor, count: int) -> Tensor:
    """The largest of each segment; the gradient goes to the first of equals."""
    index = _index(region, x)
    fresh = x.detach().new_full((*x.shape[:2], count, x.shape[3]), -math.inf)
    largest = fresh.scatter_reduce(2, index, x.detach(), "amax")
    place = torch.arange(len(region), device=x.device)[:, None].expand(x.shape)
    place = place.masked_fill(x != largest.gather(2, index), len(region))
    first = torch.full_like(largest, len(region), dtype=torch.int64)
    first = first.scatter_reduce(2, index, place, "amin")
    return x.gather(2, first.clamp(max=len(region) - 1))


def _segment_softmax(scores: Tensor, region: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Softmax within each segment, and the log-sum-exp of each."""
    index = _index(region, scores)
    fresh = scores.detach().new_full((*scores.shape[:2], count), -math.inf)
    largest = fresh.scatter_reduce(2, index, scores.detach(), "amax")
    risen = (scores - largest.gather(2, index)).exp()
    total = _segment_sum(risen, region, count)
    return risen / total.gather(2, index), total.log() + largest
