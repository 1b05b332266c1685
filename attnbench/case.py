"""What is measured: cost cases and fidelity cases, as frozen values with a key and a group.

docs/records.md names the same fields; a case says everything that decides what its number is.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

Pass = Literal["fwd", "bwd", "fwdbwd"]
PASSES: tuple[Pass, ...] = ("fwd", "bwd", "fwdbwd")
Status = Literal["ok", "unsupported", "oom", "timeout", "wrong", "crashed", "skipped"]
STATUSES: tuple[Status, ...] = (
    "ok", "unsupported", "oom", "timeout", "wrong", "crashed", "skipped",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all kinds of case share.

    `asked` is the pattern as asked for, without its causality; `pattern` has every automatic value
    filled in.
    """

    asked: str
    pattern: str
    backend: str
    causal: bool
    length: int
    heads: int
    kv_heads: int
    dim: int
    dtype: str
    device: str  # cpu or cuda
    source: str
    seed: int

    kind: ClassVar[str]

    def _ending(self) -> str:
        order = "causal" if self.causal else "bidirectional"
        return f"{self.dtype}-{self.device}-{order}"


@dataclass(frozen=True, kw_only=True)
class CostCase(Case):
    """One pass of one pattern at one shape."""

    source: str = "gaussian"
    pass_: Pass = field(metadata={"name": "pass"})
    batch: int

    kind: ClassVar = "cost"

    @property
    def group(self) -> str:
        """The cases that are measured together: same shape, dtype, pass and device."""
        heads = f"h{self.heads}x{self.kv_heads}"
        shape = f"b{self.batch}-{heads}-l{self.length}-d{self.dim}"
        return f"{self.pass_}-{shape}-{self._ending()}-{self.source}"


@dataclass(frozen=True, kw_only=True)
class FidelityCase(Case):
    """One pattern on the q, k, v of one source."""

    layer: str | None  # None for a synthetic source

    kind: ClassVar = "fidelity"

    @property
    def group(self) -> str:
        """The cases that share their source, length, dtype and device."""
        return f"{self.source}-l{self.length}-{self._ending()}"


AnyCase = CostCase | FidelityCase


def as_dict(case: Case) -> dict[str, Any]:
    """The case as a record has it."""
    return {name.removesuffix("_"): value for name, value in asdict(case).items()}


def case_key(case: Case) -> str:
    """16 hexadecimal digits that identify a case: of the SHA-256 of its canonical JSON."""
    document = {"kind": case.kind, **as_dict(case)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The unit of measuring.

    `comparisons` are the keys of the cases that nobody asked for: rows to compare with. `map_bins`
    has the keys of those whose map is to be kept, and in how many bins.
    """

    id: str
    cases: tuple[AnyCase, ...]
    comparisons: frozenset[str] = frozenset()
    map_bins: Mapping[str, int] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["cost", "fidelity"]:
        """What its cases are."""
        return "cost" if isinstance(self.cases[0], CostCase) else "fidelity"

    def role(self, case: AnyCase) -> Literal["asked", "comparison"]:
        """What the record of one of its cases says of it."""
        return "comparison" if case_key(case) in self.comparisons else "asked"


def grouped(
    cases: Iterable[AnyCase],
    comparisons: Iterable[AnyCase] = (),
    map_bins: Mapping[str, int] = MappingProxyType({}),
    rank: Mapping[str, int] = MappingProxyType({}),
) -> list[Group]:
    """Sort cases into groups: fidelity before cost, by rank, short before long; equal cases once.

    Fidelity takes the time that it takes; timing makes use of all that is left.

    Args:
        cases: those that were asked for.
        comparisons: those that were not; one that was asked for as well counts as asked.
        map_bins: by case key, where a map is to be kept.
        rank: by group, where it is not 0.
    """
    asked = {case_key(case): case for case in cases}
    extra = {case_key(case): case for case in comparisons}
    extra = {key: case for key, case in extra.items() if key not in asked}
    members: dict[str, list[AnyCase]] = {}
    for case in (*asked.values(), *extra.values()):
        members.setdefault(case.group, []).append(case)
    groups = [
        Group(
            id=group,
            cases=tuple(found),
            comparisons=frozenset(map(case_key, found)) & extra.keys(),
            map_bins={key: map_bins[key] for key in map(case_key, found) if key in map_bins},
        )
        for group, found in members.items()
    ]
    return sorted(
        groups,
        key=lambda group: (group.kind == "cost", rank.get(group.id, 0), group.cases[0].length),
    )
