"""What one schedule does to a model, in the numbers of docs/evaluate.md."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnbench import dropin
from attnbench.evaluation import Asked
from attnbench.excerpts import COPIED
from attnbench.language import Reader
from attnbench.layer_check import LayerChecks
from attnbench.layer_error import layer_errors
from attnbench.matching import MATCHED
from attnbench.memory import measure_memory
from attnbench.statistics import mean_interval, summary


@dataclass(kw_only=True)
class Texts:
    """What is read at one length, and what full attention made of it: filled once it is needed."""

    excerpts: list[list[int]]
    copies: list[list[int]]
    why_no_copies: str | None
    full: list[Tensor] = field(default_factory=list)  # last hidden states [L, E] by excerpt
    full_losses: list[Tensor] = field(default_factory=list)  # [L - 1] by excerpt


def schedule_numbers(
    one: Asked, texts: Texts, reader: Reader, checks: LayerChecks
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """The numbers of one schedule: what it loses, how long a prefill takes, what it holds."""
    case, alone = one.case, one.case.layer is not None
    own_attention = case.pattern == "full"  # the model's, untouched
    layers = [] if own_attention else one.schedule.patterns(reader.sizes.layers)
    runs = checks.expect(layers, case.length, case.backend)
    memory = None
    divergence, agreement, own, took = [], [], [], []
    with _swapped(one, reader):
        if not alone:
            ids = torch.tensor(texts.excerpts[0], device=reader.device)
            memory = measure_memory(lambda: reader.read(texts.excerpts[0])[0], None, [ids])
        for tokens, full in zip(
            texts.excerpts[: case.excerpts], texts.full[: case.excerpts], strict=True
        ):
            hidden, milliseconds = reader.read(tokens)
            took.append([milliseconds])
            own.append(reader.losses(hidden, tokens))
            kl, same = reader.compared(hidden, full)
            divergence.append(float(kl.mean()))
            agreement.append(float(same.mean()))
        second = [] if alone else [_second_copy(reader, tokens) for tokens in texts.copies]
    losses, full_losses = _means(own), _means(texts.full_losses[: case.excerpts])
    middle = case.length // 2
    notes = {"second_copy_loss": why} if (why := texts.why_no_copies) and not alone else {}
    found = {
        "loss": _per_excerpt(losses),
        "loss_above_full": _paired(losses, full_losses),
        "later_half_loss": _per_excerpt(_means(one[middle:] for one in own)),
        "kl_to_full": _per_excerpt(divergence),
        "top1_agreement": _per_excerpt(agreement),
        "second_copy_loss": _per_excerpt(second) if second else None,
        "keys": None if one.wanted is None else _against(one.cost.keys_per_query, one.wanted),
        "layer_error": None if alone or own_attention else _layer_error(one, texts, reader),
        "rival": None if one.rival is None else _rival(one),
        "implementations": runs,
        "notes": notes,
    }
    return found, None if alone else {"prefill_ms": summary(took)}, memory


def _layer_error(one: Asked, texts: Texts, reader: Reader) -> dict[str, Any]:
    """Mean over heads of each layer's error, and their mean, on the first excerpt."""
    found = layer_errors(reader, one.schedule, texts.excerpts[0], one.case.backend)
    means = [sum(heads) / len(heads) for heads in found]
    return {"per_layer": means, "mean": sum(means) / len(means)}


def _swapped(one: Asked, reader: Reader) -> AbstractContextManager[Any]:
    """The model with the schedule in it; full attention is the model's own, as it came."""
    if one.case.pattern == "full":
        return nullcontext()
    layers = None if one.case.layer is None else [one.case.layer]
    return dropin.use(reader.layers, one.schedule, layers=layers, backend=one.case.backend)


def _second_copy(reader: Reader, tokens: Sequence[int]) -> float:
    """The mean loss of the last `COPIED` tokens, which have been there before."""
    hidden, _ = reader.read(tokens)
    return float(reader.losses(hidden, tokens)[-COPIED:].double().mean())


def _means(losses: Iterable[Tensor]) -> list[float]:
    return [float(one.double().mean()) for one in losses]


def _per_excerpt(values: Sequence[float]) -> dict[str, Any]:
    return {"per_excerpt": list(values), **mean_interval(values)}


def _paired(ours: Sequence[float], full: Sequence[float]) -> dict[str, Any]:
    return mean_interval([one - other for one, other in zip(ours, full, strict=True)])


def _rival(one: Asked) -> dict[str, Any]:
    assert one.rival_keys is not None
    found = _against(one.rival_keys, one.cost.keys_per_query)
    return {"asked": one.rival, "keys_per_query": one.rival_keys} | found


def _against(keys: float, wanted: float) -> dict[str, Any]:
    """How close keys a query came to those that were wanted."""
    off = keys / wanted - 1
    return {"wanted": wanted, "off": off, "matched": abs(off) <= MATCHED}
