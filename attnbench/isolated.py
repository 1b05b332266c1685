"""A device's worker, kept going: what breaks it gets a record, and the group is done without it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from attnbench.case import AnyCase, Group, case_key
from attnbench.child import AnyJob, CeilingsJob, Job
from attnbench.outcome import CannotWrite, DeviceLost, Ended, Origin, record
from attnbench.spent import Spent
from attnbench.steps import Step
from attnbench.worker import Broken
from patterns.base import Implementation
from patterns.errors import BadInput

STARTING_S = 300.0  # to import PyTorch and to look at the machine, which may be busy
_BLAMELESS = 2  # deaths in a row, before a case began, until a group is given up
_FATAL = "Fatal Python error:"  # faulthandler's first line
_DOING = {
    "first": "while it was called for the first time",
    "check": "while it was checked and sized",
    "time": "while it was timed",
    "fidelity": "while it was judged",
}

Record = dict[str, Any]


class Process(Protocol):
    """A worker process, here or elsewhere; see `attnbench.worker.Worker`."""

    def send(self, job: AnyJob) -> None:
        """Ask for something."""

    def receive(self, timeout_s: float) -> dict[str, Any] | Broken:
        """What it says next, or how it ended."""

    def close(self) -> None:
        """End it."""


Start = Callable[[str | None], Process]
"""Starts a worker; the machine's key, or None where the worker is to find it out."""


class Isolated:
    """Measures groups in a process of its own, which is replaced when a case breaks it."""

    def __init__(self, start: Start, timeout_s: float) -> None:
        """Start the first process; `wait` waits until it is up.

        Args:
            start: what makes a process.
            timeout_s: after so long without a sign of life a case has hung.
        """
        self._start, self._timeout_s = start, timeout_s
        self._worker: Process | None = start(None)
        self._origin: Origin | None = None
        self._up = self._finished = False
        self.spent = Spent()

    def wait(self) -> dict[str, Any]:
        """The facts of the machine, as the process sees it.

        Raises:
            BadInput: the process cannot use what it finds.
            DeviceLost: the process does not come up.
        """
        found: dict[str, Any] = self._hello()
        return found

    def belongs_to(self, origin: Origin) -> None:
        """Say what the records of broken cases are to say of themselves."""
        self._origin = origin

    def ceilings(self, dtypes: tuple[str, ...]) -> dict[str, Any]:
        """What the device can do at most, as the process measures it.

        Raises:
            DeviceLost: the process ended over it.
        """
        worker = self._ready()
        self.spent.turn_to("ceilings")
        worker.send(CeilingsJob(dtypes=dtypes))
        message = worker.receive(STARTING_S)
        self.spent.turn_to("")
        if isinstance(message, Broken):
            self.close()
            raise DeviceLost(
                f"a worker process {message.how} while the device's ceilings were taken"
            )
        found: dict[str, Any] = message["ceilings"]
        return found

    def __call__(self, group: Group, todo: Sequence[AnyCase], budget_s: float) -> Iterator[Record]:
        """The records of the cases of `todo`, as they are known.

        Raises:
            DeviceLost: no process comes up any more.
            CannotWrite: the run folder takes no more.
        """
        left = {case_key(case): case for case in todo}
        lost: dict[str, Ended] = {}
        blameless = 0
        while left and not self._finished:
            attempt = _Attempt()
            job = Job(
                group=group,
                todo=tuple(left.values()),
                budget_s=budget_s,
                lost=lost,
                ceilings=self._expected().ceilings,
            )
            for found in self._attempt(job, attempt):
                left.pop(found["case_key"], None)
                yield found
            if attempt.done or self._finished:
                return
            step, ended = attempt.step, attempt.ended
            blameless = blameless + 1 if step.case_key is None else 0
            if step.case_key is not None:
                lost[step.name] = lost[step.case_key] = ended
                # Its record may be known already, or nobody asked for one.
                culprits = [left.pop(step.case_key)] if step.case_key in left else []
            else:
                culprits = [*left.values()] if blameless == _BLAMELESS else []
                left = {} if culprits else left
            for case in culprits:
                yield self._record(case, group, ended)

    def _attempt(self, job: Job, attempt: "_Attempt") -> Iterator[Record]:
        """Have a group measured once; `attempt` then tells how that went."""
        worker = self._ready()
        worker.send(job)
        try:
            while not attempt.over:
                message = worker.receive(self._timeout_s)
                if isinstance(message, Broken):
                    attempt.broke(message)
                elif "step" in message:
                    attempt.step = step_of(message["step"])
                    self.spent.turn_to(attempt.step.what)
                elif "record" in message:
                    attempt.last = message["record"]
                    yield message["record"]
                elif "gone" in message:
                    attempt.lost_device(message["gone"])
                elif "refused" in message:
                    raise CannotWrite(message["refused"])
                else:
                    attempt.done = True
        finally:
            self.spent.turn_to("")
            if not attempt.done:  # also where nobody wants the rest of the records
                self.close()

    def close(self) -> None:
        """End the process; the next group gets a new one."""
        worker, self._worker, self._up = self._worker, None, False
        if worker is not None:
            worker.close()

    def finish(self) -> None:
        """End the process for good, also while another thread waits for it."""
        self._finished = True
        self.close()

    def _ready(self) -> Process:
        if self._worker is None:
            self._worker = self._start(self._expected().machine)
        worker = self._worker
        if not self._up:
            self._hello()
        return worker

    def _hello(self) -> Any:
        worker = self._worker
        assert worker is not None
        message = worker.receive(STARTING_S)
        if isinstance(message, Broken):
            self._worker = None
            said = telling(message.output)
            raise DeviceLost(f"a worker process did not start: it {message.how}. {said}".strip())
        if "refused" in message:
            self.close()
            raise BadInput(message["refused"])
        self._up = True
        return message["hello"]

    def _record(self, case: AnyCase, group: Group, ended: Ended) -> Record:
        role = group.role(case)
        return record(case, self._expected(), role=role, ended=ended)

    def _expected(self) -> Origin:
        assert self._origin is not None, "belongs_to comes first"
        return self._origin


