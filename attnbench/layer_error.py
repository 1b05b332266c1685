"""How far a schedule's attention is from the model's own, layer by layer, on the model's q, k, v.

The model goes on with its own attention, so that every layer is judged on the q, k, v that it has
with full attention: the error at a layer, which is not the loss of the model.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnbench.dropin import Use
from attnbench.interface import own_attention
from attnbench.language import Reader
from attnbench.schedule import Schedule


class _Compared(Use):
    """Both attentions at every layer; the model gets its own."""

    errors: dict[int, list[float]]

    def __init__(self, model: Any, chosen: Schedule, backend: str) -> None:
        self.errors = {}
        super().__init__(model, chosen, None, backend)

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
        found, _ = super()._attend(module, query, key, value, attention_mask, **more)
        own = own_attention(self._replaced.own(module.config), module)
        mask = getattr(attention_mask, "own", attention_mask)
        kept: tuple[Tensor, Any] = own(module, query, key, value, mask, **more)
        ours, wanted = (x.float().movedim(2, 0).flatten(1) for x in (found, kept[0]))  # [H, ...]
        self.errors[number] = ((ours - wanted).norm(dim=1) / wanted.norm(dim=1)).tolist()
        return kept


def layer_errors(
    reader: Reader, chosen: Schedule, tokens: Sequence[int], backend: str
) -> list[list[float]]:
    """The relative error of the output of each layer and head, [layers][heads], on these tokens.

    Raises:
        Unsupported: a pattern cannot run in this model.
    """
    with _Compared(reader.layers, chosen, backend) as both:
        reader.read(tokens)
    return [both.errors[number] for number in sorted(both.errors)]
