"""How long a run will still take: what its groups weigh, and how fast such weight was lifted.

The weights are those by which the budget is shared out. Before anything is measured they are taken
for seconds; every case that is measured corrects them.
"""

import time
from collections.abc import Callable, Sequence

from attnbench.case import case_key
from attnbench.purse import weight
from attnbench.turns import Todo

_PRIOR_S = 5.0  # of work that went as the weights say, so that a first case does not decide all


class Forecast:
    """Follows a run, and says how many seconds are left."""

    def __init__(
        self,
        groups: Sequence[Todo],
        places: int,
        budget_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Weigh what is to be done in so many places, which the budget is the time of."""
        self._left = {
            group.id: {case_key(case): weight([case]) for case in cases} for group, cases in groups
        }
        self._places, self._budget_s, self._clock = places, budget_s, clock
        self._since: dict[str, float] = {}  # groups under way -> when their last case was known
        self._taken_s = self._lifted = 0.0

    def began(self, group: str) -> None:
        """A group is under way, or once more."""
        self._since[group] = self._clock()

    def ended(self, group: str, key: str, *, measured: bool) -> None:
        """A case is known; one that was not measured says nothing of speed."""
        cases, now = self._left.get(group, {}), self._clock()
        lifted = cases.pop(key, 0.0)
        self._taken_s += now - self._since.get(group, now)
        self._since[group] = now
        if measured:
            self._lifted += lifted
        if not cases:
            self._since.pop(group, None)

    def under_way(self) -> list[str]:
        """The groups that have begun and not ended."""
        return [*self._since]

    def left_s(self) -> float:
        """Seconds until all is done, as it looks now."""
        now = self._clock()
        rate = (_PRIOR_S + self._taken_s) / (_PRIOR_S + self._lifted)
        left, longest, running_s = 0.0, 0.0, 0.0
        for group, cases in [*self._left.items()]:
            needed = rate * sum([*cases.values()])
            if group in self._since:
                running_s += now - self._since[group]
                needed = max(0.0, needed - (now - self._since[group]))
                longest = max(longest, needed)
            left += needed
        affordable_s = max(0.0, self._budget_s - self._taken_s - running_s)
        return max(min(left, affordable_s) / self._places, min(longest, affordable_s))


def in_words(seconds: float) -> str:
    """A rough time: about 40 s, about 3 min, about 1.5 h."""
    if seconds < 100:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < 100 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
