"""What a pattern asked for is called: its name, its parameters, and a short label."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any


def name_of(asked: str) -> str:
    """The pattern's name: what stands before the parameters."""
    return asked.partition("[")[0]


def parameters_of(asked: str) -> dict[str, str]:
    """The parameters as written: {"block": "64"} for ``fixed[block=64]``."""
    inside = asked.partition("[")[2].removesuffix("]")
    pairs = (item.partition("=") for item in inside.split(",") if item)
    return {key.strip(): value.strip() for key, _, value in pairs}


def by_number(value: Any) -> Any:
    """A sorting key under which ``sinks[window=64]`` comes before ``sinks[window=128]``."""
    if not isinstance(value, str):
        return value
    return tuple((0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", value))


def labels(asked: list[str]) -> dict[str, str]:
    """A short name for each pattern asked: the fewest parameters that tell it from its namesakes.

    A pattern that is alone with its name needs none; words are preferred to numbers.
    """
    unique = sorted(set(asked))
    short: dict[str, str] = {}
    for name in sorted({name_of(one) for one in unique}):
        given = {one: parameters_of(one) for one in unique if name_of(one) == name}
        told: dict[str, str] = {}
        for keys in _fewest(list(given.values())):
            told = {one: _told(name, values, keys) for one, values in given.items()}
            if len(set(told.values())) == len(told):
                break
        short |= told
    return short


_FIRST = ("summary", "form", "keys", "regions", "block", "window", "near", "sink")


def _fewest(given: list[dict[str, str]]) -> Iterator[tuple[str, ...]]:
    """Choices of parameters, the smallest first, and at last all that differ."""
    telling = {key for values in given for key in values}
    telling = {key for key in telling if len({values.get(key) for values in given}) > 1}
    order = [key for key in _FIRST if key in telling]
    order += sorted(telling - set(order))
    for size in range(min(len(order), 3) + 1):
        yield from itertools.combinations(order, size)
    yield tuple(order)


def _told(name: str, values: Mapping[str, str], keys: tuple[str, ...]) -> str:
    said = [(key, values[key]) for key in keys if key in values]
    words = [value if value.isalpha() or "+" in value else f"{key} {value}" for key, value in said]
    return " ".join([name, *words])
