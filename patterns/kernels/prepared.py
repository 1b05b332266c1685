"""Launches that remember what Triton compiled for them.

Triton looks at every argument of every launch to find the kernel that it compiled for such
arguments, and asks the driver about every pointer. At short lengths that takes longer than the
kernel. Here the numbers and constants of a launch are settled once, and a call compares only what
Triton derives from a tensor: its type, and whether its address is a multiple of 16.
"""

import functools
import os
from dataclasses import dataclass, field
from typing import Any

import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_ALIGNED = 16  # bytes: what Triton asks of an address before it loads in larger pieces
_KNOWN = triton.__version__.startswith(("3.6.", "3.7."))  # of others the launcher may differ
_DIRECT = _KNOWN and os.environ.get("ATTNBENCH_DIRECT_LAUNCHES") != "0"


@dataclass(frozen=True)
class _Ready:
    """A loaded kernel, and the arguments after the tensors."""

    kernel: CompiledKernel
    rest: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch with all settled but its tensors, which are the first arguments of the kernel.

    kernel: a function under `triton.jit`.
    programs: how many run.
    numbers: the arguments after the tensors.
    constants: the arguments after those, and the options of the compiler.

    The numbers must be the same from call to call, since Triton compiles for them too (a one, a
    multiple of 16). Where anything is not as this file knows it, Triton does all of it: in its
    interpreter, on AMD, in other versions, while hooks listen; and wherever the environment has
    ATTNBENCH_DIRECT_LAUNCHES=0.
    """

    kernel: Any
    programs: int
    numbers: tuple[Any, ...]
    constants: dict[str, Any]
    _ready: dict[tuple[Any, ...], _Ready] = field(default_factory=dict, repr=False)

    def __call__(self, *tensors: Tensor) -> None:
        """Queue the kernel on the current stream of the current device."""
        if not _DIRECT or not isinstance(self.kernel, JITFunction) or _overheard(self.kernel):
            self._by_triton(tensors)
            return
        device = driver.active.get_current_device()
        places = [x.data_ptr() for x in tensors]
        key = (device, *[place % _ALIGNED for place in places], *[x.dtype for x in tensors])
        ready = self._ready.get(key)
        if ready is None:
            self._remember(key, self._by_triton(tensors), len(tensors))
            return
        found = ready.kernel
        stream = driver.active.get_current_stream(device)
        found.run(
            self.programs, 1, 1, stream, found.function, found.packed_metadata, None, None, None,
            *places, *ready.rest,
        )  # fmt: skip

    def _by_triton(self, tensors: tuple[Tensor, ...]) -> Any:
        return self.kernel[(self.programs,)](*tensors, *self.numbers, **self.constants)

    def _remember(self, key: tuple[Any, ...], found: Any, tensors: int) -> None:
        if not isinstance(found, CompiledKernel) or found.function is None:
            return  # compiled and not launched
        if found.metadata.target.backend != "cuda":
            return
        after = self.kernel.params[tensors + len(self.numbers) :]
        # The options of the compiler are not among them: the compiled kernel brings its own.
        constants = (self.constants.get(one.name, one.default) for one in after)
        self._ready[key] = _Ready(found, (*self.numbers, *constants))


def _overheard(kernel: Any) -> bool:
    """Whether somebody wants to hear of launches."""
    told = triton.knobs.runtime
    enter, leave = told.launch_enter_hook, told.launch_exit_hook
    enter, leave = getattr(enter, "calls", enter), getattr(leave, "calls", leave)
    return bool(kernel.pre_run_hooks or enter or leave)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Launch with tensors, then numbers; remembered under all that is not a tensor."""
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    numbers = arguments[len(tensors) :]
    kinds = tuple(map(type, numbers))  # 1, 1.0 and True are equal
    _settled(kernel, programs, numbers, kinds, tuple(constants.items()))(*tensors)


@functools.lru_cache(maxsize=4096)
def _settled(
    kernel: Any,
    programs: int,
    numbers: tuple[Any, ...],
    _kinds: tuple[type, ...],
    constants: tuple[tuple[str, Any], ...],
) -> Launch:
    return Launch(kernel, programs, numbers, dict(constants))
