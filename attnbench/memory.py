"""The memory of one call, in a pass of its own: nothing is timed meanwhile.

`peak_bytes` is the most that was held above the inputs, the output included, and for a backward
pass the gradients. `saved_bytes` is what stays between forward and backward, beyond the inputs
and the output. On CUDA the caching allocator counts both; on the CPU the profiler sees every
allocation and release, those inside an operator included, and saved tensors are counted by hooks.
"""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity

from attnbench.profiling import profiled

_STILL_READS = 4  # that agree, a pause between each two
_MOST_READS = 50
_PAUSE_S = 1e-3

Forward = Callable[[], Tensor]
Backward = Callable[[Tensor], Sequence[Tensor]]


def measure_memory(
    forward: Forward, backward: Backward | None, inputs: Sequence[Tensor]
) -> dict[str, Any]:
    """The `memory` block of a record; call it once both have run before.

    Args:
        forward: the call, with gradients enabled if there is a backward.
        backward: output -> gradients, or None for a forward pass alone.
        inputs: the tensors that are there already.
    """
    if inputs[0].is_cuda:
        return _on_cuda(forward, backward, inputs[0].device)
    return _on_cpu(forward, backward, inputs)


def _on_cuda(forward: Forward, backward: Backward | None, device: torch.device) -> dict[str, Any]:
    _settle(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device)
    out, saved = forward(), None
    torch.cuda.synchronize(device)
    if backward is not None:
        saved = torch.cuda.memory_allocated(device) - base - _bytes(out)
        grads = backward(out)
        torch.cuda.synchronize(device)
        del grads
    del out
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(device) - base,
        "saved_bytes": None if saved is None else max(0, saved),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
        "how": "cuda allocator",
    }


def _settle(device: torch.device) -> None:
    """Wait until what calls before this one held is let go, lest it is taken for the inputs.

    Cycles wait for the garbage collector, and the gradients of the last backward pass for the
    thread of autograd that made them, which needs Python's lock to drop them: a pause gives it.
    """
    torch.cuda.synchronize(device)
    gc.collect()
    held, same = torch.cuda.memory_allocated(device), 1
    for _ in range(_MOST_READS):
        time.sleep(_PAUSE_S)
        before, held = held, torch.cuda.memory_allocated(device)
        same = same + 1 if held == before else 1
        if same >= _STILL_READS:
            return


def _on_cpu(
    forward: Forward, backward: Backward | None, inputs: Sequence[Tensor]
) -> dict[str, Any]:
    saved = None
    if backward is not None:
        kept: dict[int, int] = {}
        with saved_tensors_hooks(lambda x: _note(x, kept), lambda x: x):
            out = forward()
        for tensor in (*inputs, out):
            kept.pop(_storage(tensor), None)
        saved = sum(kept.values())
        del out
    with profiled(ProfilerActivity.CPU, memory=True) as events:
        out = forward()
        grads = None if backward is None else backward(out)
    del out, grads
    return {
        "peak_bytes": _peak(events),
        "saved_bytes": saved,
        "reserved_bytes": None,
        "how": "cpu profiler",
    }


def _peak(events: Sequence[Any]) -> int | None:
    """The highest running sum over the allocations and releases that the profiler saw."""
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        held += size
        peak = max(peak, held)
    return peak if changes else None


def _note(x: Tensor, kept: dict[int, int]) -> Tensor:
    kept[_storage(x)] = x.untyped_storage().nbytes()
    return x


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _bytes(x: Tensor) -> int:
    return x.untyped_storage().nbytes()
