"""From a group of cost cases to records: each checked and sized alone, then all timed together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from attnbench.budget import GroupBudget
from attnbench.call_times import CallTimes, quadratic
from attnbench.case import CostCase, Group, case_key
from attnbench.check import Checker
from attnbench.compiled import forget, seen_so_far
from attnbench.contender import (
    Begun,
    Chosen,
    CostInputs,
    Sized,
    begin,
    call_again,
    choose,
    fingerprint,
    load_inputs,
    own_stream,
    size,
)
from attnbench.cost_record import measured_record
from attnbench.guards import FIRED, with_fired
from attnbench.outcome import DeviceLost, Ended, Origin, confirm_device, ending, record
from attnbench.predict import expect_fits, free_bytes, gib, predict
from attnbench.steps import Announce, Announcing, Step, silent
from attnbench.timing import LONG_S, Contender, Timed, Watch, time_group
from attnbench.watch import watch_for

_GRAPH_SHARE = 0.3  # of the free memory that captured graphs may keep
_AGAIN = " again"  # behind the name of the contender that is timed twice

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How cases are timed, as far as it can be chosen."""

    order_seed: int = 0
    bound: float = 0.01
    min_samples: int = 10
    make_watch: Callable[..., Watch] = watch_for


class CostMeasurer:
    """Measures groups of cost cases one after the other; references are shared between them."""

    def __init__(self, origin: Origin, protocol: Protocol, announce: Announce = silent) -> None:
        """Keep what all groups share; `announce` hears whose turn it is."""
        self._origin, self._protocol, self._checker = origin, protocol, Checker()
        self._announce, self._call_times = announce, CallTimes()

    def measure(
        self,
        group: Group,
        todo: Sequence[CostCase],
        budget_s: float,
        lost: Mapping[str, Ended] = MappingProxyType({}),
    ) -> Iterator[Record]:
        """The records of the cases of `todo`, once all are measured.

        The dense rows of the group are timed along with them, because ratios are paired. What
        `lost` names is not run: it ended like that before.

        Raises:
            DeviceLost: a case broke the GPU's context; its record has come out before.
        """
        wanted = {case_key(case) for case in todo}
        cases = [case for case in group.cases if isinstance(case, CostCase)]
        cases = [case for case in cases if case_key(case) in wanted or case.asked == "full"]
        cases.sort(key=_turn)
        device = torch.device(cases[0].device)
        forget()  # loads the compiler, the first time, which is no group's expense
        clock = GroupBudget(budget_s)
        found: dict[str, Sized | Ended] = {**lost}  # by the name of what runs
        name_of: dict[str, str] = {}  # by case key
        with own_stream(device), torch.set_grad_enabled(cases[0].pass_ != "fwd"):
            self._announce(Step(what="inputs"))
            try:
                inputs = load_inputs(cases[0], device)
            except Exception as error:
                ended = ending(error)
                for case in todo:
                    yield self._record(case, group, ended, {})
                return
            for case in cases:
                name = name_of[case_key(case)] = self._prepare(case, inputs, found, clock)
                prepared = found[name]
                if name in lost:
                    continue
                if isinstance(prepared, Ended) and (gone := _gone(prepared, device)):
                    yield self._record(case, group, prepared, {})
                    raise gone
            steps = {
                name: Step(
                    what="time",
                    name=name,
                    case_key=next(key for key, other in name_of.items() if other == name),
                    implementation=one.chosen.implementation,
                )
                for name, one in found.items()
                if isinstance(one, Sized)
            }
            ready = [x for x in found.values() if isinstance(x, Sized)]
            was, compiled = fingerprint(inputs), seen_so_far()
            timed, first = self._time(ready, inputs, clock, steps)
            flags = _flags(was, fingerprint(inputs))
            recompiled = seen_so_far().since(compiled).fired
            del inputs
            again = {
                name.removesuffix(_AGAIN): timed.pop(name)
                for name in list(timed)
                if name.endswith(_AGAIN)
            }
            failed = {name: ending(one.error) for name, one in timed.items() if one.error}
            found |= failed
            # On a GPU that is lost all that ran after the culprit failed too.
            for name in sorted(failed, key=lambda name: name != first):
                if gone := _gone(failed[name], device):
                    case = next(c for c in cases if name_of[case_key(c)] == name)
                    yield self._record(case, group, failed[name], {})
                    raise gone
        measured = {
            name: one if isinstance(one, Ended) else (one, timed[name])
            for name, one in found.items()
        }
        dense = {
            name: one[1]
            for name, one in measured.items()
            if not isinstance(one, Ended) and one[0].chosen.dense
        }
        for case in cases:
            if case_key(case) in wanted:
                name = name_of[case_key(case)]
                made = self._record(case, group, measured[name], dense, again.get(name))
                marks = flags | (recompiled if "compiled" in made["guards"] else {})
                yield with_fired(made, marks) if made["status"] == "ok" else made

    def _prepare(
        self,
        case: CostCase,
        inputs: CostInputs,
        found: dict[str, Sized | Ended],
        clock: GroupBudget,
    ) -> str:
        """Choose, check and size what a case runs; returns the name under which it is found."""
        name, needed, chosen, compiled = case_key(case), "", None, seen_so_far()
        if name in found:
            return name
        self._announce(Step(what="first", name=name, case_key=name))
        try:
            chosen = choose(case, inputs)
            name = chosen.name
            if name not in found:
                step = Step(
                    what="first",
                    name=name,
                    case_key=case_key(case),
                    implementation=chosen.implementation,
                )
                self._announce(step)
                prediction = predict(case, chosen.pattern, chosen.implementation)
                needed = f"At least {gib(prediction.peak_bytes)} were predicted. "
                expect_fits(prediction, inputs.d_out.device)
                known_s = self._call_times.least_s(case, chosen.implementation)
                clock.expect(max(prediction.least_s, known_s), at_least=True)
                found[name] = sized = self._size(case, chosen, inputs, clock, step)
                clock.reserve(sized.call_s)
        except Exception as error:  # whatever a pattern raises is its own ending, not the run's
            found[name] = ended = ending(error, needed)
            seen = seen_so_far().since(compiled)
            if ended.guards is None and seen.fired:
                ended.guards = {"compiled": seen.document, FIRED: seen.fired}
            ended.implementation = None if chosen is None else chosen.implementation
            error.__traceback__ = None  # its frames hold tensors
        return name

    def _size(
        self,
        case: CostCase,
        chosen: Chosen,
        inputs: CostInputs,
        clock: GroupBudget,
        step: Step,
    ) -> Sized:
        """Call, check and size a contender; no more than call it if the group has no time for it.

        Raises:
            Ended: as `skipped`, or as `wrong`.
        """
        with clock.excusing_failures():
            begun = begin(case, chosen, inputs)
        if begun.again_s:
            clock.excuse(begun.first_s, begun.call_s)
            begun = _made_sure(begun, inputs, clock)
            if begun.wrong is None:
                if begun.confirmed:
                    self._call_times.add(case, chosen.implementation, begun.call_s)
                clock.expect(begun.call_s)
        elif begun.wrong is not None:  # not called again, so all of it may be a compiler's
            clock.excuse(begun.first_s, 0.0)
        self._announce(replace(step, what="check"))
        with clock.excusing_failures():
            sized = size(case, chosen, inputs, self._checker, begun)
        self._call_times.add(case, chosen.implementation, sized.call_s)
        if not begun.again_s:
            clock.excuse(begun.first_s, sized.call_s)
        return sized

    def _time(
        self,
        ready: Sequence[Sized],
        inputs: CostInputs,
        clock: GroupBudget,
        steps: Mapping[str, Step],
    ) -> tuple[dict[str, Timed], str | None]:
        """What was seen of each, and who raised something first."""
        if not ready:
            return {}, None
        device = inputs.d_out.device
        twice = _timed_twice(ready)
        again = twice.chosen.name + _AGAIN
        graph_bytes = int(_GRAPH_SHARE * free_bytes(device)) if device.type == "cuda" else 0
        watch = Announcing(
            self._protocol.make_watch(device, copies=len(inputs.copies), graph_bytes=graph_bytes),
            self._announce,
            {**steps, again: steps[twice.chosen.name]},
        )
        contenders = [
            Contender(name=x.chosen.name, call=x.call, dense=x.chosen.dense) for x in ready
        ]
        if twice.call_s < LONG_S or clock.has_room(twice.call_s):
            contenders.append(Contender(name=again, call=twice.call))
        timed = time_group(
            contenders,
            watch,
            seed=self._protocol.order_seed,
            budget_s=clock.left_s(),
            bound=self._protocol.bound,
            min_samples=self._protocol.min_samples,
        )
        first = watch.first_failed
        if first == again:  # it is the same call
            first = twice.chosen.name
            timed[first].error = timed[first].error or timed[again].error
        return timed, first

    def _record(
        self,
        case: CostCase,
        group: Group,
        found: tuple[Sized, Timed] | Ended,
        dense: Mapping[str, Timed],
        again: Timed | None = None,
    ) -> Record:
        role = group.role(case)
        if isinstance(found, Ended):
            return record(case, self._origin, role=role, ended=found)
        sized, own = found
        return measured_record(case, self._origin, role, sized, own, dense, again)


