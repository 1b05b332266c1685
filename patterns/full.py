"""Full softmax attention: what every other pattern is measured against."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from patterns.base import Paper, expand_groups
from patterns.computed import band_pairs, count
from patterns.mask import MaskPattern

_PINNED = {
    "sdpa:cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa:flash": SDPBackend.FLASH_ATTENTION,
    "sdpa:efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, kw_only=True)
class Full(MaskPattern):
    """softmax(scale * q k^T) v over every visible key.

    Backends: `sdpa` is PyTorch's own choice of kernel, `sdpa:...` pins one of them, and `eager` is
    the textbook softmax that keeps all L x L scores.
    """

    causal: bool = True

    name: ClassVar = "full"
    paper: ClassVar = Paper(
        title="Attention Is All You Need",
        authors="Vaswani et al.",
        year=2017,
        link="https://arxiv.org/abs/1706.03762",
        section="3.2.1",
    )
    aim: ClassVar = "exact"
    tiny: ClassVar = {}
    backends: ClassVar = ("sdpa", "eager", *_PINNED)
    quadratic: ClassVar = True

    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        return torch.ones_like(query * key, dtype=torch.bool)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        length = q.shape[2]
        if backend == "eager":
            count(lambda: q.shape[0] * q.shape[1] * length**2)
            k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
            return self._attend(q, k, v, scale, backend)
        if backend == "sdpa:efficient":  # it alone has no grouped heads
            k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
        right = 0 if self.causal else None
        count(lambda: q.shape[0] * q.shape[1] * band_pairs(length, length, left=None, right=right))
        with _pinned(backend):
            return scaled_dot_product_attention(
                q, k, v, is_causal=self.causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        scores = scale * (q @ k.transpose(-1, -2))
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        return scores.softmax(dim=-1) @ v

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        if backend not in _PINNED:
            return None
        if not q.is_cuda:
            return f"{backend} exists on CUDA only; use backend sdpa"
        if q.dtype == torch.float64 or (q.dtype == torch.float32 and backend != "sdpa:efficient"):
            return f"{backend} does not take {q.dtype}; use bfloat16, float16 or backend sdpa"
        return None

    def _pairs(self, length: int) -> tuple[int, int]:
        return (length * (length + 1) // 2 if self.causal else length * length), 0


@contextlib.contextmanager
def _pinned(backend: str) -> Iterator[None]:
    if backend in _PINNED:
        with sdpa_kernel([_PINNED[backend]]):
            yield
    else:
        yield
