"""The workers of a Dask cluster, each with a device of its own, in place of this machine's.

Only `connect` imports Dask, an extra: ``pip install attnbench[dask]``.
"""

import gc
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnbench import dask_worker
from attnbench.child import Setup
from attnbench.dask_place import Link, RemoteWorker, Seat
from attnbench.dask_worker import Report
from attnbench.machine import machine_id
from attnbench.outcome import Origin
from attnbench.places import ceilings_of_all, facts_of_all
from attnbench.spent import Spent
from attnbench.version import same_code, version
from patterns.errors import BadInput

_CONNECTING_S = 10.0
_COMING_S = 600.0  # until the workers that were asked for are there
_LOOK_S = 0.5
_PATIENCE_S = 15.0  # for a first worker where no number was asked for

Reports = Mapping[str, Report]  # by address


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Where a cluster is, and how many workers to wait for; None: one, and take those there are."""

    address: str
    workers: int | None = None


def connect(scheduler: Scheduler) -> Link:
    """Find the cluster; whoever gets the link closes its client.

    Raises:
        BadInput: Dask is not installed here, or nothing answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise BadInput("--engine dask needs Dask: pip install 'attnbench[dask]'") from None
    typed_client: Any = Client  # its constructor has no types
    client = None
    with suppress(OSError, ValueError, TimeoutError):
        client = typed_client(scheduler.address, timeout=_CONNECTING_S, set_as_default=False)
    if client is None:
        gc.collect()  # one that never began must not end while another begins: that would hang
        raise BadInput(
            f"no Dask scheduler answers at {scheduler.address!r}: expected an address such as "
            "tcp://host:8786, as `python -m dask scheduler` says it"
        )
    return Link(client=client, scheduler=scheduler.address)


def device_of(scheduler: Scheduler, asked: str | None) -> str:
    """The device that was asked for, or the best that the workers have.

    Raises:
        BadInput: no such cluster, or no worker with that device.
    """
    link = connect(scheduler)
    try:
        there = [*reports(link, scheduler.workers).values()]
    finally:
        link.client.close()
    found = "cuda" if any(one.cuda for one in there) else "cpu"
    if asked == "cuda" and found != asked:
        raise BadInput("--device cuda: no worker of the cluster sees a CUDA device")
    return asked or found


def reports(link: Link, count: int | None, plugins: Sequence[Path] = ()) -> Reports:
    """What the workers say of themselves, once so many are there.

    Raises:
        BadInput: too few came, or one cannot be used; see `expect_usable`.
    """
    wanted, patience_s = count or 1, _COMING_S if count else _PATIENCE_S
    end = time.monotonic() + patience_s
    while len(link.there()) < wanted:
        if time.monotonic() > end:
            there = len(link.there())
            raise BadInput(
                f"the Dask cluster at {link.scheduler} has {there} workers after "
                f"{patience_s:.0f} s, and {wanted} are needed: start them with "
                f"`python -m dask worker {link.scheduler} --nthreads 1`"
            )
        time.sleep(_LOOK_S)
    found = link.client.run(dask_worker.report, [*plugins], on_error="return")
    for address, one in found.items():
        expect_usable(address, one, version(*plugins))
    return dict(found)


def expect_usable(address: str, found: "Report | Exception", ours: str) -> None:
    """Refuse a worker that would measure something else, or two things at once.

    Raises:
        BadInput: it has no attnbench, other code, or more than one thread.
    """
    if isinstance(found, Exception):
        raise BadInput(
            f"the Dask worker at {address} cannot load attnbench "
            f"({type(found).__name__}: {str(found).partition(chr(10))[0]}): install the same "
            "there, or start it in the checkout with `python -m dask worker`"
        )
    name = f"the Dask worker {found.name} on {found.host}"
    if found.version is None:
        raise BadInput(f"{name} lacks the plugin {found.missing}: put it there under the same path")
    if not same_code(found.version, ours):
        raise BadInput(
            f"{name} has code {found.version}, and this is {ours}: install the same there, and "
            "start it again"
        )
    if found.threads != 1:
        raise BadInput(
            f"{name} has {found.threads} threads, which would measure side by side: start it with "
            "--nthreads 1"
        )


