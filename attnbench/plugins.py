"""Patterns of other people: from a file that is named, or from an installed package.

A package offers its patterns through the entry point group ``attnbench.patterns``; each entry
names a module. What is added behaves as if it had been found below patterns/.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from patterns.errors import BadInput
from patterns.registry import add

GROUP = "attnbench.patterns"
_PATIENCE_S = 120
_loaded: dict[str, tuple[str, ...]] = {}  # what was read already -> the names it added


def load(paths: Iterable[Path]) -> tuple[str, ...]:
    """Add the patterns that these files define; a file that was read before is not read again.

    Returns:
        The names of the patterns.

    Raises:
        BadInput: no such file, one that cannot be imported, that defines no pattern, or one whose
            pattern has a name that is taken.
    """
    return tuple(name for path in paths for name in _file(path.resolve()))


def tried(paths: Iterable[Path]) -> None:
    """Import these files in another process first, lest one of them ends this one.

    Raises:
        BadInput: that process ended otherwise than well, or not at all.
    """
    code = (
        "import sys; from pathlib import Path; from attnbench.plugins import load;"
        "from patterns.errors import BadInput\n"
        "try: load(map(Path, sys.argv[1:]))\n"
        "except BadInput as error: sys.exit(str(error))"
    )
    names = [str(path) for path in paths]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *names],  # not what the current folder holds
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise BadInput(f"importing {', '.join(names)} takes more than {_PATIENCE_S} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        how = "" if done.returncode == 1 else f"importing {', '.join(names)} ends the process: "
        raise BadInput(how + said)


def load_installed() -> tuple[list[str], list[str]]:
    """Add the patterns of installed packages.

    Returns:
        Their names, and a sentence for each entry that cannot be used: one broken package does
        not stop the others.
    """
    names: list[str] = []
    said: list[str] = []
    for entry in entry_points(group=GROUP):
        try:
            if entry.value not in _loaded:
                _loaded[entry.value] = _add(entry.load(), entry.value)
            names += _loaded[entry.value]
        except Exception as error:  # whatever somebody's module raises
            said.append(f"patterns of {entry.value} left out: {type(error).__name__}: {error}")
    return names, said


def _file(path: Path) -> tuple[str, ...]:
    if str(path) in _loaded:
        return _loaded[str(path)]
    name = f"attnbench_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise BadInput(f"--plugin expects a Python file, got {path.name}")
    if name in sys.modules:
        raise BadInput(f"two plugins are named {path.name}: rename one")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        _loaded[str(path)] = _add(module, path.name)
    except BadInput:
        del sys.modules[name]
        raise
    except Exception as error:  # whatever somebody's file raises
        del sys.modules[name]
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"the plugin {path.name} cannot be imported: {text}") from error
    return _loaded[str(path)]


def _add(module: ModuleType, what: str) -> tuple[str, ...]:
    if not (names := add(module)):
        raise BadInput(f"{what} defines no pattern: expected a class that implements Pattern")
    return names
