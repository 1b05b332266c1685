"""One grammar for patterns and sources: ``name[field=value,field=a|b]``.

The fields are those of a frozen dataclass. `|` sweeps a field over several values and `auto` asks
for the automatic one (None). Sizes may end in k (1024) or m (1024 * 1024).
"""

import dataclasses
import difflib
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from patterns.errors import BadInput

T = TypeVar("T")

_SPEC = re.compile(r"\s*(?P<name>[A-Za-z0-9_-]+)\s*(?:\[(?P<fields>.*)\]\s*)?", re.DOTALL)
_SIZE = re.compile(r"(?P<digits>\d+)(?P<suffix>[kKmM]?)")
_FACTOR = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse_size(text: str) -> int:
    """Read a whole number such as ``4096``, ``4k`` (4096) or ``1m`` (1048576).

    Raises:
        BadInput: the text is not a whole number with an optional k or m.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"expected a whole number such as 4096 or 4k, got {text!r}")
    return int(match["digits"]) * _FACTOR[match["suffix"].lower()]


def near_match(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, if one is close, and all that exist."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}There are: {', '.join(known) if known else 'none'}"


def split_specs(text: str) -> list[str]:
    """Split ``a[x=1,y=2],b`` at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def parse(text: str) -> tuple[str, dict[str, list[str]]]:
    """Take ``name[a=1|2,b=3]`` apart into the name and the values asked for each field.

    Raises:
        BadInput: the text does not follow the grammar.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise BadInput(f"cannot read {text!r}: expected name or name[field=value,...]")
    values: dict[str, list[str]] = {}
    for item in filter(None, (part.strip() for part in (match["fields"] or "").split(","))):
        field, separator, value = item.partition("=")
        if not separator or not field.strip() or not value.strip():
            raise BadInput(f"cannot read {item!r} in {text!r}: expected field=value")
        if field.strip() in values:
            raise BadInput(f"{text!r} sets {field.strip()!r} twice: name each field once")
        values[field.strip()] = [choice.strip() for choice in value.split("|")]
    return match["name"], values


def build_all(text: str, classes: Mapping[str, type[T]], kind: str) -> list[T]:
    """Make every object that one spec asks for: one, or a sweep where it uses ``|``.

    Args:
        text: a spec such as ``combiner-fixed[block=32|64]``.
        classes: name -> frozen dataclass.
        kind: what the objects are called in errors, such as "pattern".

    Raises:
        BadInput: unknown name or field, or a value of the wrong type.
    """
    name, values = parse(text)
    if name not in classes:
        raise BadInput(f"unknown {kind} {name!r}: {near_match(name, classes)}")
    cls = classes[name]
    types_of = field_types(cls)
    for field in values:
        if field not in types_of:
            known = near_match(field, types_of)
            raise BadInput(f"{kind} {name!r} has no parameter {field!r}: {known}")
    choices = [
        [_convert(choice, types_of[field], f"{name}[{field}=...]") for choice in texts]
        for field, texts in values.items()
    ]
    return [
        cls(**dict(zip(values, combination, strict=True)))
        for combination in itertools.product(*choices)
    ]


def field_types(cls: type) -> dict[str, Any]:
    """The parameters of a dataclass and their types, in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def spell(name: str, value: Any, *, hide: Iterable[str] = ()) -> str:
    """The spec that `build_all` reads back as this object, without fields at their defaults."""
    shown = [
        f"{field.name}={_spell_value(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.name not in hide and getattr(value, field.name) != field.default
    ]
    return f"{name}[{','.join(shown)}]" if shown else name


def _spell_value(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _convert(text: str, wanted: Any, where: str) -> Any:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(wanted) if option is not type(None)]
        return None if text == "auto" else _convert(text, options[0], where)
    if typing.get_origin(wanted) is Literal:
        return _choose(text, [str(choice) for choice in typing.get_args(wanted)], where)
    if wanted is bool:
        return _choose(text.lower(), ["true", "false"], where) == "true"
    readers: dict[type, Callable[[str], Any]] = {int: parse_size, float: _parse_number, str: str}
    try:
        return readers[wanted](text)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _choose(text: str, choices: list[str], where: str) -> str:
    if text not in choices:
        raise BadInput(f"{where} expects one of {', '.join(choices)}, got {text!r}")
    return text


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"expected a number, got {text!r}") from None
