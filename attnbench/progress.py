"""What is said while a run goes on: a bar where a person watches, else one plain line a case."""

import math
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from attnbench.guards import fired


class Progress:
    """Tells of records as they come; a bar on a terminal."""

    def __init__(self, cases: int, stream: TextIO | None = None) -> None:
        """Prepare to count so many cases."""
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(total=cases, file=self._stream, unit="case", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Say something that is no record."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def group(self, name: str) -> None:
        """Say what is being measured now."""
        if self._bar is not None:
            self._bar.set_description_str(name)

    def record(self, record: Mapping[str, Any]) -> None:
        """Tell of a record; a bar tells only of what went wrong."""
        if self._bar is None:
            self.say(line(record))
            return
        self._bar.update()
        if record["status"] in ("wrong", "crashed", "timeout"):
            self.say(line(record))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


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
