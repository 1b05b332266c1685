"""Kernels as operators of PyTorch: opaque to torch.compile, captured by CUDA graphs."""

from typing import Any

import torch
from torch import Tensor

from patterns.kernels.by_hand import Backward, Forward
from patterns.kernels.launching import unit_rows

_LIBRARY = torch.library.Library("attnbench", "FRAGMENT")


def register(
    name: str, settings: str, *, forward: Forward, room: Forward, backward: Backward
) -> None:
    """Make `torch.ops.attnbench.NAME` and, for its gradients, `NAME_backward`.

    Args:
        settings: what follows q, k, v in the schema of both.
        forward: the output and its log-sum-exps, for (q, k, v, *settings).
        room: the same without their numbers.
        backward: as `patterns.kernels.by_hand.attend` wants it.
    """
    inputs, back = "Tensor q, Tensor k, Tensor v", f"{name}_backward"
    _LIBRARY.define(f"{name}({inputs}, {settings}) -> (Tensor, Tensor)")
    _LIBRARY.define(
        f"{back}(Tensor grad, {inputs}, Tensor out, Tensor lse, {settings}) "
        "-> (Tensor, Tensor, Tensor)"
    )

    def go_back(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backward(grad, q, k, v, (out, lse), *settings)

    for device in ("CPU", "CUDA"):  # on a CPU in Triton's interpreter
        _LIBRARY.impl(name, forward, device)
        _LIBRARY.impl(back, go_back, device)

    def differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        grads = getattr(torch.ops.attnbench, back)(grad, *ctx.saved_tensors, *ctx.settings)
        return *grads, *(None for _ in ctx.settings)

    name = f"attnbench::{name}"
    torch.library.register_fake(name, room, lib=_LIBRARY)
    torch.library.register_fake(f"attnbench::{back}", _room_for_gradients, lib=_LIBRARY)
    torch.library.register_autograd(name, differentiate, setup_context=_keep, lib=_LIBRARY)


def _room_for_gradients(
    _grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(unit_rows(x)) for x in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse)
