"""Where the time of a run goes, by what was announced to be done."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

MEASURING: Final = ("time", "fidelity")  # the steps that a run is for
_NAMES = {
    "time": "timing",
    "fidelity": "fidelity",
    "first": "first calls",
    "check": "checks and sizes",
    "inputs": "inputs",
    "ceilings": "ceilings",
    "compile": "compiling ahead",
    "else": "starting and the rest",
}


class Spent:
    """Seconds by step, of one place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has begun."""
        self._clock, self._what, self._since = clock, "", 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def turn_to(self, what: str) -> None:
        """Something else is done from now on; nothing that is counted if it is the empty word."""
        now = self._clock()
        if self._what:
            self.seconds[self._what] += now - self._since
        self._what, self._since = what, now


def total(places: Iterable[Spent], elapsed_s: float) -> dict[str, float]:
    """The seconds of all places by step, with what is left of `elapsed_s` of each as `else`."""
    found: defaultdict[str, float] = defaultdict(float)
    count = 0
    for one in places:
        one.turn_to("")
        for what, seconds in one.seconds.items():
            found[what] += seconds
        count += 1
    left_s = count * elapsed_s - sum(found.values())
    return {**{what: round(s, 3) for what, s in found.items()}, "else": round(max(0.0, left_s), 3)}


def in_words(seconds: Mapping[str, float]) -> str:
    """Such as "531 s, 74 % of them measuring: timing 301, fidelity 92, checks and sizes 80"."""
    whole = sum(seconds.values())
    share = sum(seconds.get(what, 0.0) for what in MEASURING) / whole if whole else 0.0
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    told = ", ".join(f"{_NAMES.get(what, what)} {s:.0f}" for what, s in parts if s >= 0.5)
    return f"{whole:.0f} s, {share:.0%} of them measuring ({told})".replace("%", " %")
