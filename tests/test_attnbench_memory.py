"""The memory pass, on calls whose memory is known."""

import gc
import time
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import child, memory
from attnbench.memory import measure_memory

MEBI = 1 << 20


def numbers(count: int, **options) -> Tensor:
    return torch.ones(count, dtype=torch.float32, **options)


def test_the_peak_is_what_was_held_at_once():
    x = numbers(MEBI)

    def forward() -> Tensor:
        first = x + 1  # 4 MiB
        second = first + 1  # 8 MiB
        del first
        return second + 1  # 8 MiB again

    found = measure_memory(forward, None, (x,))
    assert found["peak_bytes"] == pytest.approx(8 * MEBI, rel=0.01)
    assert found["saved_bytes"] is None
    assert found["how"] == "cpu profiler"


def test_memory_inside_an_operator_counts():
    x = torch.ones(1024, 1024)
    found = measure_memory(lambda: torch.logsumexp(x, dim=1), None, (x,))
    assert found["peak_bytes"] > 4 * MEBI  # the result is 4 KiB; exp(x) is held inside


def test_saved_bytes_leave_out_the_inputs_and_the_output():
    x = numbers(MEBI, requires_grad=True)

    def forward() -> Tensor:
        return (x * 2).exp().sin()  # saves exp's result for exp, and the same for sin

    found = measure_memory(forward, lambda out: torch.autograd.grad(out.sum(), x), (x,))
    assert found["saved_bytes"] == 4 * MEBI


def test_what_is_saved_twice_counts_once():
    x = numbers(MEBI, requires_grad=True)

    def forward() -> Tensor:
        y = x.sin()
        return y * y

    found = measure_memory(forward, lambda out: torch.autograd.grad(out.sum(), x), (x,))
    assert found["saved_bytes"] == 4 * MEBI


def test_the_peak_of_a_backward_pass_holds_the_gradients():
    x = numbers(MEBI, requires_grad=True)
    found = measure_memory(
        x.exp, lambda out: torch.autograd.grad(out, x, torch.ones_like(out)), (x,)
    )
    assert found["peak_bytes"] >= 8 * MEBI


@pytest.mark.gpu
def test_the_allocator_says_the_same_on_cuda():
    x = numbers(MEBI, device="cuda", requires_grad=True)
    found = measure_memory(
        lambda: (x * 2).exp().sin(), lambda out: torch.autograd.grad(out.sum(), x), (x,)
    )
    assert found["saved_bytes"] == 4 * MEBI
    assert found["peak_bytes"] >= 8 * MEBI
    assert found["how"] == "cuda allocator"


class Allocator:
    """Stands for CUDA's: 5 MiB of inputs, and what calls before the one measured still hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.peak = 5 * MEBI
        self.reads = 0
        self.late = 0  # of `held`; let go once another thread had time enough
        self.pauses = 0
        for name in ("synchronize", "empty_cache", "max_memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(time, "sleep", self.pause)

    def change(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def allocated(self, *_: object) -> int:
        self.reads += 1
        return self.held

    def reset(self, *_: object) -> None:
        self.peak = self.held

    def pause(self, _: float) -> None:
        self.pauses += 1
        if self.pauses == 2:
            self.let_go()

    def let_go(self) -> None:
        self.change(-self.late)
        self.late = 0

    def forward(self) -> Tensor:
        """Hold 1 MiB of output; whatever is late has gone by the end of it."""
        self.let_go()
        self.change(MEBI)
        return torch.empty(MEBI, dtype=torch.int8)

    def backward(self, out: Tensor) -> tuple[Tensor, ...]:
        """Hold 3 MiB of gradients beside it."""
        self.change(3 * MEBI)
        return (out,)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    return Allocator(monkeypatch)


def on_cuda(allocator: Allocator) -> dict[str, Any]:
    return memory._on_cuda(allocator.forward, allocator.backward, torch.device("cuda"))


def test_gradients_that_another_thread_still_holds_are_waited_for(allocator: Allocator):
    allocator.late = 3 * MEBI
    allocator.change(allocator.late)
    found = on_cuda(allocator)
    assert (found["peak_bytes"], found["saved_bytes"]) == (4 * MEBI, 0)


def test_what_a_cycle_holds_is_not_taken_for_the_inputs(allocator: Allocator):
    class Held:
        def __init__(self) -> None:
            self.itself = self
            allocator.change(3 * MEBI)

        def __del__(self) -> None:
            allocator.change(-3 * MEBI)

    gc.disable()
    try:
        Held()
        found = on_cuda(allocator)
    finally:
        gc.enable()
    assert allocator.held == 9 * MEBI
    assert found["peak_bytes"] == 4 * MEBI


def test_there_is_an_end_to_the_waiting(allocator: Allocator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "sleep", lambda _: allocator.change(1))
    on_cuda(allocator)
    assert allocator.reads < 100


def test_no_more_is_read_once_it_holds_still(allocator: Allocator):
    on_cuda(allocator)
    assert allocator.pauses <= 5


def test_what_lives_long_is_looked_through_between_groups_alone():
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    gone, kept = Cycle(), Cycle()
    weak = weakref.ref(gone), weakref.ref(kept)
    try:
        child._collect()
        assert gc.get_freeze_count() > 0
        del gone
        gc.collect()
        assert weak[0]() is not None
        child._collect()
        assert (weak[0](), weak[1]()) == (None, kept)
    finally:
        gc.unfreeze()
