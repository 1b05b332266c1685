"""What the device can do at most: copy, multiply matrices, take exponentials; and a record's share.

Measured once a run, in seconds, with plain operations of PyTorch: ceilings of practice, not of the
data sheet. Times on a CPU that does other things make them too low, and shares too high.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from attnbench.predict import PASS_FACTOR

_BUDGET_S = {"cuda": 0.15, "cpu": 0.05}  # of each ceiling
_LEAST_RUNS = 3
_MATMUL = {"cuda": 8192, "cpu": 512}
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}  # far beyond the caches
_EXP_ELEMENTS = {"cuda": 1 << 22, "cpu": 1 << 16}
_EXPS = 512  # of each element in one kernel, so that memory does not count
BYTES_FACTOR = {"fwd": 1.0, "bwd": 2.0, "fwdbwd": 3.0}  # q, k, v, o and dO in, three gradients out
EXP_FACTOR = {"fwd": 1.0, "bwd": 1.0, "fwdbwd": 2.0}  # backward passes take them again
_EXP_CODE = (
    "template <typename T> T many_exp(T x) "
    f"{{ for (int i = 0; i < {_EXPS}; i++) x = exp2f(-x); return x; }}"
)

Ceilings = Mapping[str, Any]


def measured(device: torch.device, dtypes: tuple[str, ...]) -> dict[str, Any]:
    """The ceilings of a device.

    Returns:
        `copy_bytes_per_s` (read and written), `matmul_flops_per_s` by dtype, `exp_per_s`,
        `cache_bytes` (of L2; null on a CPU), and `notes`: why a value is null.
    """
    notes: dict[str, str] = {}

    def tried(name: str, rate: Callable[[], float]) -> float | None:
        try:
            return rate()
        except Exception as error:  # whatever a device, or a compiler that is not there, raises
            notes[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
            return None

    return {
        "copy_bytes_per_s": tried("copy_bytes_per_s", lambda: _copy_rate(device)),
        "matmul_flops_per_s": {
            dtype: tried(dtype, lambda: _matmul_rate(device, getattr(torch, dtype)))  # noqa: B023
            for dtype in dtypes
        },
        "exp_per_s": tried("exp_per_s", lambda: _exp_rate(device)),
        "cache_bytes": (
            torch.cuda.get_device_properties(device).L2_cache_size
            if device.type == "cuda"
            else None
        ),
        "notes": notes,
    }


def roof(
    ceilings: Ceilings | None,
    cost: Mapping[str, Any] | None,
    *,
    dtype: str,
    pass_: str,
    ms: float,
    computed_pairs: int | None = None,
) -> dict[str, Any] | None:
    """How near a time is to the least that its work could take on this device.

    Args:
        ceilings: as `measured` gives them.
        cost: the `cost` block of the record, of one forward pass.
        dtype: of the products.
        pass_: the pass.
        ms: the cold time.
        computed_pairs: that the tiles of the implementation multiply in a forward pass, if known.

    Returns:
        Of the definition's work `least_ms`, `share` (of the time), `bound`: which ceiling it is
        (`copy`, `matmul` or `exp`), and `scored_pairs`; with `computed_pairs` in their place
        `tile_least_ms`, `tile_share` and `tile_bound`, null where those are unknown. None where a
        ceiling or the cost is unknown.
    """
    if ceilings is None or cost is None:
        return None
    scored = cost["scored_pairs"]
    found = _bound(ceilings, cost, dtype, pass_, 1.0)
    if found is None:
        return None
    (bound, least_ms), tiles = found, None
    if computed_pairs is not None and scored:
        tiles = _bound(ceilings, cost, dtype, pass_, computed_pairs / scored)
    return {
        "least_ms": least_ms,
        "share": least_ms / ms,
        "bound": bound,
        "scored_pairs": scored,
        "computed_pairs": computed_pairs,
        "tile_least_ms": None if tiles is None else tiles[1],
        "tile_share": None if tiles is None else tiles[1] / ms,
        "tile_bound": None if tiles is None else tiles[0],
    }


def _bound(
    ceilings: Ceilings, cost: Mapping[str, Any], dtype: str, pass_: str, times: float
) -> tuple[str, float] | None:
    """The ceiling that is reached first and its milliseconds, with so many times the products."""
    rates = {
        "copy": (cost["bytes"] * BYTES_FACTOR[pass_], ceilings.get("copy_bytes_per_s")),
        "matmul": (
            times * cost["flops"] * PASS_FACTOR[pass_],
            (ceilings.get("matmul_flops_per_s") or {}).get(dtype),
        ),
        "exp": (times * cost["scored_pairs"] * EXP_FACTOR[pass_], ceilings.get("exp_per_s")),
    }
    known = {name: 1e3 * work / rate for name, (work, rate) in rates.items() if rate}
    if not {"copy", "matmul"} <= known.keys():
        return None
    bound = max(known, key=lambda name: known[name])
    return bound, known[bound]


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _fastest_s(device, lambda: target.copy_(source))


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    size = _MATMUL[device.type]
    x = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(x)
    return 2 * size**3 / _fastest_s(device, lambda: torch.mm(x, x, out=out))


def _exp_rate(device: torch.device) -> float:
    """Base-2 exponentials of float32 in registers on CUDA; `torch.exp` in the cache on a CPU."""
    x = torch.rand(_EXP_ELEMENTS[device.type], device=device)
    if device.type == "cuda":
        jiterator: Any = torch.cuda.jiterator
        many = jiterator._create_jit_fn(_EXP_CODE)
        return _EXPS * x.numel() / _fastest_s(device, lambda: many(x))
    out = torch.empty_like(x)
    return x.numel() / _fastest_s(device, lambda: torch.exp(x, out=out))


def _fastest_s(device: torch.device, work: Callable[[], object]) -> float:
    """The fastest of many runs, after one that is not counted."""
    take = _event_s if device.type == "cuda" else _clock_s
    take(work)
    end, best, runs = time.perf_counter() + _BUDGET_S[device.type], float("inf"), 0
    while runs < _LEAST_RUNS or time.perf_counter() < end:
        best, runs = min(best, take(work)), runs + 1
    return best


def _clock_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)


def _event_s(work: Callable[[], object]) -> float:
    events: Any = torch.cuda
    start, end = (events.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return max(float(start.elapsed_time(end)) / 1e3, 1e-9)
