"""What is measured when little is said: presets as functions, and options laid over them.

A preset has a main part and further ones. Naming patterns, lengths or passes asks for a matrix of
one's own: then the main part is laid out with them, and the further ones are dropped.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from attnbench.kernel_matrices import kernel_parts
from attnbench.matrix import Matrix
from attnbench.sources import offers, settings
from patterns import PATTERNS
from patterns.errors import BadInput
from patterns.grammar import field_types, near_match

K = 1024

_OWN_MATRIX = ("patterns", "lengths", "passes")
_TRAINING_FREE = {"summary": "variational", "sink": 4, "near": 1}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run measures, all parts together, and how long it may take."""

    preset: str
    parts: tuple[Matrix, ...]
    budget_s: float

    def document(self) -> list[dict[str, Any]]:
        """The parts as run.json has them."""
        return [
            {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(part).items()}
            for part in self.parts
        ]


def quick(device: str) -> Plan:
    """Every pattern at a few lengths, its fidelity on captured layers, and a map: two minutes."""
    on_gpu = device == "cuda"
    lengths = _doubled(K, 16 * K) if on_gpu else _doubled(256, 2 * K)
    main = replace(
        _main(device, lengths),
        sources=("captured",),
        fidelity_lengths=(2 * K,) if on_gpu else (K,),
        map_bins=256 if on_gpu else 128,
    )
    return Plan(preset="quick", parts=(main,), budget_s=120 if on_gpu else 150)


def full(device: str) -> Plan:
    """Every pattern to 64k, both ways, variants, synthetic sources: nine minutes on an H100.

    Starting, and what a last group takes too long, are in the half minute that is left over.
    """
    main = replace(
        _main(device, _doubled(K, 64 * K)),
        passes=("fwd", "fwdbwd"),
        sources=("captured",),
        fidelity_lengths=(2 * K,),
        map_bins=256,
    )
    fast = tuple(name for name, cls in PATTERNS.items() if not cls.quadratic)
    # At 4k and 8k every automatic block, column and stride is 64: the patterns at one fixed block.
    two = replace(
        main, lengths=(4 * K, 8 * K), passes=("fwd",), baselines=False, sources=(), map_bins=0
    )
    sinks = tuple(f"sinks[window={window}]" for window in (128, 256, 512, 1024, 2048))
    judged = replace(main, passes=(), map_bins=0)
    lengths = (2 * K, 4 * K, 8 * K)
    synthetic = replace(
        judged,
        sources=("heavy-hitter", "needle", "local-decay"),
        fidelity_lengths=(4 * K,),
        heads=8,
        kv_heads=8,
    )
    return Plan(
        preset="full",
        parts=(
            main,
            replace(two, patterns=(*_training_free(), *sinks)),
            replace(judged, fidelity_lengths=lengths[1:]),
            replace(judged, fidelity_lengths=lengths, patterns=(*_training_free(), *sinks)),
            synthetic,
            replace(two, lengths=(256 * K,), patterns=fast),
        ),
        budget_s=8.25 * 60,
    )


def maps(device: str) -> Plan:
    """Maps and fidelity of every pattern on every captured layer, and nothing timed."""
    lengths = (2 * K,) if device == "cuda" else (K,)
    part = replace(
        _main(device, lengths), passes=(), sources=("captured",), map_bins=512, map_layers=K
    )
    return Plan(preset="maps", parts=(part,), budget_s=600)


def kernels(device: str) -> Plan:
    """The fused kernels beside dense attention, 2k to 1M tokens: under 8 minutes on an H100."""
    parts = kernel_parts(_main(device, (4 * K,)))
    return Plan(preset="kernels", parts=parts, budget_s=7.5 * 60)


PRESETS: Mapping[str, Callable[[str], Plan]] = MappingProxyType(
    {"full": full, "kernels": kernels, "maps": maps, "quick": quick}
)


def preset(name: str, device: str) -> Plan:
    """The preset of this name for this device.

    Raises:
        BadInput: there is none.
    """
    if name not in PRESETS:
        raise BadInput(f"unknown preset {name!r}: {near_match(name, PRESETS)}")
    return PRESETS[name](device)


def overridden(plan: Plan, options: Mapping[str, Any], budget_s: float | None = None) -> Plan:
    """A preset with what was asked for in place of what it says.

    Args:
        plan: the preset.
        options: fields of `Matrix` and what was asked for each.
        budget_s: of the whole run, if somebody asked.
    """
    parts = plan.parts[:1] if options.keys() & set(_OWN_MATRIX) else plan.parts
    return replace(
        plan,
        parts=tuple(dict.fromkeys(_overridden(part, options) for part in parts)),
        budget_s=plan.budget_s if budget_s is None else budget_s,
    )


def _overridden(part: Matrix, options: Mapping[str, Any]) -> Matrix:
    changed = replace(part, **options)
    if not part.sources:
        return replace(changed, sources=())
    if "lengths" not in options:
        lengths = part.fidelity_lengths or part.lengths
        return replace(changed, fidelity_lengths=_offered(changed, lengths))
    changed = replace(changed, fidelity_lengths=None)
    if "sources" in options:
        return changed  # what was asked for in so many words is not dropped in silence
    return replace(changed, sources=tuple(_that_offer(changed)))


def _offered(part: Matrix, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """These lengths, and for a source that has none of them, the longest that it has."""
    found = set(lengths)
    for source in part.sources:
        having = settings(source, causal=part.causal)
        if not any(offers(one, length) for one in having for length in lengths):
            found.add(max(one.max_length or 0 for one in having))
    return tuple(sorted(found))


def _that_offer(part: Matrix) -> Iterable[str]:
    for source in part.sources:
        having = settings(source, causal=part.causal)
        if any(offers(one, length) for one in having for length in part.lengths):
            yield source


def _main(device: str, lengths: tuple[int, ...]) -> Matrix:
    on_gpu = device == "cuda"
    heads = 16 if on_gpu else 4
    return Matrix(
        lengths=lengths,
        heads=heads,
        kv_heads=heads,
        dtype="bfloat16" if on_gpu else "float32",
        device=device,
    )


def _doubled(first: int, last: int) -> tuple[int, ...]:
    return tuple(first << step for step in range((last // first).bit_length()))


def _training_free() -> tuple[str, ...]:
    """The Combiners as they can go into a trained model: better summaries, sinks, neighbours."""
    values = ",".join(f"{field}={value}" for field, value in _TRAINING_FREE.items())
    return tuple(
        f"{name}[{values}]"
        for name, cls in PATTERNS.items()
        if name.startswith("combiner-") and field_types(cls).keys() >= _TRAINING_FREE.keys()
    )
