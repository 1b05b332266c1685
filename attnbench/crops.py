"""The 1:1 part of both maps where they differ most, beside the two corners that a map has.

Letters: B batch, H heads (Hq/Hkv), L length, D head width, N bins, S side of a crop.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attnbench.mapfile import Maps
from attnbench.reference import scale_of
from attnbench.softmax import Operands, log_weights
from attnbench.sources import Inputs
from patterns.base import Pattern, expand_groups


@torch.no_grad()
def with_worst(maps: Maps, pattern: Pattern, inputs: Inputs, *, backend: str = "auto") -> Maps:
    """The same maps with a third crop: the rows of the largest total variation, one to one.

    Args:
        maps: made by `attnbench.maps.make` from this pattern, these inputs and this backend.
        pattern: whose effective map is wanted.
        inputs: from a source.
        backend: of the implementation.

    Returns:
        Maps whose crops are [heads, 3, S, S] and whose meta says in `worst` the first query and
        the first key of the third; the same maps where a bin is one token, as nothing is pooled.

    Raises:
        Unsupported: the backend cannot run these inputs.
    """
    if int(maps.meta["bin_size"]) == 1:
        return maps
    side = maps.crop_full.shape[-1]
    first_query, first_key = worst_place(maps)
    heads = list(maps.meta["heads"])
    q, k = (x[:1].to(getattr(torch, maps.meta["dtype"])) for x in (inputs.q, inputs.k))
    rows = torch.arange(first_query, first_query + side, device=q.device)
    keys = torch.arange(first_key, first_key + side, device=q.device)
    scale = scale_of(inputs)
    pattern = pattern.resolve(q.shape[2])
    ours = _effective(pattern, q, k, rows, keys, scale=scale, backend=backend)[heads]
    full = _full(q, k, heads, rows, keys, causal=pattern.causal, scale=scale)
    added = {"crop_full": full, "crop_effective": ours}
    crops = {
        name: np.concatenate([getattr(maps, name), x[:, None].float().cpu().numpy()], axis=1)
        for name, x in added.items()
    }
    meta = maps.meta | {"worst": {"query": first_query, "key": first_key}}
    return replace(maps, **crops, meta=meta)


def worst_place(maps: Maps) -> tuple[int, int]:
    """The first query and key of the square that holds the rows of the largest total variation.

    The rows around the worst row of bins (mean over heads); of these, the keys that differ most.
    """
    side, size, length = maps.crop_full.shape[-1], maps.meta["bin_size"], maps.meta["length"]
    mass = np.nan_to_num(maps.absolute).mean(axis=0) * maps.visible
    queries = np.minimum(size, length - np.arange(len(mass)) * size)
    worst = int((mass.sum(axis=1) / queries).argmax())
    first_query = _inside(worst * size + size // 2 - side // 2, length - side)
    band = mass[first_query // size : -(-(first_query + side) // size)].sum(axis=0)
    wide = max(1, side // size)
    sums = np.convolve(band, np.ones(wide), mode="valid")
    return first_query, _inside(int(sums.argmax()) * size, length - side)


def _inside(start: int, most: int) -> int:
    return max(0, min(start, most))


def _effective(
    pattern: Pattern,
    q: Tensor,
    k: Tensor,
    rows: Tensor,
    keys: Tensor,
    *,
    scale: float,
    backend: str,
) -> Tensor:
    """[Hq, S, S]: the outputs for values that are the identity on these keys."""
    width, parts = q.shape[-1], []
    for start in range(0, len(keys), width):
        some = keys[start : start + width]
        identity = torch.zeros_like(k)
        identity[:, :, some, torch.arange(len(some), device=k.device)] = 1
        out = pattern.attend(q, k, identity, scale=scale, backend=backend)
        parts.append(out[0, :, rows, : len(some)])
    return torch.cat(parts, dim=-1)


def _full(
    q: Tensor,
    k: Tensor,
    heads: list[int],
    rows: Tensor,
    keys: Tensor,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """[heads, S, S] of full attention."""
    high = torch.promote_types(q.dtype, torch.float32)
    queries, wide = q[:, heads].to(high), expand_groups(k, q.shape[1])[:, heads].to(high)
    x = Operands(q=queries, k=wide, v=wide, causal=causal, scale=scale)
    scores = log_weights(x, rows, x.all_rows(), queries.new_zeros(1, len(heads), len(rows)))
    return scores.softmax(dim=-1)[0, :, :, keys]
