"""What of a group is left to do: what has no record, and is not hopeless."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attnbench.case import AnyCase, Group, as_dict, case_key
from attnbench.outcome import Ended, Origin, record
from attnbench.records import Journal
from attnbench.spread import Record, without
from attnbench.turns import Todo

OVER_BUDGET = "the run's budget was spent: --retry skipped with a larger --budget does it"


def missing(group: Group, book: Journal, retry: set[str]) -> list[AnyCase]:
    """The cases without a record, or whose status is to be tried again."""

    def done(case: AnyCase) -> bool:
        found = book.records.get(case_key(case))
        return found is not None and found["status"] not in retry

    return [case for case in group.cases if not done(case)]


def hopeful(
    group: Group, cases: Sequence[AnyCase], book: Journal, origin: Origin
) -> tuple[Todo, list[Record]]:
    """Leave out what hung at a shorter length, and dense rows that are known to fail."""
    known = book.records
    hung = [one["case"] for one in [*known.values()] if one["status"] == "timeout"]
    hopeless = [case for case in cases if any(_longer(case, one) for one in hung)]
    records = [
        record(
            case,
            origin,
            role=group.role(case),
            ended=Ended(
                "skipped",
                "it timed out at a shorter length: --retry timeout,skipped does both again",
            ),
        )
        for case in hopeless
    ]
    left = [case for case in cases if case not in hopeless]
    keys = {case_key(case) for case in left}
    failed = {
        key
        for key in map(case_key, group.cases)
        if key not in keys and (key not in known or known[key]["status"] != "ok")
    }
    return (without(group, failed), left), records


def _longer(case: AnyCase, hung: Mapping[str, Any]) -> bool:
    """Whether this is a case that hung, at a greater length."""
    own = as_dict(case)
    differ = {name for name in own.keys() | hung.keys() if own.get(name) != hung.get(name)}
    return differ <= {"length", "pattern"} and case.length > hung["length"]


def skipped(cases: Iterable[AnyCase], group: Group, origin: Origin) -> Iterator[Record]:
    """The records of cases for which there is no time."""
    for case in cases:
        role = group.role(case)
        ended = Ended("skipped", OVER_BUDGET)
        yield record(case, origin, role=role, ended=ended)
