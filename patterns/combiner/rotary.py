"""Where a region's query asks from, if positions are rotations of queries and keys.

A model with rotary embeddings turns pair d of a query at position i by the angle i * f_d, f_d =
base ** (-2 d / D), so that the queries of a region each ask from a place of their own, and none of
them from where later readers are. Turned back by i, averaged, and turned to one place p they ask
from there together; the place is as far from each query of a region as its offset in it says, so
that no absolute position has to be known.
"""

import torch
from torch import Tensor


def moved(q: Tensor, steps: Tensor, base: float) -> Tensor:
    """Queries [..., L, D] as they would be `steps` [L] positions later; pairs are (d, d + D / 2).

    In at least float32, and back to the dtype of q.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    half = q.shape[-1] // 2
    exponent = torch.arange(half, device=q.device, dtype=torch.float64) / half
    angle = steps.to(torch.float64)[:, None] * base**-exponent
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)
    first, second = q[..., :half].to(dtype), q[..., half:].to(dtype)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=-1).to(q.dtype)


def asking_from(q: Tensor, block: int, base: float, ahead: int) -> Tensor:
    """Queries [B, H, L, D], each moved to `ahead` tokens past the middle of its block."""
    offset = torch.arange(q.shape[2], device=q.device) % block
    return moved(q, (block - 1) / 2 + ahead - offset, base)
