"""How long calls took, and what that says of a longer or a heavier one before it is tried."""

import math
from dataclasses import replace
from typing import Any

from attnbench.case import CostCase
from patterns import PATTERNS
from patterns.base import Implementation
from patterns.grammar import parse

# What a pass does beside its own; a backward pass alone may be quicker than a forward one.
_PARTS = {"fwd": ("fwd",), "bwd": ("bwd",), "fwdbwd": ("fwd", "bwd", "fwdbwd")}
_TOLD_S = 0.1  # shorter calls may be spent on launches, and say nothing of longer ones


def quadratic(case: CostCase) -> bool:
    """Whether the time of its pattern grows with the square of the length."""
    known = PATTERNS.get(parse(case.pattern)[0])
    return known is not None and known.quadratic


class CallTimes:
    """The seconds of the calls of one process, by what ran; the shortest of each length."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seconds: dict[Any, dict[int, float]] = {}  # by what ran and pass -> length -> s

    def add(self, case: CostCase, implementation: Implementation, call_s: float) -> None:
        """Keep what calls that compiled nothing took: the quickest of two at least."""
        lengths = self._seconds.setdefault(_what(case, implementation, case.pass_), {})
        lengths[case.length] = min(call_s, lengths.get(case.length, math.inf))

    def least_s(self, case: CostCase, implementation: Implementation) -> float:
        """What a call of this case takes at least, as far as shorter and lighter ones tell.

        Time grows with the length, or its square, from the longest one on that is known; more
        slowly where it grew more slowly up to there, as that of launches does.
        """
        power = 2.0 if quadratic(case) else 1.0
        found = 0.0
        for part in _PARTS[case.pass_]:
            lengths = self._seconds.get(_what(case, implementation, part), {})
            known = sorted(length for length in lengths if length <= case.length)
            if not known or lengths[known[-1]] < _TOLD_S:
                continue
            longest = known[-1]
            seen = min([power, *(_growth(lengths, one, longest) for one in known[-2:-1])])
            found = max(found, lengths[longest] * (case.length / longest) ** seen)
        return found


def _growth(lengths: dict[int, float], short: int, long: int) -> float:
    """The power of the length with which time grew between two."""
    return max(0.0, math.log(lengths[long] / lengths[short]) / math.log(long / short))


def _what(case: CostCase, implementation: Implementation, pass_: str) -> tuple[Any, ...]:
    """All that decides what a call takes, its length aside; not what was asked, but what ran."""
    same = replace(case, pattern="", backend="", length=0, pass_="fwd", seed=0)
    return same, implementation, pass_