@dataclass(kw_only=True)
class _Attempt:
    """How far a group came, and how that ended."""

    step: Step = field(default_factory=lambda: Step(what="inputs"))
    last: Record | None = None
    done: bool = False
    failed: Ended | None = None

    @property
    def over(self) -> bool:
        return self.done or self.failed is not None

    @property
    def ended(self) -> Ended:
        assert self.failed is not None
        return self.failed

    def broke(self, broken: Broken) -> None:
        self.failed = ended_by(broken, self.step)

    def lost_device(self, said: str) -> None:
        """The last record is that of the case that broke the device."""
        if self.last is not None and self.last["status"] != "ok":
            self.failed = Ended(self.last["status"], self.last["reason"], self.last["guards"])
            if self.last["case_key"] != self.step.case_key:
                key = self.last["case_key"]
                self.step = Step(what=self.step.what, name=key, case_key=key)
        else:
            self.failed = Ended("crashed", said)
        self.failed.implementation = self.step.implementation


def telling(output: str) -> str:
    """The line that says why a process ended: the last one, or what stands before a C trace."""
    lines = [line for line in output.splitlines() if line.strip()]
    fatal = next((n for n, line in enumerate(lines) if line.startswith(_FATAL)), None)
    if fatal is not None:
        return lines[max(0, fatal - 1)]
    return lines[-1] if lines else ""


def step_of(document: Mapping[str, Any]) -> Step:
    """A step as a message has it."""
    ran = document["implementation"]
    return Step(**{**document, "implementation": ran and Implementation(**ran)})


def ended_by(broken: Broken, step: Step) -> Ended:
    """How the case of a step ended, whose process did."""
    doing = _DOING.get(step.what, "while its inputs were made, before any case began")
    ended = Ended(
        broken.status,
        f"its process {broken.how} {doing}",
        {"process": {"how": broken.how, "while": step.what, "output": broken.output}},
    )
    ended.implementation = step.implementation
    return ended
