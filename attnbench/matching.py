"""Choose a pattern's parameter so that it attends to as many keys a query as is wanted."""

import dataclasses

from attnbench.baselines import keys_per_query
from patterns import PATTERNS, pattern
from patterns.base import Pattern
from patterns.errors import BadInput
from patterns.grammar import field_types, parse

MATCHED = 0.02  # how far from the wanted keys still counts as equal
KNOBS = ("window", "stride", "columns", "block", "top", "features")
"""The parameters that may be chosen, each in tokens or keys: the first that a pattern has."""

_LEEWAY = 0.01  # within which a rounder value is preferred to the closest one
_STEPS = 4  # values tried in each octave before looking closer


def wanted_keys(text: str, length: int) -> float:
    """Keys a query: a number, or those of a pattern at this length.

    Raises:
        BadInput: neither a number above 0 nor a pattern that attends to any key.
    """
    try:
        found = float(text)
    except ValueError:
        found = keys_per_query(pattern(text), length)
    if not 0 < found < float("inf"):
        raise BadInput(f"expected a number of keys above 0 or a pattern that has keys, got {text}")
    return found


def knob(spec: str) -> str | None:
    """The parameter of a pattern's spec that may be chosen: None where it is written out."""
    name, written = parse(spec)
    fields = field_types(PATTERNS[name])
    found = next((one for one in KNOBS if one in fields), None)
    return None if found in written else found


def matched(one: Pattern, name: str, wanted: float, length: int) -> Pattern:
    """The pattern with this parameter such that its keys a query are those that are wanted.

    Blocks and columns mostly have two such values, many short ones and few long ones: the larger
    is taken. Of the values within 1 % the one that the most powers of two divide, since
    kernels like those; where there is none, the closest.

    Args:
        one: the pattern; its other parameters stay.
        name: out of `KNOBS`.
        wanted: keys a query, regions counting as one.
        length: of the sequence.
    """
    known: dict[int, float] = {}

    def off(value: int) -> float:
        if value not in known:
            made = dataclasses.replace(one, **{name: value})  # type: ignore[type-var]
            known[value] = keys_per_query(made, length) - wanted
        return known[value]

    tried = sorted({round(2 ** (step / _STEPS)) for step in range(_octaves(length))} | {length})
    tried = [value for value in tried if value <= length]
    pairs = zip(reversed(tried[:-1]), reversed(tried[1:]), strict=True)
    around = next((pair for pair in pairs if off(pair[0]) * off(pair[1]) <= 0), None)
    if around is None:
        near = tried.index(min(tried, key=lambda value: abs(off(value))))
        around = tried[max(near - 1, 0)], tried[min(near + 1, len(tried) - 1)]
    values = range(around[0], around[1] + 1)
    close = [value for value in values if abs(off(value)) <= _LEEWAY * wanted]
    best = (
        max(close, key=lambda value: (value & -value, -abs(off(value))))
        if close
        else min(values, key=lambda value: abs(off(value)))
    )
    found: Pattern = dataclasses.replace(one, **{name: best})  # type: ignore[type-var]
    return found


def _octaves(length: int) -> int:
    return _STEPS * length.bit_length() + 1
