"""The figures as functions: a frame or a map in, the Axes out.

Frames are those of `reports.open(RUN)`: `cost` and `fidelity`, one row a case. Each function draws
into the Axes that it is given, or makes a figure as wide as two columns of a paper, and returns the
Axes. Lines never mix devices, dtypes or shapes: a frame that does is refused. Fidelity is drawn for
one source and length, captured before others and the longest, unless another is asked for.
"""

from reports.plots.cost import change, latency, memory, roofline, speedup
from reports.plots.fidelity import (
    error_cost,
    error_length,
    heads,
    mass_by_distance,
    parents,
    recall,
    row_errors,
    row_positions,
)
from reports.plots.maps import difference, effective, full, mask, profile, triptych

__all__ = [
    "change",
    "difference",
    "effective",
    "error_cost",
    "error_length",
    "full",
    "heads",
    "latency",
    "mask",
    "mass_by_distance",
    "memory",
    "parents",
    "profile",
    "recall",
    "roofline",
    "row_errors",
    "row_positions",
    "speedup",
    "triptych",
]