def _made_sure(begun: Begun, inputs: CostInputs, clock: GroupBudget) -> Begun:
    """Call what seems too slow for its group once more, if only one call says so.

    Raises:
        Ended: as `skipped`, where there is no time for that.
    """
    if begun.wrong is not None or begun.confirmed or clock.fits(begun.call_s):
        return begun
    clock.expect_time(begun.call_s)
    with clock.excusing_failures():
        sure = call_again(begun, inputs)
    clock.excuse(begun.call_s, sure.call_s)
    return sure


def _turn(case: CostCase) -> tuple[bool, ...]:
    """Dense rows first, for all are read against them; what is slow later; the textbook last."""
    full, eager = case.asked == "full", case.backend == "eager"
    return full and eager, eager, quadratic(case) and not full, not full


def _flags(before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, str]:
    """Where a call that was well in its check wrote to the inputs of all."""
    if before == after:
        return {}
    return {"inputs": "while the group was timed, some call in it changed the inputs of all"}


def _gone(ended: Ended, device: torch.device) -> DeviceLost | None:
    """After something went wrong: free what it held, and see whether the device still answers."""
    if ended.status in ("oom", "crashed", "wrong"):
        try:
            confirm_device(device)
        except DeviceLost as gone:
            return gone
    return None


def _timed_twice(ready: Sequence[Sized]) -> Sized:
    """Which contender is timed as if it were two: what they differ by is the group's A/A floor.

    A dense one, unless its calls are so long that the group has better use for the time.
    """
    return min(ready, key=lambda x: (x.call_s >= LONG_S, not x.chosen.dense, x.call_s))
