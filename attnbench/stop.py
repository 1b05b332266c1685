"""Ctrl-C while something is measured."""

import signal
from collections.abc import Callable
from contextlib import suppress
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
