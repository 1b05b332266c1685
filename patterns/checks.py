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
    wrong = _misfit(q, k, v)
    if wrong is not None:
        named = {"q": q, "k": k} | ({"v": v} if v is not None else {})
        said = ", ".join(f"{name} {describe(x)}" for name, x in named.items())
        raise BadInput(f"{wrong}, got {said}")


def _misfit(q: Tensor, k: Tensor, v: Tensor | None) -> str | None:
    """What does not fit together; asked before every call, so no more than comparisons."""
    values = k if v is None else v
    if not q.ndim == k.ndim == values.ndim == 4:
        return "q, k, v must be [batch, heads, length, dim]"
    dtype, device = q.dtype, q.device
    alike = k.dtype == values.dtype == dtype and k.device == values.device == device
    if not (alike and dtype.is_floating_point):
        return "q, k, v must share one floating dtype and one device"
    (batch, heads, length, dim), shape = q.shape, k.shape
    kv_heads = shape[1]
    if shape != (batch, kv_heads, length, dim) or values.shape != (
        batch,
        values.shape[1],
        length,
        dim,
    ):
        return "q, k, v must agree in batch, length and dim"
    if 0 in q.shape or values.shape[1] != kv_heads:
        return "q, k, v must not be empty and k, v need equally many heads"
    if kv_heads == 0 or heads % kv_heads:
        return "query heads must be a multiple of key-value heads"
    return None
