"""Time the prefill of a whole stack of attention layers, beside what single layers predict.

Only attention: no projections, no feed-forward layers. Every layer has keys and values of its own,
and the layers follow each other on one stream, as in a model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from attnbench.contender import own_stream
from attnbench.layers import Layer, calls
from attnbench.matrix import ELEMENT_BYTES, Matrix, asked_name
from attnbench.presets import Plan
from attnbench.records import Record, read
from attnbench.schedule import Schedule, schedule
from attnbench.sources import load, settings
from attnbench.spans import choose_layer
from attnbench.stack import predicted_time
from attnbench.statistics import ratio, summary
from attnbench.timing import Call, Contender, Timed, time_group
from attnbench.watch import copies_beyond_cache, watch_for
from patterns.base import Shape
from patterns.errors import BadInput, Unsupported

FULL = "full"  # what speed-ups are against
_HEAD = (
    *("length", "stack", "ms", "95 %", "predicted ms", "off"),
    *("speed-up", "predicted", "off", "wall ms"),
)


@dataclass(frozen=True, kw_only=True)
class StackRequest:
    """Which stacks to time: full attention in all layers is always among them."""

    schedules: tuple[str, ...]
    lengths: tuple[int, ...]
    layers: int = 30
    batch: int = 1
    heads: int = 16
    kv_heads: int = 16
    dim: int = 64
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 0

    def shape(self, length: int) -> Shape:
        """Of one layer."""
        return Shape(
            batch=self.batch, heads=self.heads, kv_heads=self.kv_heads, length=length,
            dim=self.dim, element_bytes=ELEMENT_BYTES[self.dtype],
        )  # fmt: skip

    def stacks(self) -> dict[str, tuple[Layer, ...]]:
        """The patterns of every layer, by the schedule's name; full attention first.

        Raises:
            BadInput: one that cannot be read, or does not fit so many layers.
        """
        chosen: list[Schedule] = [schedule(one) for one in (FULL, *self.schedules)]
        return {one.spec: one.patterns(self.layers) for one in chosen}

    def plan(self, budget_s: float) -> Plan:
        """What measures the single layers that the stacks are made of."""
        single: dict[tuple[int, int], set[str]] = {}
        for layers in self.stacks().values():
            for one, shape in calls(layers, self.shape(1)):
                single.setdefault((shape.heads, shape.kv_heads), set()).add(asked_name(one))
        parts = tuple(
            Matrix(
                patterns=tuple(sorted(names)), lengths=self.lengths, passes=("fwd",),
                batch=self.batch, heads=heads, kv_heads=kv_heads, dim=self.dim,
                dtype=self.dtype, device=self.device, seed=self.seed, baselines=False,
            )
            for (heads, kv_heads), names in single.items()
        )  # fmt: skip
        return Plan(preset="stack", parts=parts, budget_s=budget_s)


@dataclass(frozen=True, kw_only=True)
class StackTime:
    """The time of one stack, and what was predicted for it; None where nothing can be."""

    length: int
    stack: str
    ms: dict[str, Any]  # a timing as a record has it
    wall_ms: dict[str, Any] | None
    predicted_ms: float | None
    why_not_predicted: str | None
    speedup: float  # of full attention's time over this one's
    speedup_interval: tuple[float, float]
    predicted_speedup: float | None

    @property
    def off(self) -> float | None:
        """How far the measured time is from the predicted one, relative to that."""
        return None if self.predicted_ms is None else self.ms["median"] / self.predicted_ms - 1

    @property
    def speedup_off(self) -> float | None:
        """The same for the speed-up."""
        if self.predicted_speedup is None:
            return None
        return self.speedup / self.predicted_speedup - 1

    def document(self) -> dict[str, Any]:
        """As stack.json has it."""
        return asdict(self) | {"off": self.off, "speedup_off": self.speedup_off}


def time_stacks(asked: StackRequest, run: Path, *, budget_s: float = 30.0) -> list[StackTime]:
    """Time every stack at every length, and predict it from the records of a run.

    Args:
        asked: the stacks.
        run: a run folder with the times of single layers.
        budget_s: for all lengths; each stack is timed in at least 5 rounds, however long it takes.

    Raises:
        BadInput: a schedule or number makes no sense, or no run folder.
        Unsupported: a pattern cannot run at this shape.
    """
    stacks, records = asked.stacks(), read(run)
    found = []
    for length in asked.lengths:
        timed = _timed(asked, stacks, length, budget_s / len(asked.lengths))
        found += [_one(asked, length, name, stacks, timed, records) for name in stacks]
    return found


def table(found: Sequence[StackTime]) -> str:
    """What was found, for people: a line a stack and length, then what could not be predicted."""
    rows = [
        (
            one.length, one.stack, f"{one.ms['median']:.4g}",
            "{:.4g} to {:.4g}".format(*one.ms["interval"]), _number(one.predicted_ms),
            _percent(one.off), f"{one.speedup:.3g}", _number(one.predicted_speedup, 3),
            _percent(one.speedup_off),
            _number(one.wall_ms["median"] if one.wall_ms else None),
        )
        for one in found
    ]  # fmt: skip
    sides = ("right", "left", *("right",) * (len(_HEAD) - 2))
    lines = [tabulate(rows, _HEAD, disable_numparse=True, colalign=sides)]
    return "\n".join([*lines, *dict.fromkeys(filter(None, (x.why_not_predicted for x in found)))])


def _timed(
    asked: StackRequest, stacks: dict[str, tuple[Layer, ...]], length: int, budget_s: float
) -> dict[str, Timed]:
    device = torch.device(asked.device)
    with own_stream(device), torch.no_grad():
        inputs = _inputs(asked, length, device)
        contenders = [
            Contender(name=name, call=_call(layers, inputs), dense=name == FULL)
            for name, layers in stacks.items()
        ]
        watch = watch_for(device)
        timed = time_group(contenders, watch, seed=asked.seed, budget_s=budget_s, min_samples=5)
    for name, one in timed.items():
        if one.error is not None:
            raise Unsupported(f"{name} at length {length}: {one.error}") from one.error
    return timed


def _inputs(
    asked: StackRequest, length: int, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Queries, keys and values for so many layers that together they are larger than the cache."""
    (setting,) = settings("gaussian", causal=True)
    drawn = load(
        setting, length=length, seed=asked.seed, device=device,
        dtype=getattr(torch, asked.dtype), batch=asked.batch, heads=asked.heads,
        kv_heads=asked.kv_heads, dim=asked.dim,
    )  # fmt: skip
    first = (drawn.q, drawn.k, drawn.v)
    size = sum(x.numel() * x.element_size() for x in first)
    count = max(2, copies_beyond_cache(device, size))
    return [first, *((q.clone(), k.clone(), v.clone()) for q, k, v in [first] * (count - 1))]


