"""One writer a run folder: the operating system holds the lock, so a process that dies drops it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patterns.errors import BadInput

NAME = ".lock"
_FAR = 1 << 30  # the byte that Windows locks, beyond the text that others read


@contextmanager
def locked(run: Path) -> Iterator[int | None]:
    """Hold the lock of a run folder.

    Yields:
        The process that held it when it died, if one did; None otherwise.

    Raises:
        BadInput: another process is writing this run.
    """
    handle = os.open(run / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        holder = os.pread(handle, 32, 0) if hasattr(os, "pread") else os.read(handle, 32)
        pid = int(holder) if holder.strip().isdigit() else None
        if not _take(handle):
            raise BadInput(f"{run} is being written by process {pid}: wait for it, or end it")
        _write(handle, str(os.getpid()))
        try:
            yield pid
        finally:
            _write(handle, "")  # a process that cannot say so itself died
    finally:
        os.close(handle)


def _write(handle: int, text: str) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, text.encode())


def _take(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
