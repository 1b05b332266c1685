"""Kernels as operators of PyTorch: opaque to `torch.compile`, captured by CUDA graphs.

For compiled code: called directly an operator costs the host more than `patterns.kernels.by_hand`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from patterns.kernels.by_hand import Backward, Forward

_LIBRARY = torch.library.Library("attnbench", "FRAGMENT")


def register(
    name: str,
    settings: str,
    *,
    forward: Forward,
    room: Forward,
    backward: Backward,
    gradient: Callable[[Tensor], Tensor],
) -> None:
    """Make `torch.ops.attnbench.NAME` and, for its gradients, `NAME_backward`.

    Args:
        settings: what follows q, k, v in the schema of both.
        forward: the output and what else the backward needs, for (q, k, v, *settings).
        room: the same without their numbers.
        backward: dq, dk, dv for (gradient, q, k, v, what was returned, *settings).
        gradient: room for that of one of q, k, v.
    """
    inputs, back = "Tensor q, Tensor k, Tensor v", f"{name}_backward"
    _LIBRARY.define(f"{name}({inputs}, {settings}) -> Tensor[]")
    _LIBRARY.define(f"{back}(Tensor grad, {inputs}, Tensor[] kept, {settings}) -> Tensor[]")

    def run(*given: Any) -> list[Tensor]:
        return list(forward(*given))

    def run_back(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor], *told: Any
    ) -> list[Tensor]:
        return list(backward(grad, q, k, v, tuple(kept), *told))

    def fake(*given: Any) -> list[Tensor]:
        return list(room(*given))

    def fake_back(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *_told: Any) -> list[Tensor]:
        return [gradient(x) for x in (q, k, v)]

    def differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
        q, k, v, *kept = ctx.saved_tensors
        found = getattr(torch.ops.attnbench, back)(grads[0], q, k, v, kept, *ctx.settings)
        return *found, *(None for _ in ctx.settings)

    for device in ("CPU", "CUDA"):  # on a CPU in Triton's interpreter
        _LIBRARY.impl(name, run, device)
        _LIBRARY.impl(back, run_back, device)
    torch.library.register_fake(f"attnbench::{name}", fake, lib=_LIBRARY)
    torch.library.register_fake(f"attnbench::{back}", fake_back, lib=_LIBRARY)
    torch.library.register_autograd(
        f"attnbench::{name}", differentiate, setup_context=_keep, lib=_LIBRARY
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output)
