"""Which rows a correctness check looks at."""

import dataclasses
from typing import Any

import torch
from torch import Generator, Tensor

from patterns.base import Pattern

ROWS = 64
_FEW_ROWS = 16  # that the definition runs on in the dtype of the run, or with gradients, if long
_EDGES = 40  # of the rows, at most, stand at the edges of blocks


def check_rows(pattern: Pattern, length: int, count: int = ROWS) -> Tensor:
    """Which query rows are checked: the first, the last, edges of blocks, and random others.

    Returns:
        Ascending int64 on the CPU: `count` of them, or all where there are fewer.
    """
    if length <= count:
        return torch.arange(length)
    resolved: Any = pattern.resolve(length)
    sizes = {getattr(resolved, field.name) for field in dataclasses.fields(resolved)}
    sizes = {size for size in sizes if type(size) is int and 1 < size < length}
    chosen = [0, length - 1, 1, length - 2, length // 2]
    for size in sorted(sizes):
        last = (length - 1) // size * size  # where the last block begins
        chosen += [size - 1, size, size + 1, last - 1, last, 2 * size]
    chosen = list(dict.fromkeys(row for row in chosen if 0 <= row < length))[:_EDGES]
    others = torch.randperm(length, generator=Generator().manual_seed(0))[:count].tolist()
    return torch.tensor(sorted(list(dict.fromkeys([*chosen, *others]))[:count]))


def few(rows: Tensor) -> Tensor:
    """Some of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= _FEW_ROWS:
        return rows
    chosen = torch.linspace(0, len(rows) - 1, _FEW_ROWS, dtype=torch.float64).round().long()
    return rows[chosen.to(rows.device)]
