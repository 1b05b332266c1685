"""Which code measured: a hash of its sources, and the commit where there is one.

A commit that is not the whole truth says so: ``+dirty`` stands behind it where files that measure
differ from it, or are not part of it.
"""

import functools
import hashlib
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_MEASURING = ("attnbench", "patterns", "run_bench.py")


def source_hash(root: Path = _ROOT) -> str:
    """12 hexadecimal digits of the sources of patterns/ and attnbench/."""
    digest = hashlib.sha256()
    for folder in ("attnbench", "patterns"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@functools.cache
def version(*plugins: Path) -> str:
    """The hash of the sources and, in a checkout, the commit: ``3b0c44298fc1+8c8ed96``.

    With changes that are not committed: ``3b0c44298fc1+8c8ed96+dirty``.

    With plugins it is a hash of theirs too: another plugin is other code.
    """
    commit, found = _commit(_ROOT), source_hash()
    if plugins:
        parts = [found, *sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in plugins)]
        found = hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
    return found + (f"+{commit}" if commit else "")


def same_code(a: str, b: str) -> bool:
    """Whether two versions have the same sources, whatever the commit says."""
    return a.partition("+")[0] == b.partition("+")[0]


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if not commit:
        return None
    changes = _git(root, "status", "--porcelain", "--", *_MEASURING)
    return commit if changes == "" else f"{commit}+dirty"


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where it cannot."""
    try:
        found = subprocess.run(
            # Reading must not wait for, or take, the lock of the index.
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
