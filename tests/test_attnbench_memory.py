"""The memory pass, on calls whose memory is known."""

import pytest
import torch
from torch import Tensor

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
