"""Let a transformers model attend by a pattern: ``with attnbench.use(model, "local[window=64]")``.

Prefill, backward, padding on either side, grouped heads, causal or not as the model is; with a
key-value cache the patterns that are masks. docs/models.md says what is refused, and why.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from attnbench.interface import (
    BEYOND,
    layer_numbers,
    own_attention,
    own_mask,
    replace_attention,
    require_transformers,
)
from attnbench.schedule import Same, Schedule, schedule
from attnbench.spans import Choice, HeadChoice, Spans, choose, choose_layer, spans_of
from patterns.base import Pattern
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match

_DYNAMIC = "and a pattern needs those that are there and no others: use the default (dynamic) cache"


def use(
    model: Any,
    spec: str | Pattern | Schedule,
    *,
    layers: Iterable[int] | None = None,
    backend: str = "auto",
) -> "Use":
    """Let a transformers model attend by a pattern, or one a layer or head, from this call on.

    Args:
        model: a transformers model (5 or newer) whose attention goes through `AttentionInterface`.
        spec: a pattern, such as ``"sinks[window=256]"``, or a schedule, such as
            ``"0-7:full,8-:sinks[window=256]"``; the causality is that of the model.
        layers: the layers that it takes over; None for all. The others attend as they did.
        backend: what the patterns run on.

    Returns:
        What restores the model: by `restore`, or as a context manager.

    Raises:
        BadInput: no such pattern, schedule, backend or layer, or not a transformers model.
        Unsupported: transformers is missing, or the model keeps its attention to itself. While it
            runs: what a pattern cannot do (docs/models.md).
    """
    require_transformers()
    chosen = schedule(spec)
    return Use(model, chosen, None if layers is None else frozenset(layers), backend)


class Use:
    """Patterns in a model, until `restore`, or for as long as a `with` block lasts."""

    def __init__(
        self, model: Any, chosen: Schedule, layers: frozenset[int] | None, backend: str
    ) -> None:
        self.schedule = chosen
        self._numbers = layer_numbers(model)
        self._seen = 0  # attention calls of the present forward pass
        known = [str(number) for number in dict.fromkeys(self._numbers.values())]
        for number in sorted(layers or ()):
            if str(number) not in known:
                hint = near_match(str(number), known)
                raise BadInput(f"the model has no layer {number}: {hint}")
        self._choices, self._others = _choices(
            chosen, sorted(set(self._numbers.values())), layers, backend
        )
        self._replaced = replace_attention(model, self._attend, self._mask)
        self._hooks = (
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end),
        )

    def restore(self) -> None:
        """Make the model attend as it did before; a second time changes nothing.

        Raises:
            BadInput: a pattern that was put into the model later is still in place.
        """
        self._replaced.restore()
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()

    def _mask(self, **asked: Any) -> "_Mask":
        # At once: what is generated with a fixed cache takes its mask for a tensor.
        offset = asked.get("q_offset", 0)
        if isinstance(offset, Tensor) or asked["q_length"] + offset < asked["kv_length"]:
            raise Unsupported(f"the cache has a fixed size, {_DYNAMIC}")
        return _Mask(asked=asked, make=own_mask(self._replaced.own(asked.get("config"))))

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **more: Any,
    ) -> tuple[Tensor, Any]:
        number = self._numbers.get(module, self._seen)
        self._seen += 1
        choice = self._choices.get(number, self._others)
        if choice is None:
            own = own_attention(self._replaced.own(module.config), module)
            mask = attention_mask.own if isinstance(attention_mask, _Mask) else attention_mask
            found: tuple[Tensor, Any] = own(module, query, key, value, mask, **more)
            return found
        _refuse(module, more)
        asked = more.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if asked is None else asked)
        spans = None
        if isinstance(attention_mask, _Mask):
            attention_mask.check(query.shape[2], key.shape[2], causal=causal)
            spans = attention_mask.spans
        elif attention_mask is not None:
            what = f"{type(attention_mask).__name__} {[*getattr(attention_mask, 'shape', ())]}"
            raise Unsupported(
                f"{type(module).__name__} brings a mask of its own ({what}), and a pattern needs "
                "the padding alone: pass attention_mask as [batch, length]"
            )
        elif (window := more.get("sliding_window")) is not None and window < key.shape[2]:
            raise Unsupported(f"{type(module).__name__} attends in a window of {window} tokens")
        out = choice.attend(
            query, key, value, causal=causal, spans=spans, scale=more.get("scaling")
        )
        return out.transpose(1, 2).contiguous(), None

    def _begin(self, *_: Any) -> None:
        self._seen = 0

    def _end(self, model: Any, *_: Any) -> None:
        # Where a later pattern has all layers, none are left for this one.
        if self._seen == 0 and model.config._attn_implementation == self._replaced.name:
            kind = type(model).__name__
            raise Unsupported(f"{kind} does not let its attention be replaced: none went through")


def _choices(
    chosen: Schedule, numbers: list[int], layers: frozenset[int] | None, backend: str
) -> tuple[Mapping[int, Choice | HeadChoice], Choice | None]:
    """What stands in for each layer's attention, and for that of layers without an entry."""
    if isinstance(chosen, Same):
        choice = choose(chosen.pattern, backend)
        return ({}, choice) if layers is None else (dict.fromkeys(layers, choice), None)
    if not numbers:
        raise Unsupported("this model does not say how many layers it has: use one pattern for all")
    found = zip(numbers, chosen.patterns(len(numbers)), strict=True)
    return {
        number: choose_layer(one, backend)
        for number, one in found
        if layers is None or number in layers
    }, None


