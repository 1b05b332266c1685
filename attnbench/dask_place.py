"""A Dask worker as a place to measure in: its process looks like one of this machine.

When the worker is lost, the group in flight goes to another one, and this place to a new worker
where there is one. A case that was under way when two workers were lost is taken for the cause.
"""

import queue
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from attnbench import dask_worker
from attnbench.case import AnyCase, Group, case_key
from attnbench.child import AnyJob, Setup
from attnbench.isolated import STARTING_S, Isolated, ended_by, step_of
from attnbench.measure import MAPS, kept
from attnbench.outcome import DeviceLost, Origin, record
from attnbench.spread import Record, without
from attnbench.steps import Step
from attnbench.turns import PlaceLost
from attnbench.worker import Broken

_LOOK_S = 1.0  # how often it looks whether a silent worker is still there
_LOSSES = 2  # workers that a case may be under way on when they are lost


class WorkerLost(RuntimeError):
    """The Dask worker is gone."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A Dask client, as far as places need it."""

    client: Any
    scheduler: str

    def there(self) -> set[str]:
        """The addresses of the workers that are there now.

        Raises:
            DeviceLost: the scheduler does not answer.
        """
        try:
            return {*self.client.nthreads()}
        except (OSError, RuntimeError, TimeoutError) as error:
            raise DeviceLost(
                f"the Dask scheduler at {self.scheduler} is gone ({type(error).__name__}): the "
                "same command goes on, once it is there again"
            ) from None

    def submit(self, address: str, order: dask_worker.Order, *, gpu: bool) -> Any:
        """Have a worker do something in its one thread."""
        return self.client.submit(
            dask_worker.serve,
            order,
            key=f"{order.token}-{uuid.uuid4().hex}",
            workers=[address],
            allow_other_workers=False,
            resources={"GPU": 1} if gpu else None,
            retries=0,
            pure=False,
        )

    def call(self, address: str, function: Callable[..., Any], *values: Any) -> Any:
        """What a function returns that runs beside a worker's thread.

        Raises:
            WorkerLost: the worker is gone.
        """
        try:
            return self.client.run(function, *values, workers=[address])[address]
        except (OSError, KeyError, TimeoutError):
            raise WorkerLost(f"the Dask worker at {address} does not answer") from None


class RemoteWorker:
    """A worker process on another machine; see `attnbench.worker.Worker`."""

    def __init__(
        self, link: Link, address: str, setup: Setup, timeout_s: float, *, gpu: bool
    ) -> None:
        """Have it started, and do not wait for it."""
        self._link, self._address, self._setup, self._gpu = link, address, setup, gpu
        self._timeout_s, self._closed = timeout_s, False
        self._token = f"attnbench-{uuid.uuid4().hex}"
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.step: Step | None = None  # the last one it spoke of
        link.client.subscribe_topic(self._token, lambda event: self._inbox.put(event[1]))
        self._tasks = [self._order(None)]  # one that is dropped before its end counts as cancelled

    def send(self, job: AnyJob) -> None:
        """Ask for something."""
        self.step = None
        self._tasks.append(self._order(job))

    def receive(self, timeout_s: float) -> dict[str, Any] | Broken:
        """What it says next; its own machine looks after the timeout.

        Raises:
            WorkerLost: its Dask worker is gone.
            DeviceLost: the scheduler is, or the task failed.
            CannotWrite: the run folder takes no map.
        """
        message = self._next()
        if "broken" in message:
            return Broken(**message["broken"])
        if "step" in message:
            self.step = step_of(message["step"])
        if name := message.get("map"):
            content = self._link.call(self._address, dask_worker.take_map, self._token, name)
            kept(self._setup.run / MAPS / name, lambda part: part.write_bytes(content))
        return message

    def close(self) -> None:
        """End it, if it is still there."""
        self._closed = True
        with suppress(Exception):  # whatever a client says that has no scheduler any more
            self._link.client.unsubscribe_topic(self._token)
            for task in self._tasks:
                task.cancel()
            if self._address in self._link.there():
                self._link.call(self._address, dask_worker.end, self._token)

    def _order(self, job: AnyJob | None) -> Any:
        order = dask_worker.Order(
            token=self._token,
            setup=self._setup,
            job=job,
            timeout_s=self._timeout_s,
            starting_s=STARTING_S,
        )
        return self._link.submit(self._address, order, gpu=self._gpu)

    def _next(self) -> dict[str, Any]:
        while True:
            with suppress(queue.Empty):
                return self._inbox.get(timeout=_LOOK_S)
            if self._closed:
                raise DeviceLost("the run is over")
            if self._address not in self._link.there():
                raise WorkerLost(f"the Dask worker at {self._address} is gone")
            task = self._tasks[-1]
            if task.status == "error":
                error = task.exception()
                raise DeviceLost(f"a Dask task failed: {type(error).__name__}: {error}")
            if task.status == "cancelled":
                raise DeviceLost("somebody cancelled a Dask task: the same command goes on")


