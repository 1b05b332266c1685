"""How far an effective map is from full softmax attention's: sums over keys, slab by slab.

`sums` of slabs that share rows add up to those of the whole rows; `statistics` turns the sums of
whole rows into what a record holds. Letters: B batch, H heads, R rows, K keys of a slab.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TOP = (8, 64)  # how many of full attention's heaviest keys recall looks at
_TIE = 1e-4  # log-weights this close to the last of the heaviest count as equal to it

DISTANCES = 64  # bins of distance, of which a length uses the first few


def sums(
    effective: Tensor,
    log_full: Tensor,
    thresholds: Mapping[int, Tensor],
    *,
    rows: Tensor,
    keys: Tensor,
    causal: bool,
) -> dict[str, Tensor]:
    """What one slab of a map adds to its rows, [B, H, R] each.

    Args:
        effective: the slab of the effective map, [B, H, R, K].
        log_full: full attention's log-weights of the same pairs, -inf where a key is not seen.
        thresholds: for each of `TOP` the log-weight [B, H, R] of the last of so many heaviest keys.
        rows: int64 [R], which queries these are.
        keys: int64 [K], which keys these are.
        causal: whether keys after the query are not to be seen.
    """
    full = log_full.exp()
    magnitude = effective.abs()
    positive = effective.clamp(min=0)
    # Where full attention has no weight, its logarithm is no number: those pairs are `leaked`.
    finite = log_full.clamp(min=torch.finfo(log_full.dtype).min)
    found = {
        "difference": (effective - full).abs().sum(dim=-1),
        "mass": effective.sum(dim=-1),
        "magnitude": magnitude.sum(dim=-1),
        "self_information": torch.xlogy(positive, positive).sum(dim=-1),
        "cross_information": torch.where(magnitude > 0, positive * finite, 0).sum(dim=-1),
        "dropped": torch.where(magnitude > 0, 0, full).sum(dim=-1),
        "leaked": torch.zeros_like(full[..., 0]),
    }
    if causal and len(keys) and bool(keys.max() > rows.min()):
        found["leaked"] = (magnitude * (keys > rows[:, None])).sum(dim=-1)
    shared = torch.minimum(effective, full)
    for count, threshold in thresholds.items():
        heaviest = log_full >= (threshold - _TIE)[..., None]
        found[f"shared_{count}"] = torch.where(heaviest, shared, 0).sum(dim=-1)
        found[f"top_{count}"] = torch.where(heaviest, full, 0).sum(dim=-1)
    return found


def edges(length: int) -> list[int]:
    """The bins of distance, [edges[i], edges[i+1]): 0, 1, then powers of two beyond the length."""
    return [0, 1, *(1 << n for n in range(1, (length - 1).bit_length() + 1))]


def by_distance(mass: Tensor, rows: Tensor, keys: Tensor, *, causal: bool) -> Tensor:
    """The mass [R, K] in `DISTANCES` bins of query - key (absolute where bidirectional).

    The future is left out where causal.
    """
    away = rows[:, None] - keys
    distance = away.clamp(min=0) if causal else away.abs()
    exponent = torch.frexp(distance.double()).exponent.long()  # 0 -> 0, [2^(n-1), 2^n) -> n
    weight = mass.double() * (away >= 0) if causal else mass.double()
    return torch.zeros(DISTANCES, dtype=torch.float64, device=mass.device).index_add_(
        0, exponent.flatten(), weight.flatten()
    )


def thresholds(best: Tensor) -> dict[int, Tensor]:
    """The log-weights of the last of `TOP` heaviest keys, from the descending [B, H, R, count]."""
    return {count: best[..., min(count, best.shape[-1]) - 1] for count in TOP}


def statistics(
    rows: Mapping[str, Tensor], distances: Tensor, *, length: int, causal: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """A record's `map`, as far as the effective map alone tells, and its notes.

    Args:
        rows: what `sums` says of whole rows, float64.
        distances: what `by_distance` says of them all.
        length: tokens.
        causal: whether keys after the query are not to be seen.
    """
    notes: dict[str, str] = {}
    negative = (rows["magnitude"] - rows["mass"]).clamp(min=0) / 2
    share = float(negative.sum() / rows["magnitude"].sum())
    signed = bool(negative.max() > 1e-6 * rows["magnitude"].max())
    variation = rows["difference"] / 2
    kl = entropy = None
    if signed:
        notes["map.kl"] = notes["map.entropy"] = "some weights of the map are negative"
    else:
        entropy = float(-rows["self_information"].mean())
        # The sum of a log(a/f) - a + f: not below zero for rows that only nearly sum to one.
        surplus = 1 - rows["mass"]
        divergence = rows["self_information"] - rows["cross_information"] + surplus
        kl = per_head(divergence.mean(dim=(0, 2)))
        if causal and bool(rows["leaked"].max() > 0):
            kl = None
            notes["map.kl"] = "the map has weight on the future, where full attention has none"
    if not causal:
        notes["map.leakage"] = "bidirectional attention has no future"
    bins = edges(length)
    queries = rows["mass"].numel()
    return {
        "total_variation": {
            **per_head(variation.mean(dim=(0, 2))),
            "p95": float(np.quantile(variation.cpu().numpy(), 0.95)),
            "worst": float(variation.max()),
        },
        "kl": kl,
        "dropped_mass": float(rows["dropped"].mean()),
        "recall": {
            str(count): float((rows[f"shared_{count}"] / rows[f"top_{count}"]).mean())
            for count in TOP
        },
        "entropy": entropy,
        "mass_by_distance": {
            "edges": bins,
            "effective": (distances[: len(bins) - 1] / queries).tolist(),
        },
        "negative_share": share,
        "leakage": float(rows["leaked"].mean()) if causal else None,
        "row_sum": {"low": float(rows["mass"].min()), "high": float(rows["mass"].max())},
    }, notes


def per_head(values: Tensor) -> dict[str, Any]:
    """A record's way to hold one number a head: the list and its mean."""
    return {"per_head": values.tolist(), "mean": float(values.mean())}
