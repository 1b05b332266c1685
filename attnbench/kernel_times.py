"""`profile`: the kernels that one call launches on a GPU, each with its own time.

PyTorch's profiler reads them from the GPU, one call at a time after a flushed cache. They tell
where the time of a call goes; the time of the call as a whole is that of `run`, which holds what
lies between kernels too.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity

from attnbench.case import CostCase, as_dict
from attnbench.ceilings import BYTES_FACTOR, measured
from attnbench.contender import Chosen, choose, load_inputs, make_call, own_stream
from attnbench.matrix import shape_of
from attnbench.profiling import profiled
from patterns.errors import BadInput
from patterns.kernels import tile_choice

_WARM_UP = 3  # calls, the first of which compiles
_LONGEST_NAME = 60

Launched = Sequence[tuple[str, float]]
"""Name and milliseconds of each kernel of one call, in the order of launching."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is to be taken apart: a call, so many times."""

    case: CostCase
    repeat: int


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel of a call; `ms` of all its launches together, the median over calls."""

    name: str
    launches: int
    ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """The kernels of a call, in the order of their first launch.

    ms: of all kernels, the median over calls.
    bytes: that the definition has to move, and what moving them takes at the speed of a copy.
    """

    case: CostCase
    backend: str
    tiles: str
    calls: int
    kernels: tuple[Kernel, ...]
    ms: float
    bytes: int
    copy_ms: float | None


def profiled_call(asked: Profile) -> Profiled:
    """Take a call apart.

    Raises:
        BadInput: there is no GPU, or the profiler sees none of its kernels.
        Unsupported: the pattern cannot run these inputs.
    """
    if not torch.cuda.is_available():
        raise BadInput("profile times kernels of a GPU, and PyTorch sees none; 'doctor' says more")
    device = torch.device("cuda", torch.cuda.current_device())
    case = asked.case
    with own_stream(device), torch.set_grad_enabled(case.pass_ != "fwd"):
        inputs = load_inputs(case, device)
        chosen = choose(case, inputs)
        call = make_call(case, chosen, inputs)
        for _ in range(_WARM_UP):
            call(0)
        flush = torch.empty(
            2 * torch.cuda.get_device_properties(device).L2_cache_size,
            dtype=torch.int8,
            device=device,
        )
        calls = []
        for _ in range(asked.repeat):
            flush.zero_()
            torch.cuda.synchronize(device)
            with profiled(ProfilerActivity.CUDA) as events:
                result = call(0)
                torch.cuda.synchronize(device)
            del result
            calls.append(launched(events))
    if not any(calls):
        raise BadInput("the profiler sees no CUDA kernels: 'doctor' says what to do about it")
    ceilings = measured(device, (case.dtype,))
    return _profiled(case, chosen, calls, tile_choice.told(device), ceilings)


def launched(events: Iterable[Any]) -> list[tuple[str, float]]:
    """What ran on the GPU, of the raw events of a profile."""
    found = sorted(
        (
            event
            for event in events
            if "CUDA" in str(event.device_type()) and not event.is_user_annotation()
        ),
        key=lambda event: event.start_ns(),
    )
    return [(event.name(), event.duration_ns() / 1e6) for event in found]


def kernels_of(calls: Sequence[Launched]) -> tuple[Kernel, ...]:
    """Launches of one name together, as medians over the calls."""
    names = dict.fromkeys(name for call in calls for name, _ in call)
    times = {
        name: [sum(ms for other, ms in call if other == name) for call in calls] for name in names
    }
    medians = {name: statistics.median(found) for name, found in times.items()}
    counts = {
        name: round(statistics.median(sum(other == name for other, _ in call) for call in calls))
        for name in names
    }
    total = sum(medians.values())
    return tuple(
        Kernel(name=name, launches=counts[name], ms=ms, share=ms / total if total else 0.0)
        for name, ms in medians.items()
    )


def as_text(found: Profiled) -> str:
    """A table of the kernels, and what the definition needs."""
    case = found.case
    rows = [
        (_short(one.name), one.launches, f"{one.ms:.4f}", f"{100 * one.share:.1f} %")
        for one in found.kernels
    ]
    rows.append(("all", sum(one.launches for one in found.kernels), f"{found.ms:.4f}", ""))
    table = tabulate(rows, ["kernel", "launches", "ms", "share"], "plain", disable_numparse=True)
    copied = "" if found.copy_ms is None else f", {found.copy_ms:.4f} ms at the speed of a copy"
    return (
        f"{case.pattern}@{found.backend}, {case.group}, tiles {found.tiles}: medians of "
        f"{found.calls} calls\n{table}\n"
        f"the definition moves {found.bytes / (1 << 20):.4g} MiB at least{copied}"
    )


def as_document(found: Profiled) -> dict[str, Any]:
    """The same for programs."""
    return {
        "case": as_dict(found.case),
        "backend": found.backend,
        "tiles": found.tiles,
        "calls": found.calls,
        "ms": found.ms,
        "bytes": found.bytes,
        "copy_ms": found.copy_ms,
        "kernels": [
            {"name": one.name, "launches": one.launches, "ms": one.ms, "share": one.share}
            for one in found.kernels
        ],
    }


def _profiled(
    case: CostCase,
    chosen: Chosen,
    calls: Sequence[Launched],
    tiles: str,
    ceilings: Mapping[str, Any],
) -> Profiled:
    moved = int(chosen.pattern.cost(shape_of(case)).bytes * BYTES_FACTOR[case.pass_])
    rate = ceilings["copy_bytes_per_s"]
    return Profiled(
        case=case,
        backend=chosen.implementation.backend,
        tiles=tiles,
        calls=len(calls),
        kernels=kernels_of(calls),
        ms=statistics.median(sum(ms for _, ms in call) for call in calls),
        bytes=moved,
        copy_ms=None if rate is None else 1e3 * moved / rate,
    )


def _short(name: str) -> str:
    """Without what templates and arguments add to a name."""
    text = name.removeprefix("void ")
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
