"""Ctrl-C while something is measured, and SIGTERM, with which schedulers end what they started."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Stop:
    """Ctrl-C once asks to stop after the group in flight; twice stops at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Say through this what happens."""
        self.asked, self._say = False, say

    def __enter__(self) -> "Stop":
        """Take over Ctrl-C, where this is the thread that gets it."""
        self._before: Any = None
        with suppress(ValueError):  # not the main thread: somebody else decides
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping after the group in flight; Ctrl-C again stops at once")


class Terminated(BaseException):
    """SIGTERM came: whoever holds a process or a lock lets go of it on the way out."""


@contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM raise `Terminated`, where this thread gets it; a second one kills."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before: Any = None
    with suppress(ValueError):  # not the main thread: somebody else decides
        before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
