"""A guard on ceilings: more operations or bytes a second than the device was measured to do.

Then the time is wrong, or not all was done. Both counts are the least that any implementation
could do, so that it fires for no kernel that is merely good. A ceiling that was measured on a busy
machine is taken to be higher, by as much as its own measurements differ.
"""

from collections.abc import Mapping
from typing import Any

from attnbench.case import CostCase
from attnbench.ceilings import doubtful, rates_of
from attnbench.guards import Fired, ceiling
from attnbench.matrix import shape_of

_LEAST_PRODUCTS = {"fwd": 1.0, "bwd": 2.0, "fwdbwd": 3.0}  # of the forward's, nothing made twice
# In other dtypes kernels have faster products than the plain one that was measured: on CUDA float32
# in parts of TF32, on a CPU half precision turned into single.
_HELD_TO_MATMUL = {"cuda": ("bfloat16", "float16", "float64"), "cpu": ("float32", "float64")}
_SLACK = {"cuda": 1.0, "cpu": 4.0}  # one small product tells little of a CPU with many cores
# How many tensors of the size of q, and of k, are read or written.
_TENSORS = {"fwd": (2, 2), "bwd": (3, 4), "fwdbwd": (4, 4)}  # q, k, v, o; dO, dq, dk, dv
_WITHOUT_SCORES = {"fwd": (1, 1), "bwd": (1, 1), "fwdbwd": (2, 2)}  # v, o; dO, dv


def above_ceilings(
    ceilings: Mapping[str, Any] | None, cost: Mapping[str, Any] | None, case: CostCase, ms: float
) -> Fired:
    """What fired, `ceiling` or nothing.

    Args:
        ceilings: as `attnbench.ceilings.measured` gives them.
        cost: the `cost` block of the record.
        case: what was timed.
        ms: its cold time.
    """
    if ceilings is None or cost is None:
        return {}
    slack = _SLACK[case.device]
    found: Fired = {}
    if case.dtype in _HELD_TO_MATMUL[case.device]:
        rate = _at_most(ceilings, case.dtype)
        found = ceiling("FLOPs", cost["flops"] * _LEAST_PRODUCTS[case.pass_] / slack, ms, rate)
    cache = ceilings.get("cache_bytes")
    if found or cache is None:  # on a CPU nothing is flushed, and its caches may hold all of it
        return found
    moved = mandatory_bytes(case, scored=cost["scored_pairs"] > 0)
    # As much as the cache holds may have been there, or may never leave it.
    return ceiling(
        "bytes", max(0, moved - cache) / slack, ms, _at_most(ceilings, "copy_bytes_per_s")
    )


def _at_most(ceilings: Mapping[str, Any], name: str) -> float | None:
    """What the device may do, if a ceiling was measured while it did other things."""
    rate = rates_of(ceilings).get(name)
    return None if rate is None else rate / (1 - doubtful(ceilings).get(name, 0.0))


def mandatory_bytes(case: CostCase, *, scored: bool = True) -> int:
    """Of the tensors that no implementation can leave out, each read or written once.

    Args:
        case: its shape and its pass.
        scored: whether queries and keys are looked at.
    """
    shape = shape_of(case)
    queries, keys = (_TENSORS if scored else _WITHOUT_SCORES)[case.pass_]
    lines = shape.batch * (queries * shape.heads + keys * shape.kv_heads)
    return shape.element_bytes * lines * shape.length * shape.dim
