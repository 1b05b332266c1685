"""Which inputs the fused kernels take; loads neither them nor Triton."""

import importlib.util
import os

import torch
from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDTHS = (16, 256)


def triton_refusal(q: Tensor) -> str | None:
    """Why the Triton kernels cannot run these inputs, or None.

    Without a CUDA device they run in Triton's interpreter, far slower than anything else: only
    where TRITON_INTERPRET=1 asks for it.
    """
    if not _HAS_TRITON:
        return "triton is not installed; use backend sdpa or eager"
    if not q.is_cuda and (q.device.type != "cpu" or os.environ.get("TRITON_INTERPRET") != "1"):
        return f"the Triton kernels run on CUDA, not {q.device.type}; use backend sdpa or eager"
    if q.dtype not in _DTYPES:
        return f"the Triton kernels do not take {q.dtype}; use backend eager"
    if not _WIDTHS[0] <= q.shape[-1] <= _WIDTHS[1]:
        return (
            f"the Triton kernels take heads {_WIDTHS[0]} to {_WIDTHS[1]} wide, "
            f"not {q.shape[-1]}; use backend eager"
        )
    return None


def flex_refusal(q: Tensor) -> str | None:
    """Why compiled FlexAttention cannot run these inputs, or None."""
    if not q.is_cuda:
        return f"FlexAttention has no backward pass on {q.device.type}; use backend sdpa or eager"
    if q.dtype not in _DTYPES:
        return f"FlexAttention does not take {q.dtype} on CUDA; use backend eager"
    if q.shape[-1] < _WIDTHS[0]:
        return f"FlexAttention takes heads from {_WIDTHS[0]} wide on, not {q.shape[-1]}; use eager"
    return None