def _call(
    layers: Sequence[Layer],
    inputs: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> Call:
    chosen = [choose_layer(one, "auto") for one in layers]

    def prefill(_copy: int) -> torch.Tensor:
        for number, one in enumerate(chosen):
            out = one.attend(*inputs[number % len(inputs)], causal=True)
        return out

    return prefill


def _one(
    asked: StackRequest,
    length: int,
    name: str,
    stacks: dict[str, tuple[Layer, ...]],
    timed: dict[str, Timed],
    records: Sequence[Record],
) -> StackTime:
    def predicted(layers: tuple[Layer, ...]) -> float:
        return predicted_time(
            layers, asked.shape(length), records, dtype=asked.dtype, device=asked.device
        ).ms

    own, why = None, None
    faster = None
    try:
        own = predicted(stacks[name])
        faster = predicted(stacks[FULL]) / own
    except Unsupported as error:
        why = str(error)
    ms = summary(timed[name].cold)
    assert ms is not None  # what was not timed has raised
    gained = ratio(timed[FULL].cold, timed[name].cold)
    return StackTime(
        length=length, stack=name, ms=ms, wall_ms=summary(timed[name].wall), predicted_ms=own,
        why_not_predicted=why, speedup=gained.median, speedup_interval=(gained.low, gained.high),
        predicted_speedup=faster,
    )  # fmt: skip


def expect_stack(asked: StackRequest) -> None:
    """Refuse what can be refused before anything is timed.

    Raises:
        BadInput: numbers that make no sense, or a schedule that does not fit.
    """
    if asked.layers < 1:
        raise BadInput(f"expected at least 1 layer, got {asked.layers}")
    for layers in asked.stacks().values():
        for one, _ in calls(layers, asked.shape(1)):
            if not one.causal:
                raise BadInput(f"{one.spec} is bidirectional, and a prefill is causal")


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
