"""The house stands: imports point down, public names are told, and no file names a machine."""

import ast
import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {  # a folder or file at the root, and which of ours it may take from
    "patterns": {"patterns"},
    "attnbench": {"patterns", "attnbench"},
    "reports": {"attnbench", "reports"},
    "run_bench": {"patterns", "attnbench", "reports"},
}
OURS = {*MAY_IMPORT, "tests"}
PACKAGES = ("patterns", "attnbench", "reports")
PATTERNS_STAND_ON = {*sys.stdlib_module_names, "torch", "numpy", "triton"}

# A path of one machine, or beside a checkout. Spelled so that it does not find itself.
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:work|root|home|Users)/|\.\./shared")


def modules(root: Path) -> Iterator[tuple[Path, str, ast.Module]]:
    """Each Python file of ours: its path below root, the room it is in, and its tree."""
    rooms = (path for room in PACKAGES for path in sorted(root.glob(f"{room}/**/*.py")))
    for path in (*rooms, *root.glob("run_bench.py")):
        below = path.relative_to(root)
        room = below.parts[0].removesuffix(".py")
        yield below, room, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, package: tuple[str, ...], lazy: bool = False) -> Iterator[tuple]:
    """(line, dotted name, whether it waits inside a function) of all that a tree imports."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name, lazy) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                base += [module] if module else []
                yield from ((node.lineno, ".".join([*base, a.name]), lazy) for a in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name, lazy
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, package, lazy or is_function)


def wrong_imports(root: Path) -> list[str]:
    """The imports that point up, that patterns do not stand on, or that load triton at once."""
    wrong = []
    for path, room, tree in modules(root):
        for line, name, lazy in imports(tree, path.parent.parts):
            top = name.partition(".")[0]
            where = f"{path}:{line} imports {name}"
            if top in OURS and top not in MAY_IMPORT[room]:
                wrong.append(f"{where}, which stands above it or out of its reach")
            if room == "patterns" and top not in PATTERNS_STAND_ON | OURS:
                wrong.append(f"{where}, and patterns stand on torch and numpy alone")
            if top == "triton" and not lazy and path.parts[:2] != ("patterns", "kernels"):
                wrong.append(f"{where} at once, where triton may be absent")
    return wrong


def untold(root: Path) -> list[str]:
    """The modules and the public functions and classes at their top without a docstring."""
    return [
        f"{path}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'the module')}"
        for path, _, tree in modules(root)
        if tree.body
        for node in (tree, *tree.body)
        if isinstance(node, ast.Module)
        or (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
        )
        if not ast.get_docstring(node)
    ]


def files(root: Path) -> Iterator[Path]:
    """Every file of the tree that its .gitignore does not leave out."""
    lines = (root / ".gitignore").read_text().splitlines()
    ignored = [".git", *(line.strip("/") for line in lines)]

    def kept(name: str) -> bool:
        return not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)

    for folder, below, names in os.walk(root):
        below[:] = filter(kept, below)
        yield from (Path(folder, name) for name in filter(kept, names))


def machine_paths(root: Path) -> list[str]:
    """The lines that name a path which means nothing on another machine."""
    return [
        f"{path.relative_to(root)}:{number} {found.group().decode()}"
        for path in files(root)
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1)
        if (found := MACHINE_PATH.search(line))
    ]


def left_behind(root: Path) -> list[str]:
    """The files of our packages that a wheel would lack, by what pyproject.toml says it packs."""
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {
        file
        for room, globs in tool["package-data"].items()
        for pattern in globs
        for file in root.glob(f"{room}/{pattern}")
    }
    return [
        str(path.relative_to(root))
        for path in files(root)
        if path.relative_to(root).parts[0] in PACKAGES and path not in packed
        if path.suffix != ".py" or not (path.parent / "__init__.py").exists()
    ]


def python(root: Path, *arguments: str) -> str:
    """What a Python started in root writes to stderr; it must exit with 0."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def loaded_by(root: Path, *arguments: str) -> set[str]:
    """The top-level modules that `python run_bench.py arguments` imports."""
    lines = python(root, "-X", "importtime", "run_bench.py", *arguments).splitlines()
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def import_without_triton(root: Path) -> None:
    """Import our packages as on a machine that has no triton."""
    python(root, "-c", f"import sys; sys.modules['triton'] = None; import {', '.join(PACKAGES)}")


