"""Every address that an interpreted kernel touches, compared with the tensors of its launch.

What a mask leaves out is not looked at. A kernel may touch the numbers of the tensors it was
launched with, from the first to the last of each, and nothing before, between or after them: one
that goes further reads or writes the memory of others on a GPU, now and then without a fault.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch


class OutsideTheTensors(Exception):
    """A kernel touched what no tensor of its launch holds."""


@dataclass(kw_only=True)
class Addresses:
    """What the launch under way may touch, and which kernels were launched at all."""

    kernels: set[str] = field(default_factory=set)
    kernel: str = ""
    names: list[str] = field(default_factory=list)
    begins: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.uint64))
    ends: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def launch(self, kernel: str, arguments: dict[str, Any]) -> None:
        """Take down where the tensors of a launch lie."""
        tensors = {n: x for n, x in arguments.items() if isinstance(x, torch.Tensor)}
        places = sorted((x.data_ptr(), x.data_ptr() + _extent(x), n) for n, x in tensors.items())
        places = [place for place in places if place[0] < place[1]]
        self.kernel = kernel
        self.kernels.add(kernel)
        self.names = [name for _, _, name in places]
        self.begins = np.array([begin for begin, _, _ in places], np.uint64)
        # Of tensors that overlap, the one that goes furthest counts.
        self.ends = np.maximum.accumulate(np.array([end for _, end, _ in places], np.uint64))

    def look_at(self, deed: str, addresses: Any, mask: Any, size: int) -> None:
        """Raise if a number of this size (in bytes) at one of the addresses is not in a tensor."""
        touched = np.broadcast_to(np.asarray(addresses), np.shape(mask))[np.asarray(mask, bool)]
        if not touched.size:
            return
        before = np.searchsorted(self.begins, touched, side="right") - 1
        inside = (before >= 0) & (touched + np.uint64(size) <= self.ends[before])
        if inside.all():
            return
        address, place = touched[~inside][0], max(int(before[~inside][0]), 0)
        steps = int(int(address) - int(self.begins[place])) / size
        raise OutsideTheTensors(
            f"{self.kernel} {deed} number {steps:g} of {self.names[place]}, the nearest before it, "
            f"which has {int(self.ends[place] - self.begins[place]) // size}"
        )


def _extent(x: torch.Tensor) -> int:
    """Bytes from the first number of x to behind its last."""
    if not x.numel():
        return 0
    last = sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.element_size()


def checked(monkeypatch: pytest.MonkeyPatch) -> Addresses:
    """From now on interpreted kernels raise, as an error of the interpreter, at such an address.

    Loads and stores alone: no kernel of this package has an atomic operation.
    """
    from triton.runtime import interpreter

    addresses = Addresses()
    builder = interpreter.InterpreterBuilder
    arguments = interpreter.GridExecutor._init_args_hst

    def on_host(self: Any, given: Any, options: Any) -> Any:
        found, named = arguments(self, given, options)
        addresses.launch(
            self.fn.__name__, {**dict(zip(self.arg_names, found, strict=False)), **named}
        )
        return found, named

    def watched(deed: str, name: str, mask_at: int) -> None:
        real: Callable[..., Any] = getattr(builder, name)

        def operation(self: Any, pointers: Any, *rest: Any) -> Any:
            mask = rest[mask_at].data
            shape = np.broadcast_shapes(np.shape(pointers.data), np.shape(mask))
            size = np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize
            addresses.look_at(deed, pointers.data, np.broadcast_to(mask, shape), size)
            return real(self, pointers, *rest)

        monkeypatch.setattr(builder, name, operation)

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", on_host)
    watched("reads", "create_masked_load", 0)
    watched("writes", "create_masked_store", 1)
    return addresses
