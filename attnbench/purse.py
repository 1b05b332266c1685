"""The time that a run may take, shared out over its groups by what they are expected to take."""

import threading
import time
from collections.abc import Sequence

from attnbench.call_times import quadratic
from attnbench.case import AnyCase, CostCase
from attnbench.turns import Todo

_SECONDS = {  # that checking and timing a case took, and what each token added; seen on one machine
    "cpu": {"fwd": (0.4, 5e-4), "bwd": (0.6, 1e-3), "fwdbwd": (0.6, 1e-3), "fidelity": (0.2, 5e-4)},
    "cuda": {
        "fwd": (0.8, 1.2e-5),
        "bwd": (1.0, 3e-5),
        "fwdbwd": (1.0, 3e-5),
        "fidelity": (1.0, 2e-5),
    },
}
# What a pair of tokens adds for 16 heads of 64 on CUDA where all pairs are scored: 25 calls.
_PAIR_S = {"fwd": 1.1e-10, "bwd": 3e-10, "fwdbwd": 4e-10}


class Purse:
    """The seconds of all places, as those of one; what a group does not use goes back.

    Several places have so much less time each: near its end a group gets no more than its own
    share of the whole, however much is left, because the others would wait for it.
    """

    def __init__(self, groups: Sequence[Todo], budget_s: float, places: int = 1) -> None:
        """Begin now."""
        now = time.perf_counter()
        self._left_s, self._end = budget_s, now + budget_s
        self._even_end = now + budget_s / places
        self._weight = self._whole = sum(weight(cases) for _, cases in groups)
        self._budget_s = budget_s
        self._taken: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, cases: Sequence[AnyCase]) -> float:
        """The seconds that are for these cases: 0 or less where all are spent."""
        with self._lock:
            now, own = time.perf_counter(), weight(cases)
            first_s = self._budget_s * own / self._whole
            most_s = min(max(self._even_end - now, first_s), self._end - now)
            share_s = min(self._left_s * own / self._weight, most_s)
            self._weight -= own
            self._left_s -= share_s
            self._taken[id(cases)] = now, share_s
            return share_s

    def ask_again(self, cases: Sequence[AnyCase]) -> None:
        """Let these cases, which took their share in vain, have one again."""
        with self._lock:
            self._weight += weight(cases)

    def give_back(self, cases: Sequence[AnyCase]) -> None:
        """Settle what they have really used."""
        with self._lock:
            began, share_s = self._taken.pop(id(cases))
            self._left_s += share_s - (time.perf_counter() - began)


def weight(cases: Sequence[AnyCase]) -> float:
    """A group's share of the time: roughly the seconds that its cases take."""
    return sum(map(_weight, cases))


def _weight(case: AnyCase) -> float:
    if not isinstance(case, CostCase):
        base, per_token = _SECONDS[case.device]["fidelity"]
        return base + per_token * case.length
    base, per_token = _SECONDS[case.device][case.pass_]
    found = base + per_token * case.length
    if case.device == "cuda" and quadratic(case):
        size = case.batch * case.heads * case.dim / 1024
        found += _PAIR_S[case.pass_] * size * case.length**2
    return found