def write(root: Path, path: str, text: str) -> None:
    """Put a file into a small tree that has what every tree has."""
    (root / ".gitignore").write_text(".venv/\nruns/\n*.egg-info/\n")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_imports_point_down():
    assert wrong_imports(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("patterns/a.py", "from attnbench import timing"),
        ("patterns/a.py", "def f():\n    import reports.page"),
        ("patterns/a.py", "import pandas"),
        ("patterns/a.py", "import triton"),
        (
            "patterns/a.py",
            "try:\n    import triton.language as tl\nexcept ImportError:\n    tl = 0",
        ),
        ("patterns/sparse/a.py", "from ... import run_bench"),
        ("attnbench/a.py", "import importlib\nimportlib.import_module('reports')"),
        ("attnbench/a.py", "import tests.conftest"),
        ("attnbench/a.py", "from triton import testing"),
        ("reports/a.py", "from patterns import PATTERNS"),
        ("reports/a.py", "if True:\n    import run_bench"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, path: str, text: str):
    write(tmp_path, path, text)
    assert len(wrong_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("patterns/sparse/a.py", "import math, numpy, torch\nfrom ..base import Pattern"),
        ("patterns/sparse/a.py", "from . import b\nfrom .. import base"),
        ("patterns/a.py", "def f():\n    import triton\n    from patterns.kernels import blocks"),
        ("patterns/kernels/a.py", "import triton.language as tl"),
        ("attnbench/a.py", "import pandas\nfrom patterns import PATTERNS"),
        ("reports/a.py", "import seaborn\nfrom attnbench import load"),
        ("run_bench.py", "def main():\n    import attnbench, patterns, reports, tqdm"),
    ],
)
def test_an_import_that_points_down_is_left_alone(tmp_path: Path, path: str, text: str):
    write(tmp_path, path, text)
    assert wrong_imports(tmp_path) == []


def test_every_public_name_is_told():
    assert untold(ROOT) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"""Told."""\ndef f():\n    pass', ["f"]),
        ('"""Told."""\nclass Pattern:\n    block = 1', ["Pattern"]),
        ('"""Told."""\nasync def f():\n    "Told."\ndef _g():\n    pass', []),
        ("X = 1", ["the module"]),
        ("", []),
    ],
)
def test_a_public_name_without_a_docstring_is_found(tmp_path: Path, text: str, names: list[str]):
    write(tmp_path, "reports/a.py", text)
    assert [line.partition(" ")[2] for line in untold(tmp_path)] == names


def test_the_tree_names_no_machine():
    assert machine_paths(ROOT) == []


@pytest.mark.parametrize("text", ["cd {0}work{0}main", "see ..{0}shared{0}a.md", "'{0}root{0}.x'"])
def test_a_path_of_one_machine_is_found(tmp_path: Path, text: str):
    text = text.format("/")
    write(tmp_path, "docs/a.md", f"first\n{text}")
    write(tmp_path, "runs/1/run.json", text)
    write(tmp_path, ".venv/a.pth", text)
    assert [line.partition(" ")[0] for line in machine_paths(tmp_path)] == ["docs/a.md:2"]


@pytest.mark.parametrize(
    "text", ["docs/work/a.md", "a network/root/home", "./home/a", "/workspace"]
)
def test_a_path_below_the_checkout_is_left_alone(tmp_path: Path, text: str):
    write(tmp_path, "docs/a.md", text)
    assert machine_paths(tmp_path) == []


def test_a_wheel_packs_every_file():
    assert left_behind(ROOT) == []


def test_a_file_that_a_wheel_lacks_is_found(tmp_path: Path):
    write(tmp_path, "pyproject.toml", '[tool.setuptools.package-data]\nreports = ["**/*.css"]')
    for path in ("reports/__init__.py", "reports/a.py", "reports/viewer/a.css", "tests/a.txt"):
        write(tmp_path, path, "")
    assert left_behind(tmp_path) == []
    write(tmp_path, "reports/viewer/a.svg", "")
    write(tmp_path, "reports/figures/bars.py", "")
    assert sorted(left_behind(tmp_path)) == ["reports/figures/bars.py", "reports/viewer/a.svg"]


def test_help_answers_without_the_heavy_imports():
    assert not loaded_by(ROOT, "--help") & {"torch", "triton", "pandas", "matplotlib"}


def test_a_heavy_import_is_found(tmp_path: Path):
    write(tmp_path, "torch.py", "")
    write(tmp_path, "run_bench.py", "def main():\n    import torch\n\nmain()")
    assert "torch" in loaded_by(tmp_path, "--help")


def test_everything_imports_where_triton_is_absent():
    import_without_triton(ROOT)


def test_a_package_that_needs_triton_is_found(tmp_path: Path):
    write(tmp_path, "patterns/__init__.py", "from .kernels import blocks")
    write(tmp_path, "patterns/kernels/__init__.py", "")
    write(tmp_path, "patterns/kernels/blocks.py", "import triton")
    write(tmp_path, "attnbench/__init__.py", "")
    write(tmp_path, "reports/__init__.py", "")
    with pytest.raises(AssertionError, match="import of triton halted"):
        import_without_triton(tmp_path)
