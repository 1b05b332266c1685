"""What code measured is told whole: its hash, its commit, and that it differs from the commit."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnbench import version as module
from attnbench.version import same_code, source_hash, version


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with the folders of this one, which `version` takes for its own."""
    for folder in ("attnbench", "patterns", "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    monkeypatch.setattr(module, "source_hash", lambda: source_hash(tmp_path))
    version.cache_clear()
    yield tmp_path
    version.cache_clear()


def parts() -> list[str]:
    version.cache_clear()
    return version().split("+")


def test_a_clean_checkout_is_its_hash_and_its_commit(checkout: Path):
    found = parts()
    assert len(found) == 2
    assert found[0] == source_hash(checkout)
    assert len(found[1]) >= 7


@pytest.mark.parametrize("name", ["attnbench/a.py", "patterns/new.py", "run_bench.py"])
@pytest.mark.parametrize("staged", [False, True])
def test_code_that_is_not_committed_is_dirty(checkout: Path, name: str, staged: bool):
    clean = parts()
    (checkout / name).write_text("x = 2\n")
    if staged:
        git(checkout, "add", ".")
    assert parts()[1:] == [clean[1], "dirty"]
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "second")
    assert len(parts()) == 2


def test_what_measures_nothing_makes_nothing_dirty(checkout: Path):
    clean = parts()
    (checkout / "docs" / "a.py").write_text("x = 2\n")
    (checkout / "runs").mkdir()
    (checkout / "runs" / "records.jsonl").write_text("{}\n")
    assert parts() == clean


def test_dirty_code_with_equal_sources_is_the_same_code(checkout: Path):
    clean = version()
    (checkout / "run_bench.py").write_text("x = 2\n")
    version.cache_clear()
    assert version() == f"{clean}+dirty"
    assert same_code(clean, version())


def test_without_git_there_is_only_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    assert len(parts()) == 1
    (tmp_path / ".git").mkdir()  # no repository
    assert len(parts()) == 1
    version.cache_clear()
