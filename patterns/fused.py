"""Where the fused Triton kernels run, told without importing Triton."""

import importlib.util
import os

import torch
from torch import Tensor

WIDEST_HEAD = 256
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def refusal(q: Tensor) -> str | None:
    """Why the kernels cannot run these inputs, or None.

    On a CPU they run in Triton's interpreter alone (TRITON_INTERPRET=1), which is for tests.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not q.is_cuda and not interpreted:
        return f"the Triton kernels need a CUDA device, not {q.device.type}; use backend sdpa"
    if importlib.util.find_spec("triton") is None:
        return "the Triton kernels need the package triton; install it, or use backend sdpa"
    if q.dtype not in _DTYPES:
        return f"the Triton kernels take bfloat16, float16 and float32, not {q.dtype}; use eager"
    if interpreted and q.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies bfloat16 wrongly; use float16 or float32"
    if q.shape[-1] > WIDEST_HEAD:
        return f"the Triton kernels take heads up to {WIDEST_HEAD} wide, not {q.shape[-1]}"
    return None
