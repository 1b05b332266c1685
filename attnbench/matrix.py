"""From what was asked to the cases: patterns x backends x lengths x passes, and the sources."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.baselines import keys_per_query
from attnbench.case import CostCase, FidelityCase, Group, Pass, case_key, grouped
from attnbench.sources import Setting, offers, settings
from patterns import PATTERNS, Pattern, Shape, patterns
from patterns.errors import BadInput
from patterns.grammar import near_match, spell

ALL = "all"  # in place of a spec: every pattern there is
ELEMENT_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

_SPANS = ("block", "columns", "window", "stride")
_DENSE = ("sdpa", "sdpa:cudnn", "sdpa:flash", "sdpa:efficient", "eager")
_WINDOWS = 3  # rows at equal keys in a group, at most
_ALIKE = 1.25  # key counts within this factor share one such row


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One cross product of what to measure. `heads` and `dim` hold for cost and synthetic sources.

    A source is measured at those of the lengths that it offers; `fidelity_lengths` are other ones.
    """

    patterns: tuple[str, ...] = (ALL,)
    backends: tuple[str, ...] = ("auto",)
    lengths: tuple[int, ...]
    passes: tuple[Pass, ...] = ("fwd",)
    sources: tuple[str, ...] = ()
    fidelity_lengths: tuple[int, ...] | None = None
    batch: int = 1
    heads: int
    kv_heads: int
    dim: int = 64
    dtype: str
    device: str
    causal: bool = True
    seed: int = 0
    baselines: bool = True
    map_bins: int = 0  # a map file has so many bins; 0: there are none
    map_layers: int = 1  # of a source and length, that get map files
    rank: int = 0  # groups that only matrices of a higher one ask for are measured later


def groups_of(parts: Sequence[Matrix]) -> list[Group]:
    """Everything that these matrices ask for, in the order of measuring.

    Raises:
        BadInput: an unknown pattern, backend or source, a parameter that is longer than every
            length, or a source that is shorter.
    """
    asked: list[CostCase | FidelityCase] = []
    extra: list[CostCase] = []
    map_bins: dict[str, int] = {}
    rank: dict[str, int] = {}
    for matrix in parts:
        chosen = asked_patterns(matrix)
        judged = fidelity_cases(matrix, chosen)
        own: list[CostCase | FidelityCase] = [*cost_cases(matrix, chosen), *judged]
        asked += own
        for group in {case.group for case in own}:
            rank[group] = min(matrix.rank, rank.get(group, matrix.rank))
        if matrix.map_bins:
            map_bins |= {case_key(case): matrix.map_bins for case in _mapped(matrix, judged)}
    for matrix in parts:
        if matrix.baselines and matrix.passes:
            extra += _comparisons(matrix, [case for case in asked if isinstance(case, CostCase)])
    return grouped(asked, extra, map_bins, rank)


def asked_patterns(matrix: Matrix) -> list[Pattern]:
    """The patterns of a matrix, with its causality.

    Raises:
        BadInput: no such pattern, backend or parameter, or it fits none of the lengths.
    """
    specs = [name for spec in matrix.patterns for name in (PATTERNS if spec == ALL else (spec,))]
    found: dict[str, Pattern] = {}
    for chosen in (one for spec in specs for one in patterns(spec)):
        pattern = with_causality(chosen, matrix.causal)
        lengths = matrix.lengths if matrix.passes else matrix.fidelity_lengths or matrix.lengths
        reasons = [too_long(pattern, length) for length in lengths]
        if reasons and all(reasons):
            raise BadInput(f"{asked_name(pattern)}: {reasons[-1]}, and so is every other length")
        found[pattern.spec] = pattern
    expect_backends(found.values(), matrix.backends)
    return list(found.values())


def expect_backends(chosen: Iterable[Pattern], backends: Iterable[str]) -> None:
    """Refuse a backend that none of the patterns has.

    Raises:
        BadInput: there is one.
    """
    known = {"auto"} | {name for pattern in chosen for name in pattern.backends}
    for backend in backends:
        if backend not in known:
            raise BadInput(f"unknown backend {backend!r}: {near_match(backend, known)}")


def with_causality(pattern: Pattern, causal: bool) -> Pattern:
    """The same pattern with the causality of the run.

    Raises:
        BadInput: it asks for the other one itself.
    """
    if causal and not pattern.causal:
        raise BadInput(
            f"{pattern.spec} is bidirectional: --bidirectional asks for that, for all patterns"
        )
    same: Pattern = dataclasses.replace(pattern, causal=causal)  # type: ignore[type-var]
    return same


def asked_name(pattern: Pattern) -> str:
    """How a pattern is named in records: its spec without the causality."""
    return spell(pattern.name, pattern, hide=("causal",))


def too_long(pattern: Pattern, length: int) -> str | None:
    """Which parameter is longer than the sequence, as a sentence, or None."""
    for name in _SPANS:
        value = getattr(pattern, name, None)
        if value is not None and value > length:
            return f"{name}={value} is longer than the length {length}"
    return None


def cost_cases(matrix: Matrix, chosen: Sequence[Pattern]) -> list[CostCase]:
    """patterns x backends x lengths x passes."""
    return [
        cost_case(matrix, pattern, backend, length, one_pass)
        for length in matrix.lengths
        for one_pass in matrix.passes
        for pattern in chosen
        for backend in matrix.backends
    ]


