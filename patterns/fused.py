"""Which inputs the fused kernels take, told without loading them or Triton."""

import importlib.util
import os

import torch
from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST = 256
NARROWEST_TILE = 16  # of a matrix product


def triton_refusal(q: Tensor, *, narrowest: int = 1) -> str | None:
    """Why the Triton kernels cannot run these inputs, or None.

    Args:
        q: the queries.
        narrowest: the least width of heads that the kernels in question take.

    Without a CUDA device they run in Triton's interpreter, far slower than anything else: only
    where TRITON_INTERPRET=1 asks for it.
    """
    if not _HAS_TRITON:
        return "triton is not installed; use backend sdpa or eager"
    interpreted = q.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if not q.is_cuda and not interpreted:
        return f"the Triton kernels run on CUDA, not {q.device.type}; use backend sdpa or eager"
    if q.dtype not in _DTYPES:
        return f"the Triton kernels do not take {q.dtype}; use backend eager"
    if interpreted and q.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies bfloat16 wrongly; use float16 or float32"
    if not narrowest <= q.shape[-1] <= _WIDEST:
        return (
            f"the Triton kernels take heads {narrowest} to {_WIDEST} wide, "
            f"not {q.shape[-1]}; use backend eager"
        )
    return None


def flex_refusal(q: Tensor) -> str | None:
    """Why compiled FlexAttention cannot run these inputs, or None."""
    if not q.is_cuda:
        return f"FlexAttention has no backward pass on {q.device.type}; use backend sdpa or eager"
    if q.dtype not in _DTYPES:
        return f"FlexAttention does not take {q.dtype} on CUDA; use backend eager"
    if q.shape[-1] < NARROWEST_TILE:
        return (
            f"FlexAttention takes heads from {NARROWEST_TILE} wide on, not {q.shape[-1]}; use eager"
        )
    return None