def usable(found: Reports, device: str) -> Reports:
    """The workers that have the device.

    Raises:
        BadInput: none has, torch differs, or two would share a GPU.
    """
    chosen = {address: one for address, one in found.items() if one.cuda or device == "cpu"}
    if not chosen:
        raise BadInput(f"--device {device}: no worker of the cluster sees a CUDA device")
    if len(torches := sorted({one.torch for one in chosen.values()})) > 1:
        raise BadInput(
            f"the workers of the cluster have torch {' and '.join(torches)}: install the same in "
            "all of them"
        )
    owners: dict[str, Report] = {}
    for one in chosen.values() if device == "cuda" else ():
        if one.gpu is None:
            continue
        if other := owners.get(one.gpu):
            raise BadInput(
                f"the Dask workers {other.name} and {one.name} on {one.host} would share a GPU: "
                "start each with a CUDA_VISIBLE_DEVICES of its own"
            )
        owners[one.gpu] = one
    return chosen


class Cluster:
    """The workers of a cluster; see `attnbench.places.Crew`, which has those of this machine."""

    def __init__(self, scheduler: Scheduler, setup: Setup, timeout_s: float) -> None:
        """Have a process started at each worker, and do not wait for them.

        Args:
            scheduler: of the cluster.
            setup: what all processes are told; `machine` is None.
            timeout_s: after so long without a sign of life a case has hung.

        Raises:
            BadInput: no such cluster, or workers that cannot be used.
        """
        self._setup, self._timeout_s = setup, timeout_s
        self._link = connect(scheduler)
        try:
            self._found = dict(
                usable(reports(self._link, scheduler.workers, setup.plugins), setup.device)
            )
        except BaseException:
            self._link.client.close()
            raise
        self._moving, self._refused = threading.Lock(), set[str]()
        losses: Counter[str] = Counter()
        self.members = [
            Seat(
                address=address,
                start=self._start,
                timeout_s=timeout_s,
                other=self._move,
                losses=losses,
            )
            for address in self._found
        ]

    def __enter__(self) -> "Cluster":
        """Nothing is left to do: the processes have been started."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; the cluster stays."""
        for member in self.members:
            with suppress(OSError):
                member.finish()
        self._link.client.close()

    def facts(self) -> dict[str, Any]:
        """See `Crew.facts`."""
        return facts_of_all([member.wait() for member in self.members])

    def belongs_to(self, origin: Origin) -> None:
        """See `Crew.belongs_to`."""
        for member in self.members:
            member.belongs_to(origin)

    @property
    def spent(self) -> list[Spent]:
        """See `Crew.spent`."""
        return [member.isolated.spent for member in self.members]

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        """See `Crew.ceilings`."""
        apart = self._setup.device == "cuda"
        return ceilings_of_all(self.members if apart else self.members[:1], dtypes)

    def _start(self, address: str) -> RemoteWorker:
        own = self._found[address]
        beside = sum(one.host == own.host for one in self._found.values())
        return RemoteWorker(
            self._link,
            address,
            replace(self._setup, memory_share=1 / beside),
            self._timeout_s,
            gpu=own.gpu_share,
        )

    def _move(self, seat: Seat) -> bool:
        """Give a seat a worker that nobody has; whether there is one."""
        with self._moving:
            taken = {one.address for one in self.members if one is not seat} | self._refused
            return any(self._takes(seat, one) for one in sorted(self._link.there() - taken))

    def _takes(self, seat: Seat, address: str) -> bool:
        """Have a seat take this worker, if that measures the same as the lost one would have."""
        with suppress(Exception):  # whatever is wrong with it, another one may do
            found = self._link.call(address, dask_worker.report, [*self._setup.plugins])
            expect_usable(address, found, self._setup.version)
            others = {one.address for one in self.members if one is not seat}
            beside = {one: self._found[one] for one in others & self._found.keys()}
            usable({**beside, address: found}, self._setup.device)
            self._found[address] = found
            seat.sit(address)
            if seat.origin and machine_id(seat.wait()) == seat.origin.machine:
                seat.belongs_to(seat.origin)
                return True
            seat.finish()
        self._refused.add(address)
        return False
