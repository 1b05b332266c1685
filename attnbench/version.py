"""Which code measured: a hash of its sources, and the commit where there is one."""

import functools
import hashlib
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[1]


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
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
