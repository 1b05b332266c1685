"""What is said while a run goes on: a bar where a person watches, else one plain line a case."""

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from attnbench.forecast import Forecast, in_words
from attnbench.guards import fired

_BAD = ("wrong", "crashed", "timeout")
_EVERY_S = 60.0  # at most one line about the time that is left
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """Tells of records as they come; a bar on a terminal."""

    def __init__(
        self,
        cases: int,
        stream: TextIO | None = None,
        *,
        forecast: Forecast | None = None,
        ticking: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to count so many cases.

        Args:
            cases: how many there will be.
            stream: where to; stderr if None.
            forecast: what says how long they will take, if anything does.
            ticking: whether the bar moves while nothing happens; not in a process that measures.
            clock: in seconds.
        """
        self._stream = stream or sys.stderr
        self._forecast, self._clock = forecast, clock
        self._cases, self._done, self._failed = cases, 0, 0
        self._told = clock()
        self._bar: tqdm[Any] | None = None
        self._over = threading.Event()
        if self._stream.isatty():
            self._bar = tqdm(
                total=cases,
                file=self._stream,
                unit="case",
                dynamic_ncols=True,
                bar_format=None if forecast is None else _FORMAT,
            )
            if ticking:
                threading.Thread(target=self._tick, daemon=True).start()

    def say(self, text: str) -> None:
        """Say something that is no record."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def group(self, name: str) -> None:
        """Say what is being measured now."""
        if self._forecast is not None:
            self._forecast.began(name)
        self._refresh()
        self._say_left()

    def record(self, record: Mapping[str, Any]) -> None:
        """Tell of a record; a bar tells only of what went wrong."""
        self._done += 1
        self._failed += record["status"] in _BAD
        if self._forecast is not None:
            measured = record["status"] not in ("skipped", "unsupported")
            self._forecast.ended(record["group"], record["case_key"], measured=measured)
        if self._bar is None or record["status"] in _BAD:
            self.say(line(record))
        if self._bar is not None:
            self._bar.update()
        self._refresh()
        if record["kind"] != "cost":  # those of a group come together, and the next one begins
            self._say_left()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._over.set()
        if self._bar is not None:
            self._bar.close()

    def _refresh(self) -> None:
        if self._bar is None or self._forecast is None:
            return
        first, *others = self._forecast.under_way() or [""]
        self._bar.set_description_str(first + (f" and {len(others)} more" if others else ""), False)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.set_postfix_str(f"{in_words(self._forecast.left_s())} left{failed}")

    def _say_left(self) -> None:
        """Where there is no bar: a line now and then."""
        now = self._clock()
        quiet = self._bar is not None or self._forecast is None or now - self._told < _EVERY_S
        if quiet or not 0 < self._done < self._cases:
            return
        assert self._forecast is not None
        self._told = now
        failed = f", {self._failed} of them failed" if self._failed else ""
        self.say(
            f"{self._done} of {self._cases} cases{failed}: {in_words(self._forecast.left_s())} left"
        )

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            self._refresh()


def line(record: Mapping[str, Any]) -> str:
    """A record in one line."""
    case = record["case"]
    name = f"{case['asked']}@{case['backend']}"
    what = f"{record['group']} {name}"
    if case.get("layer") is not None:
        what += f" layer {case['layer']}"
    if record["status"] != "ok":
        return f"{what}: {record['status']}, {record['reason']}"
    if record["kind"] == "fidelity":
        return f"{what}: output error {record['fidelity']['output_error']['mean']:.4f}"
    if record["kind"] == "evaluation":
        found = record["evaluation"]
        above, loss = found["loss_above_full"]["mean"], found["loss"]["mean"]
        return f"{what}: perplexity {math.exp(loss):.4g}, loss {above:+.4f} to full"
    time = record["time"]
    ratio = time["ratio_to_dense"]
    told = f"{what}: {time['cold_ms']['median']:.4g} ms"
    if ratio is not None:
        told += f", {ratio['median']:.3g}x {ratio['dense']}"
    return told + "".join(f"; {name}: {said}" for name, said in fired(record).items())
