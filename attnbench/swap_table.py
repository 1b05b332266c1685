"""The swap table: every causal pattern in a model, at equal keys, beside mixed schedules.

`evaluate --preset swap` asks for it; what else is said on the command line goes over it.
"""

from typing import Any

from patterns import PATTERNS
from patterns.grammar import field_types

K = 1024

KEYS = "combiner-fixed[block=64,sink=4,near=1]"  # as many as this one has, at each length
_TRAINING_FREE = "summary=variational,sink=4,near=1"
_MIXED = (
    "masformer[full=auto,window=128,sink=0|4,place=bottom|top|interleaved]",  # sinks are ours
)
_OPEN = "combiner-open[block=16,top=3,near=1]"
_SLOW = ("combiner-logsparse", "combiner-mixture")  # of many small calls: last, for a budget


def swap_table() -> dict[str, Any]:
    """The fields of `attnbench.evaluation.Evaluation` that the table sets."""
    quick = [name for name in PATTERNS if name not in _SLOW]
    combiners = [name for name in quick if name.startswith("combiner-")]
    free = [
        f"{name}[{_TRAINING_FREE}]"
        for name in combiners
        if "summary" in field_types(PATTERNS[name])
    ]
    slow_free = f"combiner-logsparse[{_TRAINING_FREE}]"
    return {
        "schedules": (
            *free, _OPEN, *_MIXED, *quick, "logsparse[keys=suffix]", *_SLOW, slow_free,
        ),
        "lengths": (K, 2 * K, 4 * K),
        "keys": KEYS,
        "sensitivity": ("sinks", f"combiner-fixed[{_TRAINING_FREE}]"),
    }  # fmt: skip
