"""Let whatever calls `scaled_dot_product_attention` attend by a pattern.

The limits: only calls that PyTorch's function overrides see, so not those from C++ nor the inside
of `nn.MultiheadAttention` (it is refused: `attnbench.swap` is for that); one sequence, so as many
queries as keys; no dropout; masks that are causal or say which keys are padding, and no others.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from attnbench.multihead import is_causal_mask
from attnbench.spans import Choice, Spans, choose, spans_of
from patterns.base import Pattern
from patterns.errors import Unsupported

_INSIDE = (
    multi_head_attention_forward,
    torch._native_multi_head_attention,
    torch._transformer_encoder_layer_fwd,
)
_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_SIGNATURE = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in _NAMES[:3]]
    + [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in zip(_NAMES[3:], (None, 0.0, False), strict=True)
    ]
    + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in (("scale", None), ("enable_gqa", False))
    ]
)


def override_sdpa(spec: str | Pattern, *, backend: str = "auto") -> "Override":
    """A context manager in which `scaled_dot_product_attention` is a pattern.

    Its `calls` counts how often that was so: 0 after a forward pass means that the module computes
    its attention by other means.

    Args:
        spec: a pattern, such as ``"local[window=128]"``; causal where a call is.
        backend: what the pattern runs on.

    Raises:
        BadInput: no such pattern or backend.
        Unsupported: inside, at a call that a pattern cannot stand in for.
    """
    return Override(choose(spec, backend))


class Override(TorchFunctionMode):
    """What `override_sdpa` returns."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch for each of its functions; the pattern's own calls come past us."""
        kwargs = kwargs or {}
        if func in _INSIDE:
            raise Unsupported(
                "nn.MultiheadAttention does not let its attention be overridden: use attnbench.swap"
            )
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.calls += 1
        bound = _SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        return _attend(self.choice, **bound.arguments)


def _attend(
    choice: Choice,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    if dropout_p > 0:
        raise Unsupported(f"dropout_p={dropout_p:g}: patterns drop no weights; call eval()")
    if query.ndim not in (3, 4):
        raise Unsupported(f"queries {[*query.shape]}: expected [batch, heads, length, dim]")
    if query.shape[-2] != key.shape[-2]:
        raise Unsupported(
            f"{query.shape[-2]} queries for {key.shape[-2]} keys: a pattern attends within one "
            "sequence, and this is attention across two or a step with a cache"
        )
    if query.shape[-3] != key.shape[-3] and not enable_gqa:
        raise Unsupported("grouped heads without enable_gqa=True")
    single = query.ndim == 3
    q, k, v = (x.unsqueeze(0) if single else x for x in (query, key, value))
    spans: Spans | None = None
    if attn_mask is not None and attn_mask.ndim == 4 and attn_mask.shape[1:3] == (1, 1):
        spans = spans_of(_shown(attn_mask)[:, 0, 0].expand(q.shape[0], -1))
    elif attn_mask is not None:
        bools = attn_mask.dtype == torch.bool
        is_causal = is_causal_mask(~attn_mask if bools else attn_mask, q.shape[2])
    out = choice.attend(q, k, v, causal=is_causal, spans=spans, scale=scale)
    return out.squeeze(0) if single else out


def _shown(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    if not bool(((mask == 0) | (mask == -torch.inf)).all()):
        raise Unsupported("a mask that adds to the scores: only 0 and -inf are known")
    return mask == 0
