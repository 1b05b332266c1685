"""Launching the kernels that pool along the lines of a grid, and how many tokens a pool has."""

from typing import Any

import torch
from torch import Tensor

from patterns.kernels import line_pools
from patterns.kernels.lines_calls import Frame
from patterns.kernels.prepared import launch

_NUMBERS = 512  # of a step of a program
_WARPS = 2


def pool(frame: Frame, x: Tensor, pooled: Tensor, region: str, limit: int, **how: bool) -> None:
    """Pool x [B, h, L, D] along its lines into [B, h, P, D].

    Args:
        region: a token with all `before` it, with all `after` it, or all `others` of its line.
        limit: places before it get a pool.
        how: `down` (the lines are columns), `largest` (the maximum, else the mean).
    """
    launch(
        line_pools.pool_lines, _programs(frame, x, how["down"]),
        x, pooled, *x.stride()[:3],
        frame.length, frame.rows, frame.columns, limit, x.shape[1],
        **_constants(frame, region, how),
        num_warps=_WARPS,
    )  # fmt: skip


def unpool(
    frame: Frame,
    x: Tensor,
    pooled: Tensor,
    grad: Tensor,
    dx: Tensor,
    region: str,
    limit: int,
    **how: bool,
) -> None:
    """Add to dx [B, h, L, D] the gradient of what `pool` made, summed over groups of heads.

    Args:
        grad: of the pools, [B, Hq, P, D].
    """
    launch(
        line_pools.unpool_lines, _programs(frame, x, how["down"]),
        x, pooled, grad, dx, *x.stride()[:3],
        frame.length, frame.rows, frame.columns, limit, x.shape[1],
        LOOP=grad.shape[1] // x.shape[1],
        **_constants(frame, region, how),
        num_warps=_WARPS,
    )  # fmt: skip


def log_sizes(frame: Frame, region: str, limit: int, down: bool, like: Tensor) -> Tensor:
    """The logarithm to base 2 of how many tokens each pool has, [P]."""
    place = torch.arange(frame.padded, device=like.device)
    row, column = place // frame.columns, place % frame.columns
    if down:
        step, count = row, (frame.length - column + frame.columns - 1) // frame.columns
    else:
        step, count = column, (frame.length - row * frame.columns).clamp(max=frame.columns)
    if region == "others":
        size = count - (step < count).long()
    else:
        size = torch.minimum(step + 1, count) if region == "before" else count - step
    return size.clamp(min=1).to(like.dtype).log2()


def _lines(frame: Frame) -> int:
    return max(1, _NUMBERS // frame.width)


def _programs(frame: Frame, x: Tensor, down: bool) -> int:
    across = frame.columns if down else frame.rows
    return -(-across // _lines(frame)) * x.shape[0] * x.shape[1]


def _constants(frame: Frame, region: str, how: dict[str, bool]) -> dict[str, Any]:
    return {
        "DOWN": how["down"],
        "BACKWARDS": region == "after",
        "OTHERS": region == "others",
        "MAX": how["largest"],
        "LINES": _lines(frame),
        "DIM": frame.dim,
        "WIDTH": frame.width,
    }
