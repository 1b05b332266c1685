"""What a whole stack of attention layers costs: products, key-value bytes, and predicted time.

Only attention counts here: no projections, no feed-forward layers.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.matrix import asked_name
from attnbench.records import Record
from patterns.base import Pattern, Shape
from patterns.errors import Unsupported
from patterns.sparse.local import Local
from patterns.sparse.sinks import Sinks


@dataclass(frozen=True, kw_only=True)
class StackCost:
    """What the definitions of all layers need for one prefill.

    flops: of the matrix products.
    scored_pairs: query-key products.
    keys_per_query: attended pairs a query, mean over layers; summaries count as one key.
    kv_bytes: keys and values that have to be kept to go on after the prefill.
    """

    flops: int
    scored_pairs: int
    keys_per_query: float
    kv_bytes: int


def stack_cost(layers: Sequence[Pattern], shape: Shape) -> StackCost:
    """The cost of these layers, each of this shape."""
    known = {one: one.cost(shape) for one in dict.fromkeys(layers)}
    costs = [known[one] for one in layers]
    queries = shape.batch * shape.heads * shape.length * len(layers)
    kept = sum(kept_tokens(one, shape.length) for one in layers)
    return StackCost(
        flops=sum(cost.flops for cost in costs),
        scored_pairs=sum(cost.scored_pairs for cost in costs),
        keys_per_query=sum(cost.attended_pairs for cost in costs) / queries,
        kv_bytes=2 * kept * shape.batch * shape.kv_heads * shape.dim * shape.element_bytes,
    )


def kept_tokens(pattern: Pattern, length: int) -> int:
    """How many tokens' keys and values a causal layer keeps after a prefill of this length.

    A window keeps itself less the token that leaves it with the next one, and its sinks. All other
    patterns are counted with every token: what more they could drop is up to an implementation.
    """
    resolved = pattern.resolve(length)
    if isinstance(resolved, Sinks):
        return min(length, resolved.sink + resolved.window - 1)
    if isinstance(resolved, Local):
        return min(length, resolved.window - 1)
    return length


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The time of a stack, and the measured lengths that it was taken from, by pattern."""

    ms: float
    measured: dict[str, tuple[int, ...]]


def predicted_time(
    layers: Sequence[Pattern],
    shape: Shape,
    records: Iterable[Record],
    *,
    dtype: str,
    device: str,
) -> Predicted:
    """Milliseconds of the forward passes of these layers, from the cost records of a run.

    A pattern's time is its measured one; between two measured lengths it follows the power law
    through both. Nothing is predicted beyond the lengths that were measured.

    Args:
        layers: the patterns.
        shape: of each layer.
        records: of a run folder, as `attnbench.records.read` gives them.
        dtype: such as ``bfloat16``.
        device: ``cpu`` or ``cuda``.

    Raises:
        Unsupported: a pattern has no time at this shape, or only at lengths to one side; says
            how to measure it.
    """
    wanted = {
        "pass": "fwd", "batch": shape.batch, "heads": shape.heads, "kv_heads": shape.kv_heads,
        "dim": shape.dim, "dtype": dtype, "device": device, "backend": "auto",
    }  # fmt: skip
    good = [
        one for one in records
        if one["kind"] == "cost" and one["status"] == "ok"
        and all(one["case"].get(name) == value for name, value in wanted.items())
    ]  # fmt: skip
    total, measured = 0.0, {}
    for pattern in dict.fromkeys(layers):
        times = {one["case"]["length"]: _ms(one) for one in good if _is_of(one["case"], pattern)}
        found = _near(times, shape.length)
        if found is None:
            raise Unsupported(_missing(pattern, shape, dtype, device, sorted(times)))
        measured[asked_name(pattern)] = tuple(found)
        total += layers.count(pattern) * _between(found, shape.length)
    return Predicted(ms=total, measured=measured)


def _is_of(case: dict[str, Any], pattern: Pattern) -> bool:
    """Whether a case timed this pattern: as it was asked for, or with its automatic values."""
    if case["causal"] != pattern.causal:
        return False
    resolved = asked_name(pattern.resolve(case["length"]))
    bare = dataclasses.replace(pattern, causal=case["causal"])  # type: ignore[type-var]
    return case["asked"] in (asked_name(pattern), resolved) or case["pattern"] == bare.spec


def _ms(record: Record) -> float:
    return float(record["time"]["cold_ms"]["median"])


def _near(times: dict[int, float], length: int) -> dict[int, float] | None:
    """The time at this length, or those at the nearest ones on both sides."""
    if length in times:
        return {length: times[length]}
    below, above = [n for n in times if n < length], [n for n in times if n > length]
    if not below or not above:
        return None
    return {n: times[n] for n in (max(below), min(above))}


def _between(found: dict[int, float], length: int) -> float:
    """The power law through two points, or the one point."""
    if length in found:
        return found[length]
    (short, fast), (long, slow) = found.items()
    share = math.log(length / short) / math.log(long / short)
    return math.exp((1 - share) * math.log(fast) + share * math.log(slow))


def _missing(
    pattern: Pattern, shape: Shape, dtype: str, device: str, lengths: Sequence[int]
) -> str:
    name = asked_name(pattern)
    there = f"only at {', '.join(map(str, lengths))}" if lengths else "nowhere"
    return (
        f"{name} has no time at length {shape.length}, {shape.heads}/{shape.kv_heads} heads of "
        f"{shape.dim}, batch {shape.batch}, {dtype} on {device}: it was measured {there}. Measure "
        f"it with run --pattern '{name}' --length {shape.length} --heads "
        f"{shape.heads}/{shape.kv_heads} --dim {shape.dim} --batch {shape.batch} --dtype {dtype}"
    )
