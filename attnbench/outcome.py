"""How a case ends: its status with a sentence of reason, and the record that says so."""

import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attnbench.case import AnyCase, Status, as_dict, case_key
from attnbench.fidelity import WrongResult
from attnbench.matrix import shape_of
from patterns import pattern as one_pattern
from patterns.base import Implementation
from patterns.errors import BadInput, Unsupported

_LONGEST_REASON = 300
_NO_KERNEL = "No available kernel"  # a pinned SDPA backend that refuses these inputs
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Ended(Exception):
    """A case that ends here, without numbers; what would have run is added where it is known."""

    def __init__(
        self, status: Status, reason: str, guards: Mapping[str, Any] | None = None
    ) -> None:
        """Keep the status, the sentence, and what a check saw."""
        super().__init__(reason)
        self.status, self.reason, self.guards = status, reason, guards
        self.implementation: Implementation | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes whole."""
        state = {"implementation": self.implementation}
        return Ended, (self.status, self.reason, self.guards), state


class CannotWrite(BadInput):
    """The run folder takes no more: that ends the run, not the case."""


class DeviceLost(RuntimeError):
    """The GPU's context is gone: nothing more can be measured in this process."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What every record says of where it comes from."""

    version: str
    machine: str
    ceilings: Mapping[str, Any] | None = None


def ending(error: Exception, needed: str = "") -> Ended:
    """The status and the reason of an exception that a measurement raised.

    Args:
        error: whatever came.
        needed: what was predicted, to be said where memory ran out.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Ended):
        return error
    if isinstance(error, Unsupported | BadInput) or _NO_KERNEL in text:
        return Ended("unsupported", text)
    if isinstance(error, WrongResult):
        return Ended("wrong", text)
    small = text.lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in small for part in _OUT_OF_MEMORY)
    ):
        short = ". ".join(text.split(". ")[:2]).rstrip(".")
        return Ended("oom", f"{needed}{short}"[:_LONGEST_REASON])
    frames = traceback.extract_tb(error.__traceback__)
    if error.__cause__ is not None:
        text += f", because {str(error.__cause__).strip().partition(chr(10))[0]}"
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    room = _LONGEST_REASON - len(where) - len(type(error).__name__) - 2
    return Ended("crashed", f"{type(error).__name__}: {text[:room]}{where}")


def record(
    case: AnyCase,
    origin: Origin,
    *,
    role: str,
    ended: Ended | None = None,
    implementation: Implementation | None = None,
    time: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    fidelity: Mapping[str, Any] | None = None,
    guards: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a case that has numbers, or of one that ended; docs/records.md describes it.

    Args:
        case: what was measured.
        origin: the code and the machine.
        role: `asked` or `comparison`.
        ended: how it ended, if it has no numbers; it says what would have run.
        implementation: what ran; so do the others say what was measured.
        time: docs/records.md, like the rest.
        memory: of a cost case.
        fidelity: of a fidelity case.
        guards: name -> what was checked.
    """
    if ended is not None:
        implementation, guards = ended.implementation, ended.guards
    return {
        "kind": case.kind,
        "case_key": case_key(case),
        "group": case.group,
        "role": role,
        "case": as_dict(case),
        "status": "ok" if ended is None else ended.status,
        "reason": None if ended is None else ended.reason,
        "implementation": None if implementation is None else asdict(implementation),
        "time": time,
        "memory": memory,
        "fidelity": fidelity,
        "cost": _cost(case),
        "guards": guards or {},
        "version": origin.version,
        "machine": origin.machine,
    }


def _cost(case: AnyCase) -> dict[str, Any] | None:
    shape = shape_of(case)
    try:
        cost = one_pattern(case.pattern).cost(shape)
    except Exception:  # a pattern that fails even here has said so in its reason
        return None
    return {
        "attended_pairs": cost.attended_pairs,
        "building_pairs": cost.building_pairs,
        "scored_pairs": cost.scored_pairs,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "keys_per_query": cost.attended_pairs / (shape.batch * shape.heads * shape.length),
    }


def confirm_device(device: torch.device) -> None:
    """After an exception: free what it held, and see whether the GPU still answers.

    Raises:
        DeviceLost: it does not.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        raise DeviceLost(
            f"the GPU's context is lost ({text}): the same command again goes on without the case"
        ) from None
