"""Patterns that are a mask: softmax over the keys that a predicate of positions allows."""

import abc
import math

import torch
from torch import Tensor

from patterns.base import Pattern


class MaskPattern(Pattern):
    """A pattern whose map is full softmax restricted to allowed pairs."""

    @abc.abstractmethod
    def _allowed(self, query: Tensor, key: Tensor, length: int) -> Tensor:
        """Whether a query at this position sees a key at that one; broadcasts.

        Causality is added by the class: the future is never seen where `causal`.
        """

    def _support(self, rows: Tensor, length: int) -> Tensor:
        query, key = rows[:, None], torch.arange(length, device=rows.device)
        allowed = self._allowed(query, key, length)
        return allowed & (key <= query) if self.causal else allowed.expand(len(rows), length)

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        scores = scale * (q[:, :, rows] @ k.transpose(-1, -2))
        allowed = self._support(rows, q.shape[2])
        return scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
