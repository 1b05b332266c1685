"""Work in slices whose intermediate tensors are made again in the backward instead of kept."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

SLICE_ELEMENTS = 1 << 24  # numbers that a slice may hold at once: 64 MiB in float32


def recomputed(function: Callable[..., T], *inputs: Tensor) -> T:
    """Call a deterministic function of tensors; its backward calls it again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: T = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def slice_rows(elements_per_row: int) -> int:
    """How many rows a slice may have."""
    return max(1, SLICE_ELEMENTS // max(1, elements_per_row))
