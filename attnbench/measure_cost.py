"""From a group of cost cases to records: each checked and sized alone, then all timed together."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any

import torch

from attnbench.case import CostCase, Group, case_key
from attnbench.ceilings import roof
from attnbench.check import Checker
from attnbench.computed import computed_pairs
from attnbench.contender import (
    CostInputs,
    Sized,
    choose,
    fingerprint,
    load_inputs,
    own_stream,
    size,
)
from attnbench.guards import spread, with_fired
from attnbench.launch import launch
from attnbench.outcome import DeviceLost, Ended, Origin, confirm_device, ending, record
from attnbench.predict import expect_fits, free_bytes, gib, predict
from attnbench.statistics import medians, ratio, summary
from attnbench.steps import Announce, Announcing, Step, silent
from attnbench.timing import MIN_ROUNDS, Clocks, Contender, Timed, Watch, time_group
from attnbench.watch import watch_for

_LEAST_CALLS = 5 * MIN_ROUNDS  # that timing a contender makes: two cold samples a round, others
_LARGEST_SHARE = 0.5  # of a group's budget that timing one contender may take
_LEAST_TIMING_S = 0.2  # of any contender, its warm-up and its place in the rounds
_GRAPH_SHARE = 0.3  # of the free memory that captured graphs may keep
_CLOCK_SPREAD = 0.05
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
        self._announce = announce

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
        # The dense rows first, for they are what others are read against; the textbook last.
        cases.sort(key=lambda case: (case.backend == "eager", case.asked != "full"))
        device = torch.device(cases[0].device)
        clock = _Budget(budget_s)
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
            was = fingerprint(inputs)
            timed, first = self._time(ready, inputs, clock, steps)
            flags = _flags(was, fingerprint(inputs))
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
                yield with_fired(made, flags) if made["status"] == "ok" else made

    def _prepare(
        self, case: CostCase, inputs: CostInputs, found: dict[str, Sized | Ended], clock: "_Budget"
    ) -> str:
        """Choose, check and size what a case runs; returns the name under which it is found."""
        name, needed, chosen = case_key(case), "", None
        if name in found:
            return name
        self._announce(Step(what="check", name=name, case_key=name))
        try:
            chosen = choose(case, inputs)
            name = chosen.name
            if name not in found:
                self._announce(
                    Step(
                        what="check",
                        name=name,
                        case_key=case_key(case),
                        implementation=chosen.implementation,
                    )
                )
                prediction = predict(case, chosen.pattern, chosen.implementation)
                needed = f"At least {gib(prediction.peak_bytes)} were predicted. "
                expect_fits(prediction, inputs.d_out.device)
                clock.expect(prediction.least_s)
                found[name] = sized = size(case, chosen, inputs, self._checker)
                clock.reserve(sized.call_s)
        except Exception as error:  # whatever a pattern raises is its own ending, not the run's
            found[name] = ended = ending(error, needed)
            ended.implementation = None if chosen is None else chosen.implementation
            error.__traceback__ = None  # its frames hold tensors
        return name

    def _time(
        self,
        ready: Sequence[Sized],
        inputs: CostInputs,
        clock: "_Budget",
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
        role = "comparison" if case_key(case) in group.comparisons else "asked"
        if isinstance(found, Ended):
            return record(case, self._origin, role=role, ended=found)
        sized, own = found
        time_block = _time_block(sized, own, dense, again)
        measured = record(
            case,
            self._origin,
            role=role,
            implementation=sized.chosen.implementation,
            time=time_block,
            memory=sized.memory,
            guards={"check": sized.check, "clocks": _clocks_block(own.clocks)},
        )
        if measured["cost"] is not None:
            pairs, why = computed_pairs(case, sized.chosen.implementation.backend)
            measured["cost"]["computed_pairs"] = pairs
            if why is not None:
                time_block["notes"]["computed_pairs"] = why
        time_block["roof"] = roof(
            self._origin.ceilings,
            measured["cost"],
            dtype=case.dtype,
            pass_=case.pass_,
            ms=time_block["cold_ms"]["median"],
        )
        return with_fired(measured, spread(time_block["cold_ms"]))


class _Budget:
    """The time of a group, from now on, and what timing will take of it."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s, self._begin, self._reserved_s = budget_s, time.perf_counter(), 0.0

    def left_s(self) -> float:
        return self._budget_s - (time.perf_counter() - self._begin)

    def expect(self, call_s: float) -> None:
        """Skip what can no longer be checked and timed.

        Raises:
            Ended: as `skipped`.
        """
        if _timing_s(call_s) > _LARGEST_SHARE * self._budget_s:
            raise Ended(
                "skipped",
                f"{_LEAST_CALLS} calls of {call_s:.2g} s do not fit into the group's "
                f"{self._budget_s:.0f} s: --retry skipped with a larger --budget does it",
            )
        if self.left_s() < self._reserved_s + _timing_s(call_s):
            raise Ended(
                "skipped",
                f"the group's {self._budget_s:.0f} s were spent on others: "
                "--retry skipped with a larger --budget does it",
            )

    def reserve(self, call_s: float) -> None:
        """Keep the time that a contender will take at least.

        Raises:
            Ended: as `skipped`, where it is too slow for this group.
        """
        if _timing_s(call_s) > _LARGEST_SHARE * self._budget_s:
            self.expect(call_s)
        self._reserved_s += _timing_s(call_s)


def _timing_s(call_s: float) -> float:
    return _LEAST_TIMING_S + _LEAST_CALLS * call_s


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
    """Which contender is timed as if it were two: what they differ by is the group's A/A floor."""
    return min(ready, key=lambda x: (not x.chosen.dense, x.call_s))


def _time_block(
    found: Sized, own: Timed, dense: Mapping[str, Timed], again: Timed | None
) -> Record:
    notes = dict(own.notes)
    speeds = [clocks.sm_mhz for clocks in own.clocks]
    if speeds and max(speeds) > (1 + _CLOCK_SPREAD) * min(speeds):
        notes["clocks"] = f"the SM clock moved between {min(speeds)} and {max(speeds)} MHz"
    if not dense:
        notes["ratio_to_dense"] = "no dense row was timed in this group"
    block: Record = {
        "cold_ms": summary(own.cold),
        "graph_ms": summary(own.graph),
        "eager_wall_ms": summary(own.wall),
        "first_call_ms": found.first_call_ms,
        "rounds": len(own.cold),
        "stopped": own.stopped,
        "ratio_to_dense": _ratio(own, dense),
        "same_twice": _same_twice(own, again),
        "notes": notes,
    }
    return {**block, "launches": [launch(block, medians(own.cold))]}


def _same_twice(own: Timed, again: Timed | None) -> Record | None:
    if again is None or again.error is not None or not again.cold:
        return None
    paired = ratio(again.cold, own.cold)
    return {"median": paired.median, "interval": [paired.low, paired.high]}


def _ratio(own: Timed, dense: Mapping[str, Timed]) -> Record | None:
    if not dense:
        return None
    name = min(dense, key=lambda name: median(medians(dense[name].cold)))
    paired = ratio(dense[name].cold, own.cold)
    label = f"full@{name.rpartition('@')[2]}"
    return {"median": paired.median, "interval": [paired.low, paired.high], "dense": label}


def _clocks_block(clocks: Sequence[Clocks]) -> Record | None:
    if not clocks:
        return None
    return {
        "sm_mhz": [one.sm_mhz for one in clocks],
        "throttle": sorted({reason for one in clocks for reason in one.throttle}),
    }
