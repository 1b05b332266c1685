"""Discovery: one file, one pattern, and nothing else to touch."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import patterns as package
from patterns import PATTERNS, BadInput, Pattern, pattern, patterns
from patterns.full import Full
from patterns.registry import discover
from patterns.sparse.local import Local


def module(name: str, *classes: type[Pattern]) -> ModuleType:
    """A module that defines copies of these classes."""
    made = ModuleType(name)
    made.__file__ = f"{name}.py"
    for cls in classes:
        copy = type(cls.__name__, (cls,), {"__module__": name})
        setattr(made, cls.__name__, copy)
    return made


def test_patterns_are_sorted_and_read_only() -> None:
    assert list(PATTERNS) == sorted(PATTERNS)
    assert PATTERNS["full"] is Full
    with pytest.raises(TypeError):
        PATTERNS["mine"] = Full  # type: ignore[index]


def test_every_pattern_lies_in_a_file_of_its_own() -> None:
    files = [sys.modules[cls.__module__].__file__ for cls in PATTERNS.values()]
    assert len(set(files)) == len(files)
    assert all(cls.name == name for name, cls in PATTERNS.items())


def test_a_module_without_a_pattern_is_a_helper() -> None:
    helper = ModuleType("helper")
    helper.Full = Full  # imported there, not defined there
    assert dict(discover([helper])) == {}


def test_two_patterns_in_a_module_are_refused_by_file_name() -> None:
    with pytest.raises(ImportError, match=r"both\.py defines Full, Local: one pattern a file"):
        discover([module("both", Full, Local)])


def test_two_modules_with_one_name_are_refused() -> None:
    with pytest.raises(ImportError, match=r"second\.py and first both define the pattern 'full'"):
        discover([module("first", Full), module("second", Full)])


def test_a_sweep_is_several_patterns_and_not_one() -> None:
    assert patterns("local[window=2|3]") == [Local(window=2), Local(window=3)]
    with pytest.raises(BadInput, match="asks for 2 patterns: expected one"):
        pattern("local[window=2|3]")


@pytest.mark.parametrize(
    ("name", "values"),
    [("local", {"window": 0}), ("combiner-fixed", {"block": 0}), ("sinks", {"sink": -1})],
)
def test_parameters_out_of_range_are_refused(name: str, values: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=r"must be at least 1|must not be negative"):
        PATTERNS[name](**values)


def test_importing_the_registry_does_not_import_triton_or_the_harness() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import patterns;"
        "print([m for m in ('triton', 'attnbench', 'reports', 'pandas') if m in sys.modules])"
    )
    root = Path(package.__file__).parents[1]
    said = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
