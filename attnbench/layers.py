"""One attention layer of a schedule: a pattern for all its heads, or patterns of their own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from attnbench.matrix import asked_name
from patterns.base import Pattern, Shape
from patterns.errors import BadInput


class Some(NamedTuple):
    """Layers or heads that lie together; `last` is None where they go to the end."""

    first: int
    last: int | None

    @property
    def spec(self) -> str:
        """Such as ``0-7``, ``3`` or ``8-``."""
        end = "-" if self.last is None else "" if self.last == self.first else f"-{self.last}"
        return f"{self.first}{end}"

    def of(self, count: int) -> range:
        """Their numbers, out of so many.

        Raises:
            BadInput: there are not so many.
        """
        last = count - 1 if self.last is None else self.last
        if self.first >= count or last >= count:
            raise BadInput(f"{self.spec} is beyond {count}, 0 to {count - 1}")
        return range(self.first, last + 1)


@dataclass(frozen=True, kw_only=True)
class PerHead:
    """A layer whose query heads have patterns of their own: every head in one part."""

    parts: tuple[tuple[Some, Pattern], ...]

    @property
    def causal(self) -> bool:
        """Whether all its patterns are."""
        return all(pattern.causal for _, pattern in self.parts)

    def patterns(self, heads: int) -> tuple[Pattern, ...]:
        """The pattern of each of so many query heads.

        Raises:
            BadInput: the parts leave a head out, name one twice, or one that is not there.
        """
        found: dict[int, Pattern] = {}
        for some, pattern in self.parts:
            try:
                numbers = some.of(heads)
            except BadInput:
                raise BadInput(
                    f"heads {some.spec} are beyond the {heads} query heads, 0 to {heads - 1}"
                ) from None
            for head in numbers:
                if head in found:
                    raise BadInput(f"head {head} has two patterns in a layer: expected one")
                found[head] = pattern
        for head in range(heads):
            if head not in found:
                raise BadInput(
                    f"head {head} of {heads} is left out in a layer: add h{head}:full there, or "
                    "another pattern for it"
                )
        return tuple(found[head] for head in range(heads))


Layer = Pattern | PerHead


def heads_of(layer: Layer, heads: int) -> dict[Pattern, tuple[int, ...]]:
    """The query heads of each distinct pattern of a layer.

    Raises:
        BadInput: the layer does not fit so many heads.
    """
    if isinstance(layer, Pattern):
        return {layer: tuple(range(heads))}
    found: dict[Pattern, list[int]] = {}
    for head, pattern in enumerate(layer.patterns(heads)):
        found.setdefault(pattern, []).append(head)
    return {pattern: tuple(own) for pattern, own in found.items()}


def keys_of(heads: Sequence[int], group: int) -> list[int]:
    """The key-value heads that some query heads read, where `group` of them share each.

    One for every so many query heads where they can go on sharing, else one for each.
    """
    read = [head // group for head in heads]
    counts = Counter(read)
    return sorted(counts) if len(set(counts.values())) == 1 else read


def calls(layers: Sequence[Layer], shape: Shape) -> Counter[tuple[Pattern, Shape]]:
    """How often a stack calls each pattern, and with which heads.

    Raises:
        BadInput: a layer does not fit the heads.
    """
    found: Counter[tuple[Pattern, Shape]] = Counter()
    group = shape.heads // shape.kv_heads
    for layer, count in Counter(layers).items():
        for pattern, own in heads_of(layer, shape.heads).items():
            kv_heads = len(keys_of(own, group))
            found[pattern, replace(shape, heads=len(own), kv_heads=kv_heads)] += count
    return found


def spelled(layer: Layer, length: int | None = None) -> list[tuple[str, str]]:
    """The heads of a layer and their pattern: ``[("", "full")]``, or ``[("h0-2", "full"), ...]``.

    Args:
        layer: the layer.
        length: whose automatic values are filled in; None leaves them out.
    """

    def name(pattern: Pattern) -> str:
        return asked_name(pattern if length is None else pattern.resolve(length))

    if isinstance(layer, Pattern):
        return [("", name(layer))]
    return [(f"h{some.spec}", name(pattern)) for some, pattern in layer.parts]
