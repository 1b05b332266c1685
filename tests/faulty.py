"""Patterns that go wrong, each in one way: a plugin for the fault suite, and an example of one.

They are full attention with `spoil` between the output and whoever gets it.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from patterns.errors import Unsupported
from patterns.full import Full

try:
    import triton
    from triton import language as tl
except ImportError:
    triton = None


class Faulty(Full):
    backends: ClassVar = ("eager",)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        return self.spoil(super()._run(q, k, v, scale, "eager"), v)


@dataclass(frozen=True, kw_only=True)
class Nan(Faulty):
    name: ClassVar = "nan"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        return out.masked_fill(out == out.max(), torch.nan)


@dataclass(frozen=True, kw_only=True)
class Hungry(Faulty):
    name: ClassVar = "hungry"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        kept = [torch.empty(1 << 36, dtype=torch.int8, device=out.device) for _ in range(1 << 12)]
        return out + len(kept)


@dataclass(frozen=True, kw_only=True)
class Hangs(Faulty):
    name: ClassVar = "hangs"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        if out.is_cuda:
            torch.cuda._sleep(1 << 50)  # days
            return out
        while True:
            out = out + 0


@dataclass(frozen=True, kw_only=True)
class Exits(Faulty):
    name: ClassVar = "exits"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        print("I am off")
        os._exit(7)


@dataclass(frozen=True, kw_only=True)
class Segfaults(Faulty):
    name: ClassVar = "segfaults"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        return out + ctypes.string_at(0)[0]


if triton is not None:

    @triton.jit
    def _store_far_away(x):
        tl.store(x + (1 << 40), 0.0)


@dataclass(frozen=True, kw_only=True)
class Illegal(Faulty):
    """Writes to memory that is not its own, which ends the CUDA context of its process."""

    name: ClassVar = "illegal"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        if triton is None or not out.is_cuda:
            raise Unsupported("an illegal access needs a CUDA device and triton")
        _store_far_away[(1,)](out)
        return out


@dataclass(frozen=True, kw_only=True)
class DiesLate(Faulty):
    """Well when it is checked and sized, and gone when it is timed."""

    name: ClassVar = "dies-late"
    calls: ClassVar[list[int]] = []

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        self.calls.append(1)
        if len(self.calls) > 12:
            os.abort()
        return out


@dataclass(frozen=True, kw_only=True)
class Writes(Faulty):
    name: ClassVar = "writes"

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        v.detach().zero_()
        return out


@dataclass(frozen=True, kw_only=True)
class Peeks(Faulty):
    """Its definition sees one token ahead as well, so that the two agree."""

    name: ClassVar = "peeks"

    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        ahead = (rows + 1).clamp(max=q.shape[2] - 1)
        return super()._weights(q, k, rows, scale) / 2 + _one_hot(ahead, q) / 2

    def spoil(self, out: Tensor, v: Tensor) -> Tensor:
        return out / 2 + torch.cat([v[:, :, 1:], v[:, :, -1:]], dim=2) / 2


def _one_hot(positions: Tensor, q: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(positions, q.shape[2]).to(q.dtype)
