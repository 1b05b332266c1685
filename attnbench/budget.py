"""The time of a group: what timing may take of it, and what first calls take beside it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from attnbench.outcome import Ended
from attnbench.timing import LEAST_LONG_CALLS, LONG_S, MIN_ROUNDS

_LEAST_CALLS = 5 * MIN_ROUNDS  # that timing a contender makes: two cold samples a round, others
_LARGEST_SHARE = 0.7  # of a group's budget that timing one contender may take
_LEAST_TIMING_S = 0.2  # of any contender, its warm-up and its place in the rounds
_MOST_FIRST_CALLS_S = 120.0  # of a group; beyond, they are charged like all else


class GroupBudget:
    """The seconds of a group, from now on.

    What its first calls take longer than later ones (compilers, tuning) stands in an account of
    its own: it takes no samples from the group. The run has it all the same, since what a group
    takes too long is missing in the shares of those that follow.
    """

    def __init__(self, budget_s: float) -> None:
        """Begin now."""
        self._budget_s, self._begin = budget_s, time.perf_counter()
        self._reserved_s = self.first_calls_s = 0.0

    def left_s(self) -> float:
        """What is left for timing."""
        excused_s = min(self.first_calls_s, _MOST_FIRST_CALLS_S)
        return self._budget_s + excused_s - (time.perf_counter() - self._begin)

    def excuse(self, first_call_s: float, call_s: float) -> None:
        """Put what a first call took longer than a later one on the other account."""
        self.first_calls_s += max(0.0, first_call_s - call_s)

    @contextmanager
    def excusing_failures(self) -> Iterator[None]:
        """Put all that a block takes on the other account, if it raises: it may be a compiler's.

        What is ended on purpose (too slow, or wrong) is no compiler's doing.
        """
        began = time.perf_counter()
        try:
            yield
        except Ended:
            raise
        except Exception:
            self.excuse(time.perf_counter() - began, 0.0)
            raise

    def expect(self, call_s: float, *, at_least: bool = False) -> None:
        """Skip what can no longer be checked and timed.

        Args:
            call_s: what a call takes.
            at_least: whether it may take longer, which the sentence then says.

        Raises:
            Ended: as `skipped`.
        """
        if not self._has_share(call_s):
            count, least = _calls(call_s), "at least " if at_least else ""
            raise Ended(
                "skipped",
                f"{count} calls of {least}{call_s:.2g} s do not fit into the group's "
                f"{self._budget_s:.0f} s: --retry skipped with a larger --budget does it",
            )
        self.expect_time(_timing_s(call_s))

    def expect_time(self, needed_s: float) -> None:
        """Skip what needs more than is left, whoever used the rest, or has it reserved.

        Raises:
            Ended: as `skipped`.
        """
        if self._free_s() < needed_s:
            raise Ended(
                "skipped",
                f"what is left of the group's {self._budget_s:.0f} s is too short for it: "
                "--retry skipped with a larger --budget does it",
            )

    def fits(self, call_s: float) -> bool:
        """Whether what takes so long a call would not be skipped."""
        return self._has_share(call_s) and self.has_room(call_s)

    def has_room(self, call_s: float) -> bool:
        """Whether there is time for one more beside those for whom it is kept."""
        return self._free_s() >= _timing_s(call_s)

    def reserve(self, call_s: float) -> None:
        """Keep the time that a contender will take at least.

        Raises:
            Ended: as `skipped`, where it is too slow for this group.
        """
        if not self._has_share(call_s):
            self.expect(call_s)
        self._reserved_s += _timing_s(call_s)

    def _free_s(self) -> float:
        return self.left_s() - self._reserved_s

    def _has_share(self, call_s: float) -> bool:
        return _timing_s(call_s) <= _LARGEST_SHARE * self._budget_s


def _calls(call_s: float) -> int:
    return _LEAST_CALLS if call_s < LONG_S else LEAST_LONG_CALLS


def _timing_s(call_s: float) -> float:
    return _LEAST_TIMING_S + _calls(call_s) * call_s
