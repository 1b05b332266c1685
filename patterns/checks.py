"""What a pattern refuses: parameters out of range, and q, k, v that do not fit together."""

import math
from typing import Any

from torch import Tensor

from patterns.errors import BadInput


def require_positive(pattern: Any, *fields: str) -> None:
    """Refuse parameters below 1; None stands for the automatic value.

    Raises:
        BadInput: naming the pattern, the parameter and what came.
    """
    _require(pattern, fields, 1, "be at least 1")


def require_not_negative(pattern: Any, *fields: str) -> None:
    """Refuse parameters below 0.

    Raises:
        BadInput: naming the pattern, the parameter and what came.
    """
    _require(pattern, fields, 0, "not be negative")


def _require(pattern: Any, fields: tuple[str, ...], least: int, words: str) -> None:
    for field in fields:
        value = getattr(pattern, field)
        if value is not None and value < least:
            raise BadInput(f"{pattern.name}[{field}=...] must {words}, got {value}")


def chosen_scale(scale: float | None, q: Tensor) -> float:
    """The factor on the scores: as asked, or 1/sqrt(D).

    Raises:
        BadInput: it is not a positive number.
    """
    chosen = float(q.shape[-1] ** -0.5 if scale is None else scale)
    if not 0 < chosen < math.inf:
        raise BadInput(f"scale must be a positive number, got {chosen}")
    return chosen


def describe(x: Tensor) -> str:
    """Dtype, shape and device, for errors."""
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"


def check_inputs(q: Tensor, k: Tensor, v: Tensor | None) -> None:
    """Expect q [B, Hq, L, D] and k, v [B, Hkv, L, D] of one dtype and device.

    Raises:
        BadInput: they do not fit together.
    """
    named = {"q": q, "k": k} | ({"v": v} if v is not None else {})
    said = ", ".join(f"{name} {describe(x)}" for name, x in named.items())
    if any(x.ndim != 4 for x in named.values()):
        raise BadInput(f"q, k, v must be [batch, heads, length, dim], got {said}")
    if not q.is_floating_point() or len({(x.dtype, x.device) for x in named.values()}) > 1:
        raise BadInput(f"q, k, v must share one floating dtype and one device, got {said}")
    if len({(x.shape[0], x.shape[2], x.shape[3]) for x in named.values()}) > 1:
        raise BadInput(f"q, k, v must agree in batch, length and dim, got {said}")
    if 0 in q.shape or (v is not None and v.shape[1] != k.shape[1]):
        raise BadInput(f"q, k, v must not be empty and k, v need equally many heads, got {said}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise BadInput(f"query heads must be a multiple of key-value heads, got {said}")
