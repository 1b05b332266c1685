"""What `inspect` draws: the maps of one pattern on the layers of one source, checked first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from attnbench.check import Checker
from attnbench.crops import with_worst
from attnbench.mapfile import Maps
from attnbench.maps import make
from attnbench.matrix import asked_name, too_long
from attnbench.sources import Inputs, Setting, load, offers, settings, text_of
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
    if wanted.layers:
        known = [str(one.layer) for one in found if one.layer is not None]
        for layer in wanted.layers:
            if layer not in known:
                remedy = near_match(layer, known) if known else "it is synthetic; leave it out"
                raise BadInput(f"source {wanted.source!r} has no layer {layer!r}: {remedy}")
        found = [one for one in found if str(one.layer) in wanted.layers]
    elif wanted.length is not None:
        longest = max(found, key=lambda one: one.max_length or 0)
        found = [one for one in found if offers(one, wanted.length)] or [longest]
    return [_one(wanted, setting) for setting in (found[:1] if wanted.layers is None else found)]


def _one(wanted: Wanted, setting: Setting) -> Maps:
    pattern, length = wanted.pattern, wanted.length or _usual_length(setting)
    if reason := too_long(pattern, length):
        raise BadInput(f"{pattern.spec} does not fit: {reason}")
    inputs = load(setting, length=length, seed=0, device=wanted.device, dtype=torch.float32)
    count = inputs.q.shape[1]
    heads = range(min(USUAL_HEADS, count)) if wanted.heads is None else wanted.heads or range(count)
    if wrong := [head for head in heads if head >= count]:
        raise BadInput(f"{setting.source} has the heads 0 to {count - 1}, got head {wrong[0]}")
    _check(pattern, inputs, wanted.backend)
    made = make(
        pattern,
        inputs,
        bins=wanted.bins,
        heads=list(heads),
        backend=wanted.backend,
        case={"asked": asked_name(pattern), "source": setting.source, "layer": setting.layer},
    )
    made = with_worst(made, pattern, inputs, backend=wanted.backend)
    tokens = text_of(setting) if wanted.tokens else inputs.tokens
    if tokens is None:
        return made
    return replace(made, meta=made.meta | {"tokens": list(tokens[:length])})


def _usual_length(setting: Setting) -> int:
    """All that a bidirectional capture has, as it cannot be cut; else as much as is drawn fast."""
    has = setting.max_length or USUAL_LENGTH
    return has if setting.causal is False else min(has, USUAL_LENGTH)


def _check(pattern: Pattern, inputs: Inputs, backend: str) -> None:
    resolved = pattern.resolve(inputs.q.shape[2])
    three = (inputs.q, inputs.k, inputs.v)
    ran = resolved.implementation(*three, backend).backend
    verdict = Checker().check(resolved, ran, three, scale=inputs.scale, seed=0, gradients=False)
    if verdict.reason is not None:
        raise Wrong(
            f"no map of {pattern.spec} is drawn, its check failed on {ran}: {verdict.reason}"
        )
