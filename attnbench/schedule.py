"""Schedules: which pattern in which layer, and head, of a model.

Four ways to write one: a pattern, which all layers then have; layers with their patterns, such as
``0-7:full,8-:local[window=1024]``, or with those of their query heads, such as
``0-h0-2:full,0-h3-:local[window=1024]``; one of `SCHEDULES` by name, such as
``masformer[full=8,window=1024,place=bottom]``; or ``@FILE``, which holds any of these.
"""

import abc
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from attnbench.layers import Layer, PerHead, Some
from attnbench.matrix import asked_name
from attnbench.text_file import read_text
from patterns import PATTERNS
from patterns.base import AUTO, AutoInt, Pattern
from patterns.checks import require_not_negative, require_positive
from patterns.errors import BadInput
from patterns.full import Full
from patterns.grammar import build_all, near_match, parse, spell, split_specs
from patterns.sparse.local import Local
from patterns.sparse.sinks import Sinks

_SOME = r"(?P<{0}first>\d+)(?P<{0}dash>-(?P<{0}last>\d+)?)?"
_PLACE = re.compile(_SOME.format("") + f"(?:h{_SOME.format('head_')})?")


class Schedule(abc.ABC):
    """What says which pattern each layer has; final subclasses are frozen dataclasses."""

    @property
    @abc.abstractmethod
    def spec(self) -> str:
        """How it is written."""

    @abc.abstractmethod
    def patterns(self, layers: int) -> tuple[Layer, ...]:
        """What each of so many layers has, the first layer first.

        Raises:
            BadInput: it does not fit a model of so many layers.
        """


@dataclass(frozen=True, kw_only=True)
class Same(Schedule):
    """One pattern in all layers."""

    pattern: Pattern

    @property
    def spec(self) -> str:
        """The pattern's own."""
        return asked_name(self.pattern)

    def patterns(self, layers: int) -> tuple[Pattern, ...]:
        """See `Schedule`."""
        return (self.pattern,) * layers


@dataclass(frozen=True, kw_only=True)
class Part:
    """Layers that lie together, with the pattern of their heads; `heads` is None for all."""

    layers: Some
    heads: Some | None
    pattern: Pattern

    @property
    def spec(self) -> str:
        """Such as ``0-7:full`` or ``8-h0-2:full``."""
        return f"{self.place}:{asked_name(self.pattern)}"

    @property
    def place(self) -> str:
        """Such as ``0-7`` or ``8-h0-2``."""
        return self.layers.spec + ("" if self.heads is None else f"h{self.heads.spec}")


@dataclass(frozen=True, kw_only=True)
class Explicit(Schedule):
    """Layers with their patterns, or those of their heads: every layer and head once."""

    parts: tuple[Part, ...]

    @property
    def spec(self) -> str:
        """The parts with commas between them."""
        return ",".join(part.spec for part in self.parts)

    def patterns(self, layers: int) -> tuple[Layer, ...]:
        """See `Schedule`."""
        found: dict[int, list[Part]] = {layer: [] for layer in range(layers)}
        for part in self.parts:
            try:
                numbers = part.layers.of(layers)
            except BadInput:
                raise BadInput(
                    f"{part.spec} is beyond a model of {layers} layers, 0 to {layers - 1}"
                ) from None
            for layer in numbers:
                found[layer].append(part)
        return tuple(self._layer(layer, parts, layers) for layer, parts in found.items())

    def _layer(self, layer: int, parts: Sequence[Part], layers: int) -> Layer:
        if not parts:
            raise BadInput(
                f"{self.spec} leaves out layer {layer} of {layers}: add {layer}:full, "
                "or another pattern for it"
            )
        some = tuple((part.heads, part.pattern) for part in parts if part.heads is not None)
        if not some and len(parts) == 1:
            return parts[0].pattern
        if len(some) < len(parts):
            raise BadInput(f"{self.spec} gives layer {layer} two patterns: expected one")
        return PerHead(parts=some)


