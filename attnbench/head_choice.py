"""Which pattern each head of a model gets: where keys do most against the harm that patterns do.

>>> from patterns import pattern
>>> narrow = Candidate(pattern=pattern("sinks[window=8]"), keys=12.0, harms=((0.1, 0.9),))
>>> wide = Candidate(pattern=pattern("sinks[window=32]"), keys=36.0, harms=((0.1, 0.2),))
>>> choose([narrow, wide], keys=24.0).spec
'0h0:sinks[window=8],0h1:sinks[window=32]'
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnbench.layers import Some
from attnbench.schedule import Explicit, Part
from patterns.base import Pattern
from patterns.errors import BadInput

_CLOSE = 1e-9  # relative: so much more than the keys that were asked for is rounding


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pattern that heads may get.

    keys: that a query attends to, mean over queries.
    harms: what it does in each head, [layers][heads]: what is added up over heads.
    """

    pattern: Pattern
    keys: float
    harms: Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """From one candidate of a head to its next one, which has more keys and harms less."""

    gain: float  # harm less, a key
    layer: int
    head: int
    keys: float
    to: int


def choose(candidates: Sequence[Candidate], *, keys: float | None = None) -> Explicit:
    """The candidate that harms least in each head, as long as there are keys for it.

    Every head starts with the fewest keys; then keys go where they take away the most harm each,
    step by step, until no further step fits.

    Args:
        candidates: at least one, for the same layers and heads.
        keys: that a query may attend to, mean over all heads; None for any number.

    Raises:
        BadInput: there is no candidate, or there are not keys enough for any choice.
    """
    if not candidates:
        raise BadInput("nothing to choose from: expected at least one pattern")
    places = [
        (layer, head) for layer, row in enumerate(candidates[0].harms) for head in range(len(row))
    ]
    ways = {place: _ways(candidates, *place) for place in places}
    chosen = {place: way[0] for place, way in ways.items()}
    if keys is not None:
        left = keys * len(places) * (1 + _CLOSE) - sum(
            candidates[one].keys for one in chosen.values()
        )
        if left < 0:
            least = min(one.keys for one in candidates)
            raise BadInput(
                f"the fewest keys that a pattern has here are {least:.1f} a query, and "
                f"{keys:.1f} are asked for: add a pattern with fewer"
            )
    stuck = set()
    steps = [step for place, way in ways.items() for step in _steps(candidates, place, way)]
    for step in sorted(steps, key=lambda one: -one.gain):  # stable: a head's own stay in order
        place = (step.layer, step.head)
        if place in stuck:
            continue
        if keys is not None and step.keys > left:
            stuck.add(place)
            continue
        chosen[place] = step.to
        if keys is not None:
            left -= step.keys
    layers = [
        [candidates[chosen[layer, head]].pattern for head in range(len(row))]
        for layer, row in enumerate(candidates[0].harms)
    ]
    return Explicit(parts=tuple(_parts(layers)))


def _ways(candidates: Sequence[Candidate], layer: int, head: int) -> list[int]:
    """The candidates that are worth their keys in a head: the lower hull of harm over keys."""
    hull: list[int] = []

    def point(one: int) -> tuple[float, float]:
        return candidates[one].keys, candidates[one].harms[layer][head]

    for one in sorted(range(len(candidates)), key=point):
        if hull and point(one)[1] >= point(hull[-1])[1]:
            continue
        while len(hull) > 1 and _slope(point(hull[-2]), point(hull[-1])) <= _slope(
            point(hull[-2]), point(one)
        ):
            hull.pop()
        hull.append(one)
    return hull


def _slope(few: tuple[float, float], many: tuple[float, float]) -> float:
    """Harm less, a key."""
    more = many[0] - few[0]
    return (few[1] - many[1]) / more if more > 0 else float("inf")


def _steps(
    candidates: Sequence[Candidate], place: tuple[int, int], way: Sequence[int]
) -> Iterator[_Step]:
    layer, head = place
    for here, there in itertools.pairwise(way):
        few, many = candidates[here], candidates[there]
        gain = _slope((few.keys, few.harms[layer][head]), (many.keys, many.harms[layer][head]))
        yield _Step(gain=gain, layer=layer, head=head, keys=many.keys - few.keys, to=there)


def _parts(layers: Sequence[Sequence[Pattern]]) -> Iterator[Part]:
    """The schedule, with layers and heads that lie together written together."""
    first = 0
    for heads, same in itertools.groupby(layers):
        last = first + len(list(same)) - 1
        some, first = Some(first, last), last + 1
        if all(one == heads[0] for one in heads):
            yield Part(layers=some, heads=None, pattern=heads[0])
            continue
        begin = 0
        for pattern, own in itertools.groupby(heads):
            end = begin + len(list(own)) - 1
            yield Part(layers=some, heads=Some(begin, end), pattern=pattern)
            begin = end + 1
