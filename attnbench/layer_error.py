"""How far a schedule's attention is from the model's own, layer by layer, on the model's q, k, v.

The model goes on with its own attention, so that every layer is judged on the q, k, v that it has
with full attention: the error at a layer, which is not the loss of the model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnbench.dropin import Use
from attnbench.interface import output_weight, own_attention
from attnbench.language import Reader
from attnbench.schedule import Schedule

Judge = Callable[[Any, Tensor, Tensor], list[float]]
"""What a module's output [H, B, L, D] is worth beside the wanted one: a number for each head."""


class _Compared(Use):
    """Both attentions at every layer; the model gets its own."""

    found: dict[int, list[float]]

    def __init__(self, model: Any, chosen: Schedule, backend: str, judge: Judge) -> None:
        self.found, self._judge = {}, judge
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
        ours, wanted = (x.float().movedim(2, 0) for x in (found, kept[0]))
        self.found[number] = self._judge(module, ours, wanted)
        return kept


def layer_errors(
    reader: Reader, chosen: Schedule, tokens: Sequence[int], backend: str
) -> list[list[float]]:
    """The relative error of the output of each layer and head, [layers][heads], on these tokens.

    Raises:
        Unsupported: a pattern cannot run in this model.
    """
    return _judged(reader, chosen, tokens, backend, _relative)


def head_harms(
    reader: Reader, chosen: Schedule, tokens: Sequence[int], backend: str, *, last: int
) -> list[list[float]]:
    """What each head's error does to what its layer adds to the stream, [layers][heads].

    The squared error of a head, taken through its slice of the output projection, over the squared
    norm of the whole layer's output; on the last tokens only. Unlike the relative error it can be
    compared and added up from head to head: an error in a head that says little harms little.

    Raises:
        Unsupported: a pattern cannot run in this model.
    """

    def judge(module: Any, ours: Tensor, wanted: Tensor) -> list[float]:
        ours, wanted = ours[..., -last:, :], wanted[..., -last:, :]
        heads, _, _, dim = wanted.shape
        weight = output_weight(module, None, heads * dim)
        off, whole = ours - wanted, wanted.movedim(0, -2).flatten(-2)
        if weight is not None:
            weight = weight.detach().float()
            off = torch.einsum("hbld,hde->hble", off, weight.view(heads, dim, -1))
            whole = whole @ weight
        harms: list[float] = (off.square().flatten(1).sum(dim=1) / whole.square().sum()).tolist()
        return harms

    return _judged(reader, chosen, tokens, backend, judge)


def _relative(_module: Any, ours: Tensor, wanted: Tensor) -> list[float]:
    off = (ours - wanted).flatten(1).norm(dim=1)
    errors: list[float] = (off / wanted.flatten(1).norm(dim=1)).tolist()
    return errors


def _judged(
    reader: Reader, chosen: Schedule, tokens: Sequence[int], backend: str, judge: Judge
) -> list[list[float]]:
    with _Compared(reader.layers, chosen, backend, judge) as both:
        reader.read(tokens)
    return [both.found[number] for number in sorted(both.found)]
