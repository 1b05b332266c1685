"""Patterns from elsewhere: from a file, from a package, and what happens when they are broken."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from attnbench import plugins
from attnbench.version import version
from patterns import PATTERNS, BadInput, pattern, registry

GOOD = """
from dataclasses import dataclass
from typing import ClassVar
from patterns.full import Full

class Helper(Full):
    pass

@dataclass(frozen=True, kw_only=True)
class Mine(Helper):
    name: ClassVar = "{name}"
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the registry as it was."""
    known, loaded, modules = dict(registry._found), dict(plugins._loaded), set(sys.modules)
    yield
    registry._found.clear()
    registry._found.update(known)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)
    for name in set(sys.modules) - modules:
        if name.startswith("attnbench_plugin_"):
            del sys.modules[name]


def file(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_file_adds_its_patterns_to_all_others(tmp_path: Path):
    before = list(PATTERNS)
    path = file(tmp_path, GOOD.format(name="aardvark"))
    assert plugins.load([path]) == ("aardvark",)
    assert list(PATTERNS) == sorted([*before, "aardvark"])
    assert pattern("aardvark[causal=false]").causal is False
    assert plugins.load([path]) == ("aardvark",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.format(name="local"), "named 'local', and so is one in patterns.sparse.local"),
        ("x = 1", "mine.py defines no pattern"),
        ("import no_such_thing", "mine.py cannot be imported: ModuleNotFoundError"),
        ("def", "mine.py cannot be imported: SyntaxError"),
        (None, "expects a Python file, got mine.py"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, text: str | None, said: str):
    before = list(PATTERNS)
    path = tmp_path / "mine.py" if text is None else file(tmp_path, text)
    with pytest.raises(BadInput, match=said) as caught:
        plugins.load([path])
    assert "\n" not in str(caught.value)
    assert list(PATTERNS) == before


def test_a_file_that_was_mended_can_be_loaded(tmp_path: Path):
    for broken in ("x = 1", "1 / 0"):
        with pytest.raises(BadInput):
            plugins.load([file(tmp_path, broken)])
    assert plugins.load([file(tmp_path, GOOD.format(name="aardvark"))]) == ("aardvark",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\nprint('bye')\nos._exit(3)", "ends the process"),
        ("x = 1", "mine.py defines no pattern"),
    ],
)
def test_a_file_that_ends_its_process_does_not_end_this_one(tmp_path: Path, text: str, said: str):
    with pytest.raises(BadInput, match=said):
        plugins.tried([file(tmp_path, text)])


def test_a_package_offers_patterns_and_a_broken_one_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file(tmp_path, GOOD.format(name="aardvark"), "offered_here.py")
    monkeypatch.syspath_prepend(tmp_path)
    good = importlib.metadata.EntryPoint("a", "offered_here", plugins.GROUP)
    bad = importlib.metadata.EntryPoint("b", "no_such_thing", plugins.GROUP)
    asked = SimpleNamespace(groups=[])
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: asked.groups.append(group) or [bad, good]
    )
    names, said = plugins.load_installed()
    assert asked.groups == ["attnbench.patterns"]
    assert names == ["aardvark"]
    assert "aardvark" in PATTERNS
    assert len(said) == 1
    assert said[0].startswith("patterns of no_such_thing left out: ModuleNotFoundError")
    sys.modules.pop("offered_here")


def test_another_plugin_is_another_version(tmp_path: Path):
    one, other = file(tmp_path, "a", "a.py"), file(tmp_path, "b", "b.py")
    found = {version(), version(one), version(other), version(one, other)}
    assert len(found) == 4
    assert version(one, other) == version(other, one)
