"""What is evaluated: which schedule in which model on which text, as cases with a key."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from attnbench.baselines import window_of_keys
from attnbench.case import Case, case_key
from attnbench.excerpts import excerpt_count
from attnbench.language import Sizes
from attnbench.matrix import ELEMENT_BYTES, asked_name
from attnbench.schedule import Schedule, schedule, schedules
from attnbench.stack import StackCost, stack_cost
from patterns.base import Pattern
from patterns.errors import BadInput
from patterns.full import Full

MATCHED = 0.02  # how far the keys of a window may be from those that it is to match
SENSITIVITY_EXCERPTS = 4  # on which single layers are judged
BESIDE = ("full", "uniform")  # judged with every other


@dataclass(frozen=True, kw_only=True)
class EvaluationCase(Case):
    """One schedule, or one layer of it, in a model that reads excerpts of one length.

    `source` is the model, `pattern` has every layer's automatic values filled in.
    """

    text: str  # of its tokens: 12 hexadecimal digits of a SHA-256
    excerpts: int
    layers: int  # of the model
    layer: int | None  # the only one that is swapped; None for all

    kind: ClassVar = "evaluation"

    @property
    def group(self) -> str:
        """The cases that read the same excerpts."""
        return f"{self.source}-l{self.length}-{self._ending()}"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one call of `evaluate` asks for; `excerpts` None takes as many as the length asks."""

    model: str
    schedules: tuple[str, ...]
    lengths: tuple[int, ...]
    excerpts: int | None = None
    seed: int = 0
    sensitivity: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    backend: str = "auto"

    def document(self) -> dict[str, Any]:
        """As run.json has it."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A case with its schedule, what it costs, and the case of the window that it has to beat."""

    case: EvaluationCase
    schedule: Schedule
    cost: StackCost
    role: str  # asked, or comparison
    rival: str | None = None  # the spec of window + sinks at equal keys
    rival_keys: float | None = None  # that it attends to, a query


def expect_sense(asked: Evaluation) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises:
        BadInput: no schedule or length, one that cannot be read, or numbers out of range.
    """
    if not asked.schedules or not asked.lengths:
        raise BadInput("nothing is asked for: expected at least one --pattern and one --length")
    for text in asked.schedules:
        schedules(text)
    if asked.excerpts is not None and asked.excerpts < 1:
        raise BadInput(f"expected at least 1 excerpt, got {asked.excerpts}")


def cases(asked: Evaluation, sizes: Sizes, text: str) -> Iterator[list[Asked]]:
    """The cases of each length, full attention first and single layers last.

    Beside every schedule stand full attention, the uniform map, and window + 4 sinks with as many
    keys a query, over all layers, as the schedule.

    Args:
        asked: what was asked for.
        sizes: of the model.
        text: the digest of its tokens.

    Raises:
        BadInput: a schedule does not fit the model, or a length its positions.
    """
    wanted = [one for spec in asked.schedules for one in schedules(spec)]
    for length in sorted(set(asked.lengths)):
        if sizes.positions is not None and length > sizes.positions:
            raise BadInput(f"the model has {sizes.positions} positions, got length {length}")
        found: dict[str, Asked] = {}
        single: list[Asked] = []
        for one in [schedule("full"), *wanted]:
            case = _case(asked, sizes, text, one, length)
            made = _with_rival(_asked(case, one, sizes, role="asked"), sizes)
            found[case_key(case)] = made
            if asked.sensitivity and one in wanted:
                single += _single_layers(made, sizes)
        for rival in [*(one.rival for one in found.values()), *BESIDE]:
            if rival is not None:
                one = schedule(rival)
                case = _case(asked, sizes, text, one, length)
                made = _asked(case, one, sizes, role="comparison")
                found.setdefault(case_key(case), made)
        specs = {one.spec for one in wanted}
        yield [
            one if one.case.asked in specs else replace(one, role="comparison")
            for one in (*found.values(), *single)
        ]


def resolved(layers: Sequence[Pattern], length: int) -> str:
    """The patterns of all layers at this length, written as a pattern or a schedule."""
    names = [asked_name(one.resolve(length)) for one in layers]
    runs: list[str] = []
    first = 0
    for name, same in itertools.groupby(names):
        last = first + len(list(same)) - 1
        runs.append(f"{first}-{last}:{name}" if last > first else f"{first}:{name}")
        first = last + 1
    return ",".join(runs) if len(runs) > 1 else names[0]


def _case(asked: Evaluation, sizes: Sizes, text: str, one: Schedule, length: int) -> EvaluationCase:
    return EvaluationCase(
        asked=one.spec, pattern=resolved(one.patterns(sizes.layers), length),
        backend=asked.backend, causal=True, length=length, heads=sizes.heads,
        kv_heads=sizes.kv_heads, dim=sizes.dim, dtype=asked.dtype, device=asked.device,
        source=asked.model, seed=asked.seed, text=text,
        excerpts=asked.excerpts or excerpt_count(length), layers=sizes.layers, layer=None,
    )  # fmt: skip


def _asked(case: EvaluationCase, one: Schedule, sizes: Sizes, *, role: str) -> Asked:
    layers = one.patterns(sizes.layers)
    shape = sizes.shape(case.length, ELEMENT_BYTES[case.dtype])
    return Asked(case=case, schedule=one, cost=stack_cost(layers, shape), role=role)


def _with_rival(one: Asked, sizes: Sizes) -> Asked:
    """The same with its window + sinks; full attention and the uniform map have none."""
    length = one.case.length
    keys = one.cost.keys_per_query
    if one.case.pattern in BESIDE or keys == 0:
        return one
    window = window_of_keys(keys, length, causal=True)
    shape = sizes.shape(length, ELEMENT_BYTES[one.case.dtype])
    return replace(
        one, rival=asked_name(window), rival_keys=stack_cost([window], shape).keys_per_query
    )


def _single_layers(one: Asked, sizes: Sizes) -> Iterator[Asked]:
    """A case for each layer whose attention the schedule changes, swapped alone."""
    count = min(one.case.excerpts, SENSITIVITY_EXCERPTS)
    shape = sizes.shape(one.case.length, ELEMENT_BYTES[one.case.dtype])
    layers = one.schedule.patterns(sizes.layers)
    for number, pattern in enumerate(layers):
        if isinstance(pattern, Full):
            continue
        swapped = [Full()] * number + [pattern] + [Full()] * (sizes.layers - number - 1)
        case = replace(one.case, layer=number, excerpts=count)
        yield replace(one, case=case, cost=stack_cost(swapped, shape), rival=None, rival_keys=None)
