"""Which group is next: those that wait, and those that a lost place gives back."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from attnbench.case import AnyCase, Group

Todo = tuple[Group, Sequence[AnyCase]]

_LOOK_S = 0.5  # how often those who wait look whether somebody asked to stop
_PATIENCE_S = 60.0  # for a lost place to come back


class Asked(Protocol):
    """Whether somebody asked to stop."""

    asked: bool


class PlaceLost(RuntimeError):
    """A place is gone while it measured: what it leaves is done by another one.

    `left` is None where nothing is; `back` says whether the place is there again.
    """

    def __init__(self, said: str, left: Todo | None, back: Callable[[], bool]) -> None:
        """Keep what is left, and how to find out."""
        super().__init__(said)
        self.left, self.back = left, back


class Turns:
    """The groups that wait, and how many are under way: one of those may come back."""

    def __init__(self, groups: Sequence[Todo], stop: Asked) -> None:
        self._waiting, self._going, self._stop = deque(groups), 0, stop
        self._changed = threading.Condition()

    def take(self) -> Todo | None:
        """The next group; None once there are no more, or somebody asked to stop."""
        with self._changed:
            while not self._waiting and self._going and not self._stop.asked:
                self._changed.wait(_LOOK_S)
            if self._stop.asked or not self._waiting:
                return None
            self._going += 1
            return self._waiting.popleft()

    def finished(self, left: Todo | None) -> None:
        """A group is no longer under way; what is left of it is next."""
        with self._changed:
            self._going -= 1
            if left is not None:
                self._waiting.appendleft(left)
            self._changed.notify_all()

    def waiting(self) -> bool:
        """Whether groups wait."""
        with self._changed:
            return bool(self._waiting)

    def wait_for(self, back: Callable[[], bool]) -> bool:
        """Whether a lost place came back while there was something to do."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end and not self._stop.asked:
            with self._changed:
                if not self._waiting and not self._going:
                    return False
            if back():
                return True
            time.sleep(_LOOK_S)
        return False