@dataclass(kw_only=True)
class Seat:
    """One place of a cluster, whichever Dask worker it has."""

    address: str
    start: Callable[[str], RemoteWorker]
    timeout_s: float
    other: Callable[["Seat"], bool]  # gives it another worker, if there is a free one
    losses: Counter[str]  # case key or group -> workers lost over it; of all seats
    origin: Origin | None = None
    worker: RemoteWorker | None = field(default=None, init=False)
    isolated: Isolated = field(init=False)

    def __post_init__(self) -> None:
        """Have a process started."""
        self.sit(self.address)

    def sit(self, address: str) -> None:
        """Have a process started at a worker, and do not wait for it."""
        self.address = address

        def start(_machine: str | None) -> RemoteWorker:
            self.worker = self.start(address)
            return self.worker

        self.isolated = Isolated(start, self.timeout_s)

    def wait(self) -> dict[str, Any]:
        """The facts of its machine; see `Isolated.wait`."""
        try:
            return self.isolated.wait()
        except WorkerLost as lost:
            raise DeviceLost(str(lost)) from None

    def belongs_to(self, origin: Origin) -> None:
        """Say what records are to say of themselves."""
        self.origin = origin
        self.isolated.belongs_to(origin)

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        """See `Isolated.ceilings`."""
        try:
            return self.isolated.ceilings(dtypes)
        except WorkerLost as lost:
            raise DeviceLost(str(lost)) from None

    def finish(self) -> None:
        """End the process for good."""
        self.isolated.finish()

    def __call__(self, group: Group, todo: Sequence[AnyCase], budget_s: float) -> Iterator[Record]:
        """See `Isolated`.

        Raises:
            PlaceLost: the worker is gone, with what is left to do.
        """
        left = {case_key(case): case for case in todo}
        try:
            for found in self.isolated(group, todo, budget_s):
                left.pop(found["case_key"], None)
                yield found
        except WorkerLost as lost:
            said = str(lost)
        else:
            return
        step = (self.worker and self.worker.step) or Step(what="inputs")
        suspect = step.case_key or group.id
        keys = {step.case_key} if step.case_key else {*left}
        self.losses[suspect] += 1
        if self.losses[suspect] == _LOSSES:
            yield from self._given_up(step, group, [left.pop(key) for key in keys & left.keys()])
            group = without(group, keys) if left else group
        raise PlaceLost(
            said, (group, tuple(left.values())) if left else None, lambda: self.other(self)
        )

    def _given_up(self, step: Step, group: Group, cases: Sequence[AnyCase]) -> Iterator[Record]:
        assert self.origin is not None, "belongs_to comes first"
        how = f"was lost with its Dask worker, {_LOSSES} times,"
        ended = ended_by(Broken(status="crashed", how=how, output=""), step)
        for case in cases:
            role = group.role(case)
            yield record(case, self.origin, role=role, ended=ended)
