"""What is being done right now, told before it is done: whoever watches knows whom to blame."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from attnbench.timing import Call, Clocks, Watch
from patterns.base import Implementation

_AGAIN_S = 1.0  # a sign of life, where one contender is timed for longer


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that may crash or hang.

    `name` is that of what runs, which cases may share; it is the case's key before that is known.
    Nobody is to blame for `inputs`.
    """

    what: Literal["inputs", "first", "check", "time", "fidelity"]
    name: str = ""
    case_key: str | None = None
    implementation: Implementation | None = None


Announce = Callable[[Step], None]


def silent(_step: Step) -> None:
    """Tell nobody."""


class Announcing:
    """A watch that says whose sample it takes, outside of what it times.

    `first_failed` is the contender that raised first: on a GPU all others fail after it.
    """

    def __init__(self, watch: Watch, announce: Announce, steps: Mapping[str, Step]) -> None:
        """Lay this over a watch; `steps` are by the names of the contenders."""
        self._watch, self._announce, self._steps = watch, announce, steps
        self._last, self._told_s = "", 0.0
        self.first_failed: str | None = None

    def now(self) -> float:
        """See `Watch`."""
        return self._watch.now()

    def cold(self, name: str, call: Call) -> float:
        """See `Watch`."""
        self._tell(name)
        try:
            return self._watch.cold(name, call)
        except Exception:
            self.first_failed = self.first_failed or name
            raise

    def wall(self, call: Call) -> float | None:
        """See `Watch`; it follows a cold sample of the same contender."""
        return self._watch.wall(call)

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        """See `Watch`."""
        self._tell(name)
        try:
            return self._watch.graph(name, call)
        except Exception:
            self.first_failed = self.first_failed or name
            raise

    def clocks(self) -> Clocks | str | None:
        """See `Watch`."""
        return self._watch.clocks()

    def notes(self, name: str) -> dict[str, str]:
        """See `Watch`."""
        return self._watch.notes(name)

    def _tell(self, name: str) -> None:
        now = time.monotonic()
        if name != self._last or now - self._told_s > _AGAIN_S:
            self._last, self._told_s = name, now
            self._announce(self._steps[name])
