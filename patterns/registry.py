"""Discovery: every module below patterns/ that defines one Pattern is a pattern."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from patterns.base import Pattern
from patterns.errors import BadInput
from patterns.grammar import build_all

_FOLDER = Path(__file__).parent


def discover(modules: Iterator[ModuleType] | list[ModuleType]) -> dict[str, type[Pattern]]:
    """Collect the patterns that these modules define, sorted by name.

    Raises:
        ImportError: a module defines two patterns, or two modules use one name.
    """
    found: dict[str, type[Pattern]] = {}
    for module in modules:
        classes = _defined_in(module)
        if len(classes) > 1:
            names = ", ".join(cls.__name__ for cls in classes)
            raise ImportError(f"{module.__file__} defines {names}: one pattern a file")
        for cls in classes:
            if cls.name in found:
                raise ImportError(
                    f"{module.__file__} and {found[cls.name].__module__} "
                    f"both define the pattern {cls.name!r}"
                )
            found[cls.name] = cls
    return dict(sorted(found.items()))


def _defined_in(module: ModuleType) -> list[type[Pattern]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Pattern)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
    ]


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages([str(_FOLDER)], prefix="patterns."):
        if not info.ispkg and "kernels" not in info.name.split("."):
            yield importlib.import_module(info.name)


_found = discover(_modules())
PATTERNS: Mapping[str, type[Pattern]] = MappingProxyType(_found)
"""Name -> class of every pattern, sorted, read-only."""


def add(module: ModuleType) -> tuple[str, ...]:
    """Add the patterns that a module from elsewhere defines; returns their names.

    Raises:
        BadInput: a name is taken.
    """
    # A class without a name of its own is what others stand on.
    classes = [cls for cls in _defined_in(module) if "name" in vars(cls)]
    for cls in classes:
        if cls.name in _found:
            raise BadInput(
                f"{cls.__name__} is named {cls.name!r}, and so is one in "
                f"{_found[cls.name].__module__}: choose another name"
            )
    everything = sorted(
        [*_found.items(), *((cls.name, cls) for cls in classes)], key=lambda item: item[0]
    )
    _found.clear()  # PATTERNS is a view of it
    _found.update(everything)
    return tuple(cls.name for cls in classes)


def patterns(spec: str) -> list[Pattern]:
    """Every pattern that a spec asks for: several where it sweeps with `|`.

    >>> [p.spec for p in patterns("local[window=32|64]")]
    ['local[window=32]', 'local[window=64]']

    Raises:
        BadInput: unknown name or parameter, or a value that does not fit.
    """
    return build_all(spec, PATTERNS, "pattern")


def pattern(spec: str) -> Pattern:
    """The one pattern that a spec such as ``combiner-fixed[block=64]`` asks for.

    Raises:
        BadInput: unknown name or parameter, a value that does not fit, or a sweep.
    """
    found = patterns(spec)
    if len(found) > 1:
        raise BadInput(f"{spec!r} asks for {len(found)} patterns: expected one, without '|'")
    return found[0]
