"""Work in slices whose intermediate tensors are made again in the backward instead of kept."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

SLICE_ELEMENTS = 1 << 26  # numbers that a slice may hold at once: 256 MiB in float32


def recomputed(function: Callable[..., T], *inputs: Any) -> T:
    """Call a deterministic function; its backward calls it again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: T = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def row_slices(length: int, elements_per_row: int, multiple: int = 1) -> Iterator[slice]:
    """Cut rows into slices of bounded size, each but the last a multiple of so many rows."""
    rows = SLICE_ELEMENTS // max(1, elements_per_row)
    step = max(1, rows // multiple) * multiple
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
