"""Full softmax attention in tiles: as the textbook has it, at any length, never L x L at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.softmax import (
    Attended,
    Operands,
    attention,
    key_gradients,
    query_gradient,
    top_log_weights,
)
from patterns.base import expand_groups

BOTH = pytest.mark.parametrize("causal", [True, False])
FEW_BYTES = 24 * 40  # about 40 scores a tile


class Largest(TorchDispatchMode):
    """Remembers the most elements that one tensor had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return out


def operands(length: int, *, causal: bool, dtype=torch.float64, tile_bytes=FEW_BYTES, size=1.0):
    """Two sequences, four query heads that share two key-value heads."""
    draw = torch.Generator().manual_seed(length)
    q, k, v = (
        size * torch.randn(2, heads, length, 8, generator=draw, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    q, k, v = (x.to(dtype) for x in (q, k, v))
    return Operands(q=q, k=k, v=v, causal=causal, scale=0.3, tile_bytes=tile_bytes)


def textbook(x: Operands, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output and weights with all L x L scores."""
    k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
    scores = x.scale * q @ k.mT
    if x.causal:
        hidden = torch.ones(x.length, x.length, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def close(found: Tensor, wanted: Tensor) -> None:
    """Within what rounding explains: 64 units in the last place of the largest number."""
    allowed = 64 * torch.finfo(found.dtype).eps * max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=allowed)


@BOTH
@given(length=st.integers(1, 70), rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=9))
def test_streamed_attention_is_softmax_attention(causal: bool, length: int, rows: list[int]):
    x = operands(length, causal=causal)
    out, weights = textbook(x, x.q, x.k, x.v)
    chosen = torch.tensor([row % length for row in rows])
    for wanted in (None, chosen):
        found = attention(x, wanted)
        some = x.all_rows() if wanted is None else wanted
        close(found.output, out[:, :, some])
        logs = (x.scale * x.q @ expand_groups(x.k, 4).mT)[:, :, some, 0]
        close(found.lse, logs - weights[:, :, some, 0].log())


@BOTH
def test_scores_that_overflow_the_exponential_do_no_harm(causal: bool):
    x = operands(50, causal=causal, size=60.0)
    close(attention(x).output, textbook(x, x.q, x.k, x.v)[0])


def test_float32_stays_float32():
    x = operands(40, causal=True, dtype=torch.float32)
    found = attention(x)
    assert found.output.dtype == found.lse.dtype == torch.float32
    close(found.output, textbook(x, x.q, x.k, x.v)[0])
    slopes = [query_gradient(x, x.q, x.all_rows(), found)]
    slopes += key_gradients(x, x.q, x.all_rows(), found)
    assert {one.dtype for one in slopes} == {torch.float32}


@BOTH
@given(length=st.integers(1, 60), count=st.integers(1, 12), data=st.data())
def test_gradients_at_sampled_rows_and_keys_are_those_of_autograd(
    causal: bool, length: int, count: int, data: st.DataObject
):
    x = operands(length, causal=causal)
    rows, keys = (
        torch.tensor(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=count)))
        for _ in range(2)
    )
    q, k, v = (one.clone().requires_grad_() for one in (x.q, x.k, x.v))
    grad = torch.randn(q.shape, dtype=torch.float64)
    dq, dk, dv = torch.autograd.grad(textbook(x, q, k, v)[0], (q, k, v), grad)
    attended = attention(x)
    at_rows = Attended(attended.output[:, :, rows], attended.lse[:, :, rows])
    close(query_gradient(x, grad[:, :, rows], rows, at_rows), dq[:, :, rows])
    found_dk, found_dv = key_gradients(x, grad, keys, attended)
    close(found_dk, dk[:, :, keys])
    close(found_dv, dv[:, :, keys])


@BOTH
@given(length=st.integers(1, 60), count=st.integers(1, 20))
def test_the_top_weights_are_the_largest_of_the_row(causal: bool, length: int, count: int):
    x = operands(length, causal=causal)
    rows = x.all_rows()[::3]
    found = top_log_weights(x, rows, attention(x, rows).lse, count).exp()
    weights = textbook(x, x.q, x.k, x.v)[1][:, :, rows]
    close(found, weights.topk(min(count, length), dim=-1).values)


@BOTH
def test_no_tensor_grows_with_the_square_of_the_length(causal: bool):
    x = operands(512, causal=causal, tile_bytes=1 << 16)
    with Largest() as largest:
        attended = attention(x)
        top_log_weights(x, x.all_rows(), attended.lse, 8)
        query_gradient(x, x.q, x.all_rows(), attended)
        key_gradients(x, x.q, x.all_rows(), attended)
    assert largest.numel <= 2 * x.q.numel()  # the heaviest keys of a row, beside those so far
    assert largest.numel < 8 * 512 * 512 / 10
