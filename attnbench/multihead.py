"""Let every `nn.MultiheadAttention` of a module attend by a pattern, with its weights as they are.

Letters: B batch, L tokens, E model width, H heads, D = E / H.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from attnbench.spans import Choice, choose, spans_of
from patterns.base import Pattern
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match


def swap(
    module: nn.Module,
    spec: str | Pattern,
    *,
    names: Iterable[str] | None = None,
    backend: str = "auto",
) -> "Swap":
    """Let the `nn.MultiheadAttention` modules in a module attend by a pattern, from this call on.

    Their class changes and nothing else: parameters, optimizers and the keys of `state_dict` stay.
    The cross-attention of `nn.TransformerDecoderLayer` is left alone.

    Args:
        module: anything that holds such modules, or one of them.
        spec: a pattern, such as ``"local[window=128]"``; causal where a call's mask is.
        names: which of them, by their names in `named_modules`; None for all.
        backend: what the pattern runs on.

    Returns:
        What restores them: by `restore`, or as a context manager.

    Raises:
        BadInput: no such pattern, backend or name, or no such module.
        Unsupported: a module with bias_k, bias_v or add_zero_attn. While it runs: what a pattern
            cannot do (docs/models.md).
    """
    choice = choose(spec, backend)
    across = {
        id(layer.multihead_attn)
        for layer in module.modules()
        if isinstance(layer, nn.TransformerDecoderLayer)
    }
    found = {
        name: one
        for name, one in module.named_modules()
        if type(one) in (nn.MultiheadAttention, PatternAttention) and id(one) not in across
    }
    for name in (wanted := list(found if names is None else names)):
        if name not in found:
            raise BadInput(
                f"no nn.MultiheadAttention is called {name!r}: {near_match(name, found)}"
            )
        if isinstance(found[name], PatternAttention):
            raise BadInput(f"{name!r} has a pattern already: restore that one first")
        _refuse_bias(name, found[name])
    if not wanted:
        raise BadInput(
            f"{type(module).__name__} holds no nn.MultiheadAttention: attnbench.use is for "
            "transformers models, attnbench.override_sdpa for other modules"
        )
    return Swap(module, [found[name] for name in wanted], choice)


class Swap:
    """A pattern in some `nn.MultiheadAttention`, until `restore`, or as long as `with` lasts."""

    def __init__(self, module: nn.Module, modules: list[nn.Module], choice: Choice) -> None:
        self.modules = modules
        # Nested tensors are made for the fused encoder layer, which a pattern does without.
        self._nesting = [
            one
            for one in module.modules()
            if isinstance(one, nn.TransformerEncoder) and one.use_nested_tensor
        ]
        for encoder in self._nesting:
            encoder.use_nested_tensor = False
        for one in modules:
            one.__class__ = PatternAttention
            one.__dict__["attnbench_choice"] = choice

    def restore(self) -> None:
        """Make the modules attend as they did before; a second time changes nothing."""
        for one in self.modules:
            if type(one) is PatternAttention:
                one.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
                del one.__dict__["attnbench_choice"]
        for encoder in self._nesting:
            encoder.use_nested_tensor = True
        self._nesting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()


class PatternAttention(nn.MultiheadAttention):
    """What `swap` makes of an `nn.MultiheadAttention`; it holds the same parameters."""

    attnbench_choice: Choice

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False: the fused layer of nn.TransformerEncoderLayer, which asks, would not call us."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        self.__dict__["_qkv_same_embed_dim"] = value

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in `nn.MultiheadAttention`, without weights: ``[B, L, E]`` and None.

        Raises:
            Unsupported: weights, dropout, another mask than a causal one, or another sequence.
        """
        if need_weights:
            raise Unsupported("a pattern returns no weights: pass need_weights=False")
        if self.training and self.dropout > 0:
            raise Unsupported(
                f"nn.MultiheadAttention drops {self.dropout:g} of its weights in training, and "
                "patterns drop none: set its dropout to 0 or call eval()"
            )
        inputs: tuple[Tensor, ...] = (query, key, value)
        if any(x.is_nested for x in inputs):
            raise Unsupported("nested tensors: pass padded ones with key_padding_mask")
        if single := query.ndim == 2:
            inputs = tuple(x.unsqueeze(0) for x in inputs)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        length = inputs[0].shape[1]
        if any(x.shape[1] != length for x in inputs):
            raise Unsupported(
                f"{length} queries for {inputs[1].shape[1]} keys: a pattern attends within one "
                "sequence; leave attention across two out with names="
            )
        causal = is_causal if attn_mask is None else is_causal_mask(attn_mask, length)
        spans = None if key_padding_mask is None else spans_of(_kept(key_padding_mask))
        q, k, v = (
            linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(inputs, self._weights(), self._biases(), strict=True)
        )
        out = self.attnbench_choice.attend(q, k, v, causal=causal, spans=spans)
        joined = self.out_proj(out.transpose(1, 2).flatten(2))
        if single:
            joined = joined.squeeze(0)
        elif not self.batch_first:
            joined = joined.transpose(0, 1)
        return joined, None

    def _weights(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        return (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)


def is_causal_mask(mask: Tensor, length: int) -> bool:
    """Whether a mask is the causal one; False where it hides nothing.

    Args:
        mask: ``[..., L, L]``; bool with True for what is hidden, or numbers to add to the scores.
        length: L.

    Raises:
        Unsupported: it is neither.
    """
    hidden = mask if mask.dtype == torch.bool else mask == -torch.inf
    if mask.dtype == torch.bool or bool(((mask == 0) | hidden).all()):
        if not bool(hidden.any()):
            return False
        future = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
        if hidden.shape[-2:] == future.shape and bool((hidden == future).all()):
            return True
    raise Unsupported(
        f"a mask {[*mask.shape]} that is not the causal one: a pattern stands in for the whole "
        "mask; padding goes into the key padding mask"
    )


def _kept(padding: Tensor) -> Tensor:
    """What a key_padding_mask leaves, bool [B, L]."""
    if padding.dtype == torch.bool:
        return ~padding
    hidden = padding == -torch.inf
    if not bool((hidden | (padding == 0)).all()):
        raise Unsupported("a key_padding_mask that adds to the scores: only 0 and -inf are known")
    return ~hidden


def _refuse_bias(name: str, module: Any) -> None:
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        raise Unsupported(f"{name!r} attends to a key of its own (bias_k or add_zero_attn)")
