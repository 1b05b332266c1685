"""What is evaluated: which schedule in which model on which text, as cases with a key."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from attnbench.baselines import window_of_keys
from attnbench.case import Case, case_key
from attnbench.excerpts import excerpt_count
from attnbench.language import Sizes
from attnbench.layers import Layer, spelled
from attnbench.matching import MATCHED, knob, matched, wanted_keys
from attnbench.matrix import ELEMENT_BYTES, asked_name
from attnbench.schedule import Same, Schedule, schedule, schedules
from attnbench.stack import StackCost, stack_cost
from patterns.base import Pattern
from patterns.errors import BadInput
from patterns.full import Full

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
    """What one call of `evaluate` asks for.

    excerpts: how many; None takes as many as the length asks.
    keys: how many keys a query every pattern is to have, or the pattern that has as many; None
        leaves the patterns as they are written.
    sensitivity: those of the schedules whose layers are also swapped one by one.
    """

    model: str
    schedules: tuple[str, ...]
    lengths: tuple[int, ...]
    excerpts: int | None = None
    seed: int = 0
    keys: str | None = None
    sensitivity: tuple[str, ...] = ()
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
    wanted: float | None = None  # keys a query, where a number of them was asked for
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
    for text in asked.sensitivity:
        if text not in asked.schedules:
            raise BadInput(f"the layers of {text} are to be swapped one by one: ask for it too")
    if asked.keys is not None:
        wanted_keys(asked.keys, max(asked.lengths))
    if asked.excerpts is not None and asked.excerpts < 1:
        raise BadInput(f"expected at least 1 excerpt, got {asked.excerpts}")


def cases(asked: Evaluation, sizes: Sizes, text: str) -> Iterator[list[Asked]]:
    """The cases of each length, full attention first; and in the end those of single layers.

    Beside every schedule stand full attention, the uniform map, and window + 4 sinks with as many
    keys a query, over all layers, as the schedule. Single layers are swapped at the shortest
    length only.

    Args:
        asked: what was asked for.
        sizes: of the model.
        text: the digest of its tokens.

    Raises:
        BadInput: a schedule does not fit the model, or a length its positions.
    """
    lengths = sorted(set(asked.lengths))
    for length in lengths:
        if sizes.positions is not None and length > sizes.positions:
            raise BadInput(f"the model has {sizes.positions} positions, got length {length}")
    for length in lengths:
        yield _at_length(asked, sizes, text, length)
    single = [
        layer
        for spec in asked.sensitivity
        for one in _fitted(asked, spec, lengths[0])
        for layer in _single_layers(_asked(asked, sizes, text, one, lengths[0]), sizes)
    ]
    if single:
        yield list({case_key(one.case): one for one in single}.values())


def _at_length(asked: Evaluation, sizes: Sizes, text: str, length: int) -> list[Asked]:
    """The schedules that were asked for, and what stands beside them."""
    wanted = [one for spec in asked.schedules for one in _fitted(asked, spec, length)]
    windows: list[Pattern] = []  # that others are compared with
    if asked.keys is not None:
        windows.append(window_of_keys(wanted_keys(asked.keys, length), length, causal=True))
    found: dict[str, Asked] = {}
    for one in [schedule("full"), *wanted]:
        made = _with_rival(_asked(asked, sizes, text, one, length), sizes, windows)
        found[case_key(made.case)] = made
    for spec in dict.fromkeys([*(one.rival for one in found.values()), *BESIDE]):
        if spec is not None:
            made = replace(_asked(asked, sizes, text, schedule(spec), length), wanted=None)
            found.setdefault(case_key(made.case), made)
    specs = {one.spec for one in wanted}
    return [
        one if one.case.asked in specs else replace(one, role="comparison")
        for one in found.values()
    ]


def _fitted(asked: Evaluation, spec: str, length: int) -> list[Schedule]:
    """What a spec asks for, with the keys that were asked for where it leaves them open."""
    found = schedules(spec)
    name = knob(spec) if asked.keys is not None and isinstance(found[0], Same) else None
    if asked.keys is None or name is None:
        return found
    keys = wanted_keys(asked.keys, length)
    return [
        Same(pattern=matched(one.pattern, name, keys, length)) if isinstance(one, Same) else one
        for one in found
    ]


def resolved(layers: Sequence[Layer], length: int) -> str:
    """The patterns of all layers at this length, written as a pattern or a schedule."""
    names = [spelled(one, length) for one in layers]
    runs: list[str] = []
    first = 0
    for parts, same in itertools.groupby(names):
        last = first + len(list(same)) - 1
        where = f"{first}-{last}" if last > first else f"{first}"
        runs += [f"{where}{heads}:{name}" for heads, name in parts]
        first = last + 1
    if len(runs) > 1 or names[0][0][0]:
        return ",".join(runs)
    return names[0][0][1]


def _asked(asked: Evaluation, sizes: Sizes, text: str, one: Schedule, length: int) -> Asked:
    layers = one.patterns(sizes.layers)
    case = EvaluationCase(
        asked=one.spec, pattern=resolved(layers, length), backend=asked.backend, causal=True,
        length=length, heads=sizes.heads, kv_heads=sizes.kv_heads, dim=sizes.dim,
        dtype=asked.dtype, device=asked.device, source=asked.model, seed=asked.seed, text=text,
        excerpts=asked.excerpts or excerpt_count(length), layers=sizes.layers, layer=None,
    )  # fmt: skip
    cost = stack_cost(layers, sizes.shape(length, ELEMENT_BYTES[case.dtype]))
    even = isinstance(one, Same) and one.spec not in BESIDE
    wanted = wanted_keys(asked.keys, length) if asked.keys is not None and even else None
    return Asked(case=case, schedule=one, cost=cost, role="asked", wanted=wanted)


def _with_rival(one: Asked, sizes: Sizes, windows: list[Pattern]) -> Asked:
    """The same with its window + sinks; full attention and the uniform map have none.

    The closest of the windows that are there serves it too, if it is close enough; else its own
    is added to them.
    """
    length = one.case.length
    keys = one.cost.keys_per_query
    if one.case.pattern in BESIDE or keys == 0:
        return one
    shape = sizes.shape(length, ELEMENT_BYTES[one.case.dtype])

    def off(window: Pattern) -> float:
        return abs(stack_cost([window], shape).keys_per_query / keys - 1)

    if not any(off(window) <= MATCHED for window in windows):
        windows.append(window_of_keys(keys, length, causal=True))
    window = min(windows, key=off)
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
        swapped: list[Layer] = (
            [Full()] * number + [pattern] + [Full()] * (sizes.layers - number - 1)
        )
        case = replace(one.case, layer=number, excerpts=count)
        yield replace(one, case=case, cost=stack_cost(swapped, shape), rival=None, rival_keys=None)
