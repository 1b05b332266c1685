"""Where cases run: one worker process for each place, a GPU or some cores of this machine."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from attnbench.ceilings import best_of, rates_of
from attnbench.child import Setup
from attnbench.isolated import Isolated
from attnbench.machine import facts_in_key, machine_id
from attnbench.outcome import Origin
from attnbench.spent import Spent
from attnbench.worker import Worker
from patterns.errors import BadInput

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One worker's share of the machine; `threads` None leaves them to PyTorch."""

    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None


def places(device: str, *, gpus: str | None = None, workers: str | None = None) -> list[Place]:
    """The places that were asked for.

    Args:
        device: cpu or cuda.
        gpus: a number of GPUs or ``all``; one if None.
        workers: a number of processes with one thread each; if None, one with all threads.

    Raises:
        BadInput: no such number, more than there are, or one that is of the other device.
    """
    if gpus is not None and device != "cuda":
        raise BadInput("--gpus needs --device cuda; on the CPU there is --workers")
    if workers is not None and device != "cpu":
        raise BadInput("--workers is for --device cpu; a GPU has one worker, see --gpus")
    if device == "cpu":
        if workers is None:
            return [Place()]
        count = _number(workers, "--workers", os.cpu_count() or 1)
        return [Place(threads=1, environment={"OMP_NUM_THREADS": "1"})] * count
    if gpus is None:
        return [Place()]
    there = _visible()
    count = len(there) if gpus == "all" else _number(gpus, "--gpus", len(there))
    return [Place(environment={_VISIBLE: name}) for name in there[:count]]


class Crew:
    """The workers of all places; they start together."""

    def __init__(self, chosen: Sequence[Place], setup: Setup, timeout_s: float) -> None:
        """Start a process for each place, and do not wait for them.

        Args:
            chosen: the places.
            setup: what all processes are told, but for what is each place's own.
            timeout_s: after so long without a sign of life a case has hung.
        """

        def isolated(place: Place) -> Isolated:
            def start(machine: str | None) -> Worker:
                own = replace(
                    setup, machine=machine, threads=place.threads, memory_share=1 / len(chosen)
                )
                return Worker(own, place.environment)

            return Isolated(start, timeout_s)

        self.members = [isolated(place) for place in chosen]
        self._apart = setup.device == "cuda"  # cores share their memory: one worker has it alone

    def __enter__(self) -> "Crew":
        """Nothing is left to do: the processes have been started."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for member in self.members:
            with suppress(OSError):
                member.finish()

    def facts(self) -> dict[str, Any]:
        """The facts of the machine, once all processes are up.

        Raises:
            BadInput: the places are not all the same.
            DeviceLost: a process does not come up.
        """
        return facts_of_all([member.wait() for member in self.members])

    def belongs_to(self, origin: Origin) -> None:
        """Say what records are to say of themselves."""
        for member in self.members:
            member.belongs_to(origin)

    @property
    def spent(self) -> list[Spent]:
        """Where the time of each place went."""
        return [member.spent for member in self.members]

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        """What a place can do at most: the best of all GPUs, or of the first CPU worker alone.

        Raises:
            DeviceLost: a process ended over it.
        """
        return ceilings_of_all(self.members if self._apart else self.members[:1], dtypes)


def facts_of_all(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of the machine, from all its places.

    Raises:
        BadInput: the places are not all the same.
    """
    if len({machine_id(one) for one in found}) > 1:
        names = facts_in_key(found[0])
        parts = {name: sorted({str(one.get(name)) for one in found}) for name in names}
        differ = [f"{name} {' and '.join(values)}" for name, values in parts.items() if values[1:]]
        raise BadInput(
            f"a run is of one kind of machine, and here are {', '.join(differ)}: choose some that "
            "are alike"
        )
    return found[0]


class HasCeilings(Protocol):
    """A place that can be asked what its device can do at most."""

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        """See `attnbench.ceilings.measured`."""


def ceilings_of_all(members: Sequence[HasCeilings], dtypes: tuple[str, ...]) -> dict[str, Any]:
    """The best of what all places measure, side by side; `places` has each of several."""
    threads = ThreadPoolExecutor(len(members))
    try:
        found: list[dict[str, Any]] = [
            *threads.map(lambda member: member.ceilings(dtypes), members)
        ]
    finally:
        threads.shutdown(wait=False)  # Ctrl-C waits for nobody: their processes are ended next
    if len(found) == 1:
        return found[0]
    return best_of(found) | {"places": [rates_of(one) for one in found]}


def _visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _number(text: str, what: str, most: int) -> int:
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise BadInput(f"{what} expects a number from 1 to {most}, got {text!r}")
    return int(text)
