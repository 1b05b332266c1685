"""What `inspect` draws: the maps of one pattern on the layers of one source, checked first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from attnbench.check import Checker
from attnbench.crops import with_worst
from attnbench.mapfile import Maps
from attnbench.maps import make
from attnbench.matrix import asked_name
from attnbench.sources import Inputs, Setting, load, settings, text_of
from patterns.base import Pattern
from patterns.errors import BadInput
from patterns.grammar import near_match

USUAL_LENGTH = 2048
USUAL_HEADS = 4


class Wrong(RuntimeError):
    """An implementation that is not what its pattern says, so that its map would mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to draw; None takes what is usual."""

    pattern: Pattern
    source: str
    layers: Sequence[str] | None = None  # of a capture; its first one if None, () for all
    heads: Sequence[int] | None = None  # query heads; the first four if None, () for all
    length: int | None = None
    bins: int = 512
    backend: str = "auto"
    device: str = "cpu"
    tokens: bool = False  # whether the text of somebody's own capture may go into the files


def inspected(wanted: Wanted) -> list[Maps]:
    """The maps, one a layer, with the 1:1 part of the worst rows and the tokens' text.

    The text is that of the shipped sample, or with `tokens` that of the capture.

    Raises:
        BadInput: no such source, layer, head, length or number of bins.
        Unsupported: the pattern has no map, or cannot run on these inputs.
        Wrong: the implementation fails its correctness check.
    """
    found = settings(wanted.source, causal=wanted.pattern.causal)
    if wanted.layers is not None:
        known = [str(one.layer) for one in found if one.layer is not None]
        for layer in wanted.layers:
            if layer not in known:
                remedy = near_match(layer, known) if known else "it is synthetic; leave it out"
                raise BadInput(f"source {wanted.source!r} has no layer {layer!r}: {remedy}")
        found = [one for one in found if not wanted.layers or str(one.layer) in wanted.layers]
    return [
        _one(wanted, setting) for setting in (found if wanted.layers is not None else found[:1])
    ]


def _one(wanted: Wanted, setting: Setting) -> Maps:
    pattern = wanted.pattern
    length = wanted.length
    if length is None:
        length = setting.max_length or USUAL_LENGTH
        length = min(length, USUAL_LENGTH) if pattern.causal else length
    inputs = load(setting, length=length, seed=0, device=wanted.device, dtype=torch.float32)
    count = inputs.q.shape[1]
    heads = range(min(USUAL_HEADS, count)) if wanted.heads is None else wanted.heads or range(count)
    for name in ("q", "k", "v"):
        if not bool(getattr(inputs, name).isfinite().all()):
            raise BadInput(f"{name} of {setting.source} holds numbers that are not finite")
    _check(pattern, inputs, wanted.backend)
    case = {"asked": asked_name(pattern), "source": setting.source, "layer": setting.layer}
    made = make(
        pattern, inputs, bins=wanted.bins, heads=list(heads), backend=wanted.backend, case=case
    )
    made = with_worst(made, pattern, inputs, backend=wanted.backend)
    tokens = text_of(setting) if wanted.tokens else inputs.tokens
    if tokens is None:
        return made
    return replace(made, meta=made.meta | {"tokens": list(tokens[:length])})


def _check(pattern: Pattern, inputs: Inputs, backend: str) -> None:
    resolved = pattern.resolve(inputs.q.shape[2])
    three = (inputs.q, inputs.k, inputs.v)
    ran = resolved.implementation(*three, backend).backend
    verdict = Checker().check(resolved, ran, three, scale=inputs.scale, seed=0, gradients=False)
    if verdict.reason is not None:
        raise Wrong(
            f"no map of {pattern.spec} is drawn, its check failed on {ran}: {verdict.reason}"
        )
