"""What a whole stack of attention layers costs: products, key-value bytes, and predicted time.

Only attention counts here: no projections, no feed-forward layers.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.layers import Layer, calls, heads_of
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


def stack_cost(layers: Sequence[Layer], shape: Shape) -> StackCost:
    """The cost of these layers, each of this shape.

    Raises:
        BadInput: a layer does not fit the heads.
    """
    costs = [(one.cost(part), count) for (one, part), count in calls(layers, shape).items()]
    queries = shape.batch * shape.heads * shape.length * len(layers)
    kept = sum(count * _kept(one, shape) for one, count in Counter(layers).items())
    return StackCost(
        flops=sum(count * cost.flops for cost, count in costs),
        scored_pairs=sum(count * cost.scored_pairs for cost, count in costs),
        keys_per_query=sum(count * cost.attended_pairs for cost, count in costs) / queries,
        kv_bytes=2 * kept * shape.batch * shape.dim * shape.element_bytes,
    )


def _kept(layer: Layer, shape: Shape) -> int:
    """Tokens that a layer keeps, over its key-value heads: each as many as a reader needs."""
    group, most = shape.heads // shape.kv_heads, [0] * shape.kv_heads
    for one, heads in heads_of(layer, shape.heads).items():
        tokens = kept_tokens(one, shape.length)
        for head in heads:
            most[head // group] = max(most[head // group], tokens)
    return sum(most)


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
    layers: Sequence[Layer],
    shape: Shape,
    records: Iterable[Record],
    *,
    dtype: str,
    device: str,
) -> Predicted:
    """Milliseconds of the forward passes of these layers, from the cost records of a run.

    A pattern's time is its measured one; between two measured lengths it follows the power law
    through both. Nothing is predicted beyond the lengths that were measured. Where heads have
    patterns of their own, each is one call on its heads.

    Args:
        layers: the patterns, or those of the heads.
        shape: of each layer.
        records: of a run folder, as `attnbench.records.read` gives them.
        dtype: such as ``bfloat16``.
        device: ``cpu`` or ``cuda``.

    Raises:
        Unsupported: a pattern has no time at this shape, or only at lengths to one side; says
            how to measure it.
    """
    every = list(records)
    total, measured = 0.0, {}
    for (pattern, part), count in calls(layers, shape).items():
        wanted = {
            "pass": "fwd", "batch": part.batch, "heads": part.heads, "kv_heads": part.kv_heads,
            "dim": part.dim, "dtype": dtype, "device": device, "backend": "auto",
        }  # fmt: skip
        times = {
            one["case"]["length"]: _ms(one) for one in every
            if one["kind"] == "cost" and one["status"] == "ok"
            and all(one["case"].get(name) == value for name, value in wanted.items())
            and _is_of(one["case"], pattern)
        }  # fmt: skip
        found = _near(times, shape.length)
        if found is None:
            raise Unsupported(_missing(pattern, part, dtype, device, sorted(times)))
        some = "" if part.heads == shape.heads else f" on {part.heads} heads"
        measured[f"{asked_name(pattern)}{some}"] = tuple(found)
        total += count * _between(found, shape.length)
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