@dataclass(frozen=True, kw_only=True)
class Masformer(Schedule):
    """Mixed attention spans: full attention in some layers, a window in the others.

    Zhang, Ram, Hawkins, Sha, Zhao: Efficient Long-Range Transformers: You Need to Attend More, but
    Not Necessarily at Every Layer (2023, https://arxiv.org/abs/2310.12442), section 3.
    """

    full: AutoInt = 8  # layers with full attention; automatic: a quarter of them
    window: AutoInt = AUTO  # of the others, the own token included; automatic: about sqrt(L)
    place: Literal["bottom", "top", "interleaved"] = "bottom"  # where the full ones are
    sink: int = 0  # leading tokens that the others see too; ours, the paper has none

    name: ClassVar = "masformer"

    def __post_init__(self) -> None:
        """Refuse what no model can have."""
        require_not_negative(self, "full")
        require_positive(self, "window")
        require_not_negative(self, "sink")

    @property
    def spec(self) -> str:
        """See `Schedule`."""
        return spell(self.name, self)

    def patterns(self, layers: int) -> tuple[Pattern, ...]:
        """See `Schedule`. Interleaved layers lie as evenly as they can, the first one at 0."""
        full = (layers + 2) // 4 if self.full is None else self.full
        if full > layers:
            raise BadInput(f"{self.spec} wants {full} full layers of {layers}")
        dense = {
            "bottom": range(full),
            "top": range(layers - full, layers),
            "interleaved": [number * layers // full for number in range(full)],
        }[self.place]
        window: Pattern = Local(window=self.window)
        if self.sink:
            window = Sinks(window=self.window, sink=self.sink)
        return tuple(Full() if layer in dense else window for layer in range(layers))


@dataclass(frozen=True, kw_only=True)
class Kept(Schedule):
    """A schedule out of a file, by whose name it is called: those of single heads are long."""

    file: str
    schedule: Schedule

    @property
    def spec(self) -> str:
        """Such as ``@heads.txt``, without the folder."""
        return f"@{self.file}"

    def patterns(self, layers: int) -> tuple[Layer, ...]:
        """See `Schedule`."""
        return self.schedule.patterns(layers)


SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType({Masformer.name: Masformer})
"""Name -> class of the schedules that have a name, read-only."""


def schedules(text: str) -> list[Schedule]:
    """Every schedule that a text asks for: several where it sweeps with `|`.

    >>> [one.spec for one in schedules("masformer[full=2|4,window=64]")]
    ['masformer[full=2,window=64]', 'masformer[full=4,window=64]']
    >>> schedules("0:full,1-:local[window=32]")[0].spec
    '0:full,1-:local[window=32]'

    Raises:
        BadInput: it is none, or names an unknown pattern, schedule or parameter.
    """
    if text.startswith("@"):
        return [_kept(Path(text[1:]))]
    pieces = split_specs(text)
    if any(":" in piece.partition("[")[0] for piece in pieces):
        return [Explicit(parts=parts) for parts in itertools.product(*map(_parts, pieces))]
    name, _ = parse(text)
    if name in SCHEDULES:
        return build_all(text, SCHEDULES, "schedule")
    if name not in PATTERNS:
        raise BadInput(
            f"unknown pattern or schedule {name!r}: {near_match(name, (*PATTERNS, *SCHEDULES))}"
        )
    return [Same(pattern=one) for one in build_all(text, PATTERNS, "pattern")]


def schedule(asked: "str | Pattern | Schedule") -> Schedule:
    """The one schedule that somebody asked for, by its spec, by a pattern, or itself.

    Raises:
        BadInput: it is none, or a sweep.
    """
    if isinstance(asked, Schedule):
        return asked
    if isinstance(asked, Pattern):
        return Same(pattern=asked)
    if not isinstance(asked, str):
        kind = type(asked).__name__
        raise BadInput(f"expected a pattern or its spec, such as 'local[window=128]', got {kind}")
    found = schedules(asked)
    if len(found) > 1:
        raise BadInput(f"{asked!r} asks for {len(found)} schedules: expected one, without '|'")
    return found[0]


def _kept(path: Path) -> Kept:
    text = read_text(path).strip()
    found = [] if text.startswith("@") else schedules(text)
    if len(found) != 1:
        raise BadInput(f"{path} holds {len(found)} schedules: expected one, without '|' or '@'")
    return Kept(file=path.name, schedule=found[0])


def _parts(piece: str) -> Sequence[Part]:
    """The part, or the parts of a sweep, that ``0-7:full`` says."""
    where, colon, spec = piece.partition(":")
    match = _PLACE.fullmatch(where.strip())
    if not colon or match is None:
        raise BadInput(
            f"cannot read {piece!r}: expected layers and their pattern, such as 0-7:full, 8:full "
            "or 8-:local[window=1024], or those of some heads, such as 8-h0-2:full"
        )
    layers, heads = _some(match, ""), _some(match, "head_") if match["head_first"] else None
    for some in filter(None, (layers, heads)):
        if some.last is not None and some.last < some.first:
            raise BadInput(f"{piece!r}: the layers or heads end before they begin")
    found = build_all(spec, PATTERNS, "pattern")
    return [Part(layers=layers, heads=heads, pattern=one) for one in found]


def _some(match: re.Match[str], which: str) -> Some:
    first, last = int(match[f"{which}first"]), match[f"{which}last"]
    if match[f"{which}dash"] is None:
        return Some(first, first)
    return Some(first, None if last is None else int(last))