def cost_case(
    matrix: Matrix, pattern: Pattern, backend: str, length: int, one_pass: Pass
) -> CostCase:
    """One cost case at the sizes of a matrix."""
    return CostCase(
        asked=asked_name(pattern),
        pattern=pattern.resolve(length).spec,
        backend=backend,
        causal=matrix.causal,
        length=length,
        heads=matrix.heads,
        kv_heads=matrix.kv_heads,
        dim=matrix.dim,
        dtype=matrix.dtype,
        device=matrix.device,
        seed=matrix.seed,
        pass_=one_pass,
        batch=matrix.batch,
    )


def fidelity_cases(matrix: Matrix, chosen: Sequence[Pattern]) -> list[FidelityCase]:
    """sources x lengths that they offer x layers x patterns x backends.

    Raises:
        BadInput: a source that is unknown, of the other causality, or offers none of the lengths.
    """
    return [
        _fidelity_case(matrix, setting, pattern, backend, length)
        for setting, length in _settings(matrix)
        for pattern in chosen
        for backend in matrix.backends
    ]


def _settings(matrix: Matrix) -> Iterator[tuple[Setting, int]]:
    lengths = matrix.fidelity_lengths or matrix.lengths
    for source in matrix.sources:
        found = settings(source, causal=matrix.causal)
        offered = [
            (setting, length) for length in lengths for setting in found if offers(setting, length)
        ]
        if not offered:
            longest = max(setting.max_length or 0 for setting in found)
            asked = ", ".join(map(str, lengths))
            which = "has up to" if matrix.causal else "is bidirectional, so it cannot be cut: has"
            raise BadInput(f"source {source!r} {which} {longest} tokens, and asked was {asked}")
        yield from offered


def _fidelity_case(
    matrix: Matrix, setting: Setting, pattern: Pattern, backend: str, length: int
) -> FidelityCase:
    return FidelityCase(
        asked=asked_name(pattern),
        pattern=pattern.resolve(length).spec,
        backend=backend,
        causal=matrix.causal,
        length=length,
        heads=setting.heads or matrix.heads,
        kv_heads=setting.kv_heads or matrix.kv_heads,
        dim=setting.dim or matrix.dim,
        dtype=matrix.dtype,
        device=matrix.device,
        source=setting.source,
        seed=matrix.seed,
        layer=setting.layer,
    )


def shape_of(case: CostCase | FidelityCase) -> Shape:
    """The sizes of a case, as cost models want them."""
    return Shape(
        batch=case.batch if isinstance(case, CostCase) else 1,
        heads=case.heads,
        kv_heads=case.kv_heads,
        length=case.length,
        dim=case.dim,
        element_bytes=ELEMENT_BYTES[case.dtype],
    )


def _mapped(matrix: Matrix, judged: Sequence[FidelityCase]) -> Iterator[FidelityCase]:
    """The cases whose map is kept: of a few layers, spread over those of each group."""
    layers: dict[str, list[str | None]] = {}
    for case in judged:
        if case.layer not in layers.setdefault(case.group, []):
            layers[case.group].append(case.layer)
    for case in judged:
        found = layers[case.group]
        count = min(matrix.map_layers, len(found))
        chosen = {found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)}
        if case.layer in chosen:
            yield case


def _comparisons(matrix: Matrix, asked: Sequence[CostCase]) -> Iterator[CostCase]:
    """Dense attention on every kernel there is, and the sliding window at equal keys."""
    full = with_causality(patterns("full")[0], matrix.causal)
    backends = _DENSE if matrix.device == "cuda" else ("sdpa", "eager")
    for length in matrix.lengths:
        same = [case for case in asked if case.length == length]
        windows = _windows({case.pattern for case in same}, length, matrix.causal)
        for one_pass in matrix.passes:
            dense = [cost_case(matrix, full, backend, length, one_pass) for backend in backends]
            default = cost_case(matrix, full, "auto", length, one_pass)  # which is sdpa
            yield from dense[1:] if default in same else dense
            for window in windows:
                yield cost_case(matrix, window, "auto", length, one_pass)


def _windows(names: set[str], length: int, causal: bool) -> list[Pattern]:
    """Sliding windows with as many keys as the patterns at this length, a few for all of them."""
    if "local" not in PATTERNS:
        return []
    others = [
        pattern
        for pattern in (patterns(name)[0] for name in names)
        if pattern.aim in ("subset", "approximates") and pattern.name != "local"
    ]
    keys = sorted(keys_per_query(x, length) for x in others if not too_long(x, length))
    keys_of_all = keys_per_query(_local(length, causal), length)
    chosen: list[float] = []
    for count in keys:
        if 2 <= count < keys_of_all and (not chosen or count > _ALIKE * chosen[-1]):
            chosen.append(count)
    if len(chosen) > _WINDOWS:
        chosen = [chosen[0], chosen[len(chosen) // 2], chosen[-1]]
    return [_window(count, length, causal) for count in chosen]


def _window(keys: float, length: int, causal: bool) -> Pattern:
    low, high = 1, length
    while low < high:
        middle = (low + high) // 2
        enough = keys_per_query(_local(middle, causal), length) >= keys
        low, high = (low, middle) if enough else (middle + 1, high)
    return _local(low, causal)


def _local(window: int, causal: bool) -> Pattern:
    cls: Any = PATTERNS["local"]
    found: Pattern = cls(window=window, causal=causal)
    return found