@dataclass(frozen=True, kw_only=True)
class _Mask:
    """What a model said of its mask, in place of the mask: no L x L tensor unless a layer asks."""

    asked: dict[str, Any]
    make: Callable[..., Any]

    @functools.cached_property
    def own(self) -> Any:
        """The mask that the model would have had."""
        return self.make(**self.asked)

    @functools.cached_property
    def spans(self) -> Spans | None:
        """Where the tokens of each sequence lie; None where nothing is padded."""
        from transformers.masking_utils import prepare_padding_mask

        length = self.asked["kv_length"]
        padding = prepare_padding_mask(self.asked.get("attention_mask"), length, 0)
        return None if padding is None else spans_of(padding[:, :length].bool())

    def check(self, queries: int, keys: int, *, causal: bool) -> None:
        """Raise Unsupported where the mask says more than this causality and padding."""
        from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

        asked = self.asked
        window = asked.get("local_size")
        if asked.get("kv_offset"):
            raise Unsupported(f"the cache has dropped its oldest keys, {_DYNAMIC}")
        if (asked["q_length"], asked["kv_length"]) != (queries, keys):
            raise Unsupported(
                f"{queries} queries for {keys} keys, and the model's mask is for "
                f"{asked['q_length']} and {asked['kv_length']}"
            )
        plain, other = causal_mask_function, bidirectional_mask_function
        if not causal:
            plain, other = other, plain
        said = asked.get("mask_function", causal_mask_function)
        if said is plain:
            return
        if said is other:
            kind = "causal" if causal else "bidirectional"
            raise Unsupported(f"the layer is {kind}, and the model's mask is not")
        overlaid = not (
            asked.get("allow_is_causal_skip") or asked.get("allow_is_bidirectional_skip")
        )
        if window is None or overlaid or keys > window:
            more = (
                "packed sequences or blocks" if window is None else f"a window of {window} tokens"
            )
            raise Unsupported(f"the model's mask is more than causality and padding: {more}")


def _refuse(module: Any, more: dict[str, Any]) -> None:
    kind = type(module).__name__
    for name in (*BEYOND, "cache"):
        if more.get(name) is not None:
            raise Unsupported(f"{kind} uses {name}, which patterns do not have")
    if more.get("dropout"):
        raise Unsupported(
            f"{kind} drops {more['dropout']:g} of its weights in training, and patterns drop none: "
            "set the attention dropout to 0 or call model.eval()"
        )
    if more.get("output_attentions"):
        raise Unsupported("a pattern returns no weights: leave output_attentions out")
