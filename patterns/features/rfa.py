"""Random Feature Attention: random waves whose products estimate a Gaussian of q - k.

Letters: B batch, H heads, L length, D head width, F features, E value width and one more.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from patterns.base import Paper, Pattern, Shape
from patterns.checks import require_not_negative, require_positive
from patterns.errors import BadInput
from patterns.recompute import recomputed, row_slices

_LEAST = 1e-3  # the least magnitude of a denominator
_CHUNK = 128  # rows that meet directly; earlier ones through the carried sums


@dataclass(frozen=True, kw_only=True)
class RFA(Pattern):
    """A_ij = phi(q_i) . phi(k_j) / sum_j phi(q_i) . phi(k_j), for q and k of length one.

    phi(x) = [sin(w_1 . x), cos(w_1 . x), ...] / sqrt(F) with w ~ N(0, I / sigma^2), one draw for
    all heads, so that phi(q) . phi(k) is exp(q . k / sigma^2) in the mean, up to a constant factor:
    softmax of unit-length q and k at temperature sigma^2 (see `own_reference`). `scale` is unused.

    Weights may be negative. A denominator below 1e-3 in magnitude is replaced by 1e-3 with its
    sign; the weights of such a row do not sum to 1. Those of every other row do.
    """

    causal: bool = True
    features: int = 128  # random waves, each a sine and a cosine
    sigma: float = 1.0  # width of the Gaussian; sigma^2 is the temperature of the softmax
    seed: int = 0

    name: ClassVar = "rfa"
    paper: ClassVar = Paper(
        title="Random Feature Attention",
        authors="Peng, Pappas, Yogatama, Schwartz, Smith, Kong",
        year=2021,
        link="https://arxiv.org/abs/2103.02143",
        section="3.1",
    )
    aim: ClassVar = "reshapes"
    tiny: ClassVar = {"features": 64}
    signed: ClassVar = True

    def __post_init__(self) -> None:
        require_positive(self, "features")
        require_not_negative(self, "seed")
        if not 0 < self.sigma < math.inf:
            raise BadInput(f"rfa[sigma=...] must be a positive number, got {self.sigma}")

    def own_reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        """Unit-length queries and keys, and 1 / sigma^2."""
        unit_q, unit_k = (normalize(_precise(x), dim=-1).to(x.dtype) for x in (q, k))
        return unit_q, unit_k, self.sigma**-2

    def _support(self, rows: Tensor, length: int) -> Tensor:
        key = torch.arange(length, device=rows.device)
        return key <= rows[:, None] if self.causal else (key >= 0).expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        products = self._phi(q[:, :, rows]) @ self._phi(k).transpose(-1, -2)
        products = products.masked_fill(~self._support(rows, q.shape[2]), 0.0)
        return (products / _clamp(products.sum(dim=-1, keepdim=True))).to(q.dtype)

    def _phi(self, x: Tensor) -> Tensor:
        """[B, H, L, D] to [B, H, L, 2F] in at least float32."""
        x = normalize(_precise(x), dim=-1)
        w = _directions(self.features, x.shape[-1], self.sigma, self.seed, x.dtype, x.device)
        waves = x @ w.T
        return torch.cat([waves.sin(), waves.cos()], dim=-1) / math.sqrt(self.features)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        parts = list(row_slices(q.shape[2], q.shape[0] * q.shape[1] * 4 * self.features, _CHUNK))
        sums = _precise(v).new_zeros(*q.shape[:2], 2 * self.features, v.shape[-1] + 1)
        found = []
        if self.causal:
            for part in parts:
                inputs = q[:, :, part], k[:, :, part], v[:, :, part], sums
                out, sums = recomputed(self._attend_and_carry, *inputs)
                found.append(out)
        else:
            for part in parts:
                sums = sums + recomputed(self._carry, k[:, :, part], v[:, :, part])
            found = [recomputed(self._read, q[:, :, part], sums) for part in parts]
        return torch.cat(found, dim=2).to(v.dtype)

    def _attend_and_carry(
        self, q: Tensor, k: Tensor, v: Tensor, sums: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Causal attention of some rows to each other and, through the sums, to all before."""
        queries, keys, values = (_chunks(x) for x in (self._phi(q), self._phi(k), _counted(v)))
        carried = torch.cat([sums[:, :, None], keys.transpose(-1, -2) @ values], dim=2).cumsum(2)
        inside = (queries @ keys.transpose(-1, -2)).tril() @ values
        total = inside + queries @ carried[:, :, :-1]
        return _quotient(total.flatten(2, 3)[:, :, : q.shape[2]]), carried[:, :, -1]

    def _carry(self, k: Tensor, v: Tensor) -> Tensor:
        """sum_j phi(k_j) [v_j, 1]: [B, H, 2F, E]."""
        return self._phi(k).transpose(-1, -2) @ _counted(v)

    def _read(self, q: Tensor, sums: Tensor) -> Tensor:
        return _quotient(self._phi(q) @ sums)

    def _pairs(self, length: int) -> tuple[int, int]:
        # Queries, and then keys, are multiplied with the directions instead of with each other.
        return length * self.features, length * self.features

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        # Two products a feature: its direction, and its sine's and cosine's row of the sums.
        return shape.dim * 6 * (attended + building)


@functools.lru_cache(maxsize=16)
def _directions(
    features: int, dim: int, sigma: float, seed: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The random directions w / sigma [F, D]: the same numbers on every device, in every dtype.

    They are kept, because a copy to a device cannot be part of a CUDA graph.
    """
    with torch.inference_mode(mode=False):
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(features, dim, generator=generator) / sigma).to(device, dtype)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _counted(v: Tensor) -> Tensor:
    """Values with a column of ones, whose sum is the denominator: [B, H, L, E]."""
    return pad(_precise(v), (0, 1), value=1.0)


def _chunks(x: Tensor) -> Tensor:
    """[B, H, L, E] to [B, H, chunks, rows, E]; zero rows fill the last chunk."""
    count = -(-x.shape[2] // _CHUNK)
    padded = pad(x, (0, 0, 0, count * _CHUNK - x.shape[2]))
    return padded.view(*x.shape[:2], count, _CHUNK, x.shape[-1])


def _clamp(denominator: Tensor) -> Tensor:
    least = torch.copysign(torch.full_like(denominator, _LEAST), denominator)
    return torch.where(denominator.abs() < _LEAST, least, denominator)


def _quotient(total: Tensor) -> Tensor:
    return total[..., :-1] / _clamp(total[..., -1:])
