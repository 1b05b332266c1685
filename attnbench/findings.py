"""What can be wrong with a call: each finding has the guard that made it and a sentence."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnbench.definition import Expected, Inputs, worst_share
from patterns.base import Pattern

NAMES = ("output", "dq", "dk", "dv")
_ROW_ROUNDINGS = 32.0  # of a row's own size
_PLAIN_FACTOR = 2.0
_ROUNDINGS = {torch.float64: 64.0}  # elsewhere 8


class Wrong(NamedTuple):
    """What is wrong: the guard that found it, and a sentence."""

    guard: str
    reason: str


def why_malformed(name: str, x: Tensor, shape: Sequence[int], like: Tensor) -> Wrong | None:
    """Another shape, dtype or device than it should have, or numbers that are none."""
    for what, got, wanted in (
        ("shape", list(x.shape), list(shape)),
        ("dtype", x.dtype, like.dtype),
        ("device", x.device, like.device),
    ):
        if got != wanted:
            return Wrong(what, f"the {name} has {what} {got}, expected {wanted}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        return Wrong("finite", f"the {name} holds NaN or Inf in {bad} of {x.numel()} places")
    return None


def compare(
    name: str, found: Tensor, expected: Expected, dtype: torch.dtype, seen: dict[str, Any]
) -> Wrong | None:
    """Further from the definition than rounding explains, at one place or in one row as a whole.

    What was seen is added to `seen`.
    """
    error = float((found.double() - expected.value).abs().max())
    roundings = _ROUNDINGS.get(dtype, 8.0) * torch.finfo(dtype).eps
    bound = _PLAIN_FACTOR * expected.plain_error + roundings * expected.largest
    seen[name] = {"error": error, "bound": bound}
    if not error <= bound:
        return Wrong(
            "definition",
            f"the {name} is {error:.2g} from the definition at the worst place; "
            f"{bound:.2g} is allowed",
        )
    share = worst_share(found.double() - expected.value, expected.sizes)
    many = _ROW_ROUNDINGS if len(expected.sizes) > 1 else _ROUNDINGS.get(dtype, 8.0)
    allowed = _PLAIN_FACTOR * expected.plain_share + many * torch.finfo(dtype).eps
    seen[name] |= {"share": share, "share_bound": allowed}
    if share <= allowed:
        return None
    return Wrong(
        "definition", f"the {name} is off by {share:.2g} of its own size; {allowed:.2g} is allowed"
    )


def restored(inputs: Sequence[Tensor], before: Sequence[Tensor]) -> Wrong | None:
    """Put back what a call wrote to its inputs, and say so."""
    names = []
    for name, x, was in zip("qkv", inputs, before, strict=True):
        if not torch.equal(x, was):
            x.detach().copy_(was)
            names.append(name)
    return Wrong("inputs", f"the call changed its input {', '.join(names)}") if names else None


@torch.no_grad()
def sees_the_future(
    pattern: Pattern,
    backend: str,
    inputs: Inputs,
    out: Tensor,
    rows: Tensor,
    scale: float | None,
    seen: dict[str, Any],
) -> Wrong | None:
    """Compare the checked rows up to the middle with those of a call with another future."""
    cut = out.shape[2] // 2
    past = torch.unique(torch.cat([rows[rows <= cut], rows.new_tensor([cut])]))
    changed = (torch.cat([x[:, :, : cut + 1], -x[:, :, cut + 1 :].flip(2)], 2) for x in inputs)
    again = pattern.attend(*changed, scale=scale, backend=backend)
    error = float((again[:, :, past].double() - out[:, :, past].double()).abs().max())
    bound = _PLAIN_FACTOR * seen["output"]["bound"]
    seen["future"] = {"error": error, "bound": bound}
    if error <= bound:
        return None
    return Wrong(
        "causality",
        f"another future changes the output up to token {cut} by {error:.2g}; "
        f"{bound:.2g} is allowed",
    )


def accumulated(
    leaves: Sequence[Tensor], grads: Sequence[Tensor], again: Sequence[Tensor], seen: dict[str, Any]
) -> Wrong | None:
    """A second backward pass returns the same gradients, and leaves none behind."""
    if names := [name for name, x in zip("qkv", leaves, strict=True) if x.grad is not None]:
        return Wrong(
            "accumulation", f"the backward pass left gradients in .grad of {', '.join(names)}"
        )
    for name, one, other in zip(NAMES[1:], grads, again, strict=True):
        error, bound = float((one - other).abs().max()), _PLAIN_FACTOR * seen[name]["bound"]
        if not error <= bound:
            return Wrong(
                "accumulation",
                f"a second backward pass gives a {name} that differs by {error:.2g}; "
                f"{bound:.2g} is allowed",
            )
    return None
