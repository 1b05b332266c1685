"""Put an attention function of ours into a transformers model, and take it out again."""

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from patterns.errors import BadInput, Unsupported

BEYOND = ("softcap", "s_aux", "position_bias")
"""What some layers hand to their attention that changes the logits: q, k and v are not all then."""

_OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "Wo")
_PREFIX = "attnbench-"


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """A model whose layers call a function of ours, and what they called before."""

    name: str  # under which transformers knows the two functions
    before: tuple[tuple[Any, str | None], ...]  # each config of the model, and its implementation

    def restore(self) -> None:
        """Make the model attend as it did before; a second time changes nothing.

        Raises:
            BadInput: a later replacement on the same model is still in place.
        """
        for config, _ in self.before:
            now = config._attn_implementation
            if now != self.name and str(now).startswith(_PREFIX) and self._is_registered():
                raise BadInput("restore what was put into the model later first")
        for config, implementation in self.before:
            if config._attn_implementation == self.name:
                config._attn_implementation_internal = implementation
        for functions in _registries():
            functions._global_mapping.pop(self.name, None)

    def own(self, config: Any) -> str | None:
        """What a config's layers called before."""
        return next((name for one, name in self.before if one is config), self.before[0][1])

    def _is_registered(self) -> bool:
        return self.name in _registries()[0]._global_mapping


def replace_attention(
    model: Any, attend: Callable[..., Any], mask: Callable[..., Any]
) -> Replacement:
    """Make every layer of a transformers model call `attend` with what `mask` made.

    Args:
        model: a transformers model whose attention goes through `AttentionInterface`.
        attend: takes ``(module, query, key, value, attention_mask, **more)``.
        mask: takes what `transformers.masking_utils.sdpa_mask` takes. Without one of its own the
            model would pass no mask at all, padding or not.

    Raises:
        BadInput: not a transformers model.
        Unsupported: no transformers, or a model that keeps its attention to itself or attends
            across two sequences.
    """
    require_transformers()
    config = getattr(model, "config", None)
    if config is None or not callable(getattr(model, "set_attn_implementation", None)):
        raise BadInput(
            f"expected a transformers model, got {type(model).__name__}: attnbench.swap is for "
            "nn.MultiheadAttention, attnbench.override_sdpa for other modules"
        )
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", 0):
        raise Unsupported(f"{type(model).__name__} attends across two sequences, not within one")
    name = f"{_PREFIX}{uuid.uuid4().hex[:12]}"
    made = Replacement(name=name, before=tuple((one, _now(one)) for one in _configs(model)))
    for functions, function in zip(_registries(), (attend, mask), strict=True):
        functions.register(name, function)
    try:
        if model._can_set_attn_implementation():  # where not, it only warns and goes on
            model.set_attn_implementation(name)
        if config._attn_implementation != name:
            kind = type(model).__name__
            raise Unsupported(f"{kind} does not let its attention be replaced")
    except BaseException:
        made.restore()
        raise
    return made


def own_attention(implementation: str | None, module: Any) -> Callable[..., Any]:
    """The function that a layer called before, by the name of its implementation."""
    if implementation in (None, "eager"):  # the layer's own file has it
        found = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if found is None:
            raise Unsupported(f"{type(module).__name__} has no attention function of its own")
    else:
        found = _registries()[0]()[implementation]
    function: Callable[..., Any] = found
    return function


def own_mask(implementation: str | None) -> Callable[..., Any]:
    """The mask function that goes with it."""
    functions = _registries()[1]()
    function: Callable[..., Any] = functions[implementation or "eager"]
    return function


def layer_numbers(model: Any) -> dict[Any, int]:
    """The number of each attention module: its own `layer_idx`, or its place among the others."""
    found: dict[Any, int] = {}
    for module in model.modules():
        if "Attention" in type(module).__name__ and hasattr(module, "is_causal"):
            number = getattr(module, "layer_idx", None)
            found[module] = len(found) if number is None else number
    return found


def output_weight(module: Any, around: Any, width: int) -> Tensor | None:
    """The weight ``[Hq * D, width]`` of a layer's output projection, where we know its place.

    Most keep it beside their own projections, BERT in the block around self-attention.
    """
    places = [getattr(module, name, None) for name in _OUTPUTS]
    places.append(getattr(getattr(around, "output", None), "dense", None))
    for place in places:
        weight = getattr(place, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            weight = weight if type(place).__name__ == "Conv1D" else weight.T  # of GPT-2
            return weight if weight.shape[0] == width else None
    return None


def require_transformers() -> Any:
    """The package itself, from version 5 on.

    Raises:
        Unsupported: it is missing or older; says what to install.
    """
    try:
        import transformers
    except ImportError:
        raise Unsupported(
            "this needs transformers: pip install 'transformers>=5' gguf accelerate"
        ) from None
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise Unsupported(f"this needs transformers 5, got {transformers.__version__}")
    return transformers


def _registries() -> tuple[Any, Any]:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    return AttentionInterface, AttentionMaskInterface


def _now(config: Any) -> str | None:
    now: str | None = config._attn_implementation
    return now


def _configs(model: Any) -> list[Any]:
    """Every config that `set_attn_implementation` may change: the model's own first."""
    found = [model.config]
    for module in model.modules():
        if getattr(getattr(module, "config", None), "sub_configs", None) is not None:
            found.append(module.config)
    for config in found:  # grows while it is walked
        below = (getattr(config, key, None) for key in config.sub_configs)
        found += [one for one in below if one is not None and all(one is not x for x in found)]
    return list({id(config): config for config in found}.values())
