"""What every launch of our Triton kernels needs: rows in one piece, and the right device."""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from patterns.kernels import assembler


def unit_rows(x: Tensor) -> Tensor:
    """The same numbers with the elements of a row side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device: make it the one of x."""
    if not x.is_cuda:
        return contextlib.nullcontext()
    assembler.prepare(x.device.index)
    if x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)


def precision(x: Tensor) -> str:
    """How float32 products are made: exactly, unless PyTorch is allowed TF32 as well."""
    exact = x.dtype != torch.float32 or not torch.backends.cuda.matmul.allow_tf32
    return "ieee" if exact else "tf32"


def may_overlap(x: Tensor) -> bool:
    """Whether a launch on the device of x may begin while the one before it ends.

    The first of the two says when (`gdc_launch_dependents`), the second waits for what the first
    has written (`gdc_wait`): programmatic dependent launch, of Hopper and later.
    """
    return x.is_cuda and _capability(x.device.index) >= (9, 0)


def packs_halves(x: Tensor) -> bool:
    """Whether an instruction takes the maxima of two 16-bit numbers: on Ampere and later."""
    return x.is_cuda and x.dtype != torch.float32 and _capability(x.device.index) >= (8, 0)


def early_launch(early: bool) -> dict[str, Any]:
    """The options of a launch that may begin early."""
    return {"launch_pdl": True} if early else {}


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    """None at all where nothing is launched: shapes alone may be asked for without a GPU."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (0, 0)
