"""What a case will need: memory, and the least time, so that the hopeless is skipped.

The predictions are lower bounds: what they refuse cannot run, what they let pass still may not.
"""

import functools
import time
from dataclasses import dataclass

import psutil
import torch

from attnbench.case import AnyCase, CostCase
from attnbench.matrix import shape_of
from attnbench.outcome import Ended
from patterns.base import Implementation, Pattern

PASS_FACTOR = {"fwd": 1.0, "bwd": 2.5, "fwdbwd": 3.5}  # of the forward pass's products
_SCORE_COPIES = {"fwd": 2.0, "bwd": 3.0, "fwdbwd": 3.0}  # that the textbook softmax holds at once
_USABLE = 0.9  # of the free memory
_CALL_S = 5e-5  # no call is faster
_SETUP_S = 0.3  # checking and sizing a case, roughly
_SLOWNESS = 8.0  # of a typical pattern, against a plain matrix product
_CALLS = 30.0  # of a typical case, all together


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one call of a case needs, and roughly how long measuring the case takes."""

    flops: int
    bytes: int
    peak_bytes: int
    least_s: float
    measuring_s: float


def predict(case: AnyCase, pattern: Pattern, implementation: Implementation) -> Prediction:
    """Predict one call of a case; fidelity cases as if all their maps were dense."""
    shape = shape_of(case)
    cost = pattern.cost(shape)
    pass_ = case.pass_ if isinstance(case, CostCase) else "fwdbwd"
    element, dim = shape.element_bytes, shape.dim
    queries = shape.batch * shape.heads * shape.length
    keys = shape.batch * shape.kv_heads * shape.length
    peak = element * dim * queries
    if pass_ != "fwd":
        peak += element * dim * (queries + 2 * keys)
    textbook = pattern.name == "full" and implementation.backend == "eager"
    if textbook or implementation.kind == "simulated":
        peak += int(_SCORE_COPIES[pass_] * element * queries * shape.length)
    flops = int(cost.flops * PASS_FACTOR[pass_])
    least_s = max(_CALL_S, flops / matmul_rate(case.device, case.dtype))
    measuring_s = _SETUP_S + _CALLS * _SLOWNESS * least_s
    if not isinstance(case, CostCase):
        dense = 8 * dim * queries * shape.length  # output and map, full and effective
        measuring_s = _SETUP_S + _SLOWNESS * dense / matmul_rate(case.device, "float64")
    return Prediction(
        flops=flops,
        bytes=cost.bytes,
        peak_bytes=peak,
        least_s=least_s,
        measuring_s=measuring_s,
    )


def expect_fits(prediction: Prediction, device: torch.device) -> None:
    """Skip what needs more memory than there is.

    Raises:
        Ended: as `skipped`, with both numbers.
    """
    free = free_bytes(device)
    if prediction.peak_bytes > _USABLE * free:
        raise Ended(
            "skipped",
            f"it needs at least {gib(prediction.peak_bytes)} and {gib(free)} are free",
        )


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors could take."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


@functools.cache
def matmul_rate(device: str, dtype: str) -> float:
    """FLOPs a second that nothing here exceeds: twice the best of a few plain matrix products."""
    size = 4096 if device == "cuda" else 512
    # On a CPU, half precision may be emulated in the product and not in the kernels.
    chosen = getattr(torch, dtype) if device == "cuda" else torch.float32
    x = torch.randn(size, size, device=device, dtype=chosen)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        x @ x
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return float(2 * (2 * size**3 / best))


def gib(count: float) -> str:
    """A number of bytes in words: 1.5 GiB, 12 MiB."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.3g} GiB"
    return f"{count / (1 << 20):.3g} MiB"
