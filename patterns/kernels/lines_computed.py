"""How many query-key products the kernels along lines make; the same sums as in their `spans`.

Letters as in `patterns.kernels.lines`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from patterns.kernels.lines import FROM, UPTO
from patterns.kernels.tuned import Tiles

if TYPE_CHECKING:
    from patterns.kernels.lines_calls import Frame


def read_pairs(
    frame: "Frame",
    tiles: Tiles,
    *,
    down: bool,
    mask: int,
    shift: int,
    line: int,
    asking: int,
    limit: int,
) -> int:
    """Pairs of one head where the tokens before `asking` read those before `limit`."""
    lines = torch.arange(frame.columns if down else frame.rows)
    keys = _counts(frame, lines + line, limit, down)[:, None]
    first = torch.arange(0, frame.extent(down), tiles.queries)
    rows = (_counts(frame, lines, asking, down)[:, None] - first).clamp(min=0, max=tiles.queries)
    if mask == UPTO.value:
        stop = (first + tiles.queries - shift).clamp(min=0)
        seen = torch.minimum(-(-stop // tiles.keys) * tiles.keys, keys)
    elif mask == FROM.value:
        seen = (keys - (first + shift) // tiles.keys * tiles.keys).clamp(min=0)
    else:
        seen = keys
    return int((rows * seen).sum())


def diagonal_pairs(frame: "Frame", tiles: Tiles, *, down: bool) -> int:
    """Pairs of one head in those tiles of each line with itself that its diagonal runs through."""
    lines = torch.arange(frame.columns if down else frame.rows)
    keys = _counts(frame, lines, frame.length, down)[:, None]
    first = torch.arange(0, frame.extent(down), tiles.queries)
    low = torch.minimum((first + 1) // tiles.keys * tiles.keys, keys)
    stop = torch.minimum(-(-(first + tiles.queries) // tiles.keys) * tiles.keys, keys)
    rows = (keys - first).clamp(min=0, max=tiles.queries)
    return int((rows * (stop - low)).sum())


def _counts(frame: "Frame", line: Tensor, limit: int, down: bool) -> Tensor:
    """How many tokens before `limit` these lines have: none if there is no such line."""
    if down:
        found = ((limit - line + frame.columns - 1) // frame.columns).clamp(min=0, max=frame.rows)
        known = (line >= 0) & (line < frame.columns)
    else:
        found = (limit - line * frame.columns).clamp(min=0, max=frame.columns)
        known = (line >= 0) & (line < frame.rows)
    return torch.where(known, found, 0)
