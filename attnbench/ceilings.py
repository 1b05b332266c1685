"""What the device can do at most: copy, multiply matrices, take exponentials; and a record's share.

Measured once a run, in seconds, with plain operations of PyTorch: ceilings of practice, not of the
data sheet. A machine that does other things makes them too low, and shares too high. So each is
measured several times, in turns with the others, and the best counts; where those do not agree,
it is *doubtful*, which `spread` keeps and records say.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from attnbench.predict import PASS_FACTOR

_BUDGET_S = {"cuda": 0.03, "cpu": 0.01}  # of each ceiling, each time
_LEAST_RUNS = 2
_LEAST_TURNS, _MOST_TURNS = 5, 15  # more than the least only until all agree,
_LONGEST_S = 1.0  # and within this
_DOUBTFUL = 0.1  # how far the middle of the times that it was measured lies below the best
_ABOVE = 1.05  # ceilings are of practice: a share so much above 1 still is nothing to wonder at
_MATMUL = {"cuda": 8192, "cpu": 512}
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}  # far beyond the caches
_EXP_ELEMENTS = {"cuda": 1 << 22, "cpu": 1 << 16}
_EXPS = 512  # of each element in one kernel, so that memory does not count
RATES = ("copy_bytes_per_s", "exp_per_s")  # beside those of matrix products, which go by dtype
BYTES_FACTOR = {"fwd": 1.0, "bwd": 2.0, "fwdbwd": 3.0}  # q, k, v, o and dO in, three gradients out
EXP_FACTOR = {"fwd": 1.0, "bwd": 1.0, "fwdbwd": 2.0}  # backward passes take them again
_EXP_CODE = (
    "template <typename T> T many_exp(T x) "
    f"{{ for (int i = 0; i < {_EXPS}; i++) x = exp2f(-x); return x; }}"
)

Ceilings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Rate:
    """So much work, again and again, under the name of its ceiling."""

    name: str
    amount: float
    work: Callable[[], object]


def measured(device: torch.device, dtypes: tuple[str, ...]) -> dict[str, Any]:
    """The ceilings of a device.

    Returns:
        `copy_bytes_per_s` (read and written), `matmul_flops_per_s` by dtype, `exp_per_s`,
        `cache_bytes` (of L2; null on a CPU), `spread`: name or dtype -> how far the middle of
        the times that it was measured lies below the best, relative, and `notes`: why a value is
        null.
    """
    notes: dict[str, str] = {}
    makers: dict[str, Callable[[], _Rate]] = {"copy_bytes_per_s": lambda: _copying(device)}
    for dtype in dtypes:
        makers[dtype] = partial(_multiplying, device, dtype)
    makers["exp_per_s"] = lambda: _exponentials(device)
    seen: dict[str, list[float]] = {}
    ready = []
    for name, make in makers.items():
        try:
            rate = make()
            rate.work()  # compilers, and the first touch of memory
        except Exception as error:  # whatever a device, or a compiler that is not there, raises
            notes[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
        else:
            ready.append(rate)
            seen[name] = []
    end = time.perf_counter() + _LONGEST_S
    for turn in range(1, _MOST_TURNS + 1):
        for rate in ready:
            seen[rate.name].append(rate.amount / _fastest_s(device, rate.work))
        agree = all(_spread(one) <= _DOUBTFUL for one in seen.values())
        if turn >= _LEAST_TURNS and (agree or time.perf_counter() > end):
            break
    best = {name: max(one) for name, one in seen.items()}
    return {
        "copy_bytes_per_s": best.get("copy_bytes_per_s"),
        "matmul_flops_per_s": {dtype: best.get(dtype) for dtype in dtypes},
        "exp_per_s": best.get("exp_per_s"),
        "cache_bytes": (
            torch.cuda.get_device_properties(device).L2_cache_size
            if device.type == "cuda"
            else None
        ),
        "spread": {name: _spread(one) for name, one in seen.items()},
        "notes": notes,
    }


def best_of(found: Sequence[Ceilings]) -> dict[str, Any]:
    """The highest of each ceiling, from several measurements or devices of one kind."""
    first, *others = found
    best = {**first, "spread": dict(first.get("spread") or {}), "notes": dict(first["notes"])}
    best["matmul_flops_per_s"] = dict(first["matmul_flops_per_s"])
    for other in others:
        for name, rate in rates_of(other).items():
            if (rate or 0.0) <= (rates_of(best).get(name) or 0.0):
                continue
            holder = best if name in RATES else best["matmul_flops_per_s"]
            holder[name] = rate
            best["notes"].pop(name, None)
            best["spread"][name] = (other.get("spread") or {}).get(name, 0.0)
    return best


def rates_of(ceilings: Ceilings) -> dict[str, float | None]:
    """All ceilings by name; those of matrix products by dtype."""
    return {name: ceilings.get(name) for name in RATES} | dict(ceilings["matmul_flops_per_s"])


def doubtful(ceilings: Ceilings) -> dict[str, float]:
    """Which ceilings were measured on a machine that did other things: name or dtype -> spread."""
    spread: Mapping[str, float] = ceilings.get("spread") or {}
    return {name: one for name, one in spread.items() if one > _DOUBTFUL}


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


def doubts(
    ceilings: Ceilings | None, found: Mapping[str, Any] | None, dtype: str
) -> dict[str, str]:
    """Why a share of the roof may be too high: a note under `roof`, or nothing.

    Args:
        ceilings: as `measured` gives them.
        found: what `roof` made of them.
        dtype: of the products.
    """
    if ceilings is None or found is None:
        return {}
    name = {"copy": "copy_bytes_per_s", "matmul": dtype, "exp": "exp_per_s"}[found["bound"]]
    spread = doubtful(ceilings).get(name)
    if spread is not None:
        return {
            "roof": f"the {found['bound']} ceiling is doubtful: most of its measurements were "
            f"{spread:.0%} below the best, so the machine was busy; the share may be too high"
        }
    if found["share"] > _ABOVE:
        return {
            "roof": f"faster than the measured {found['bound']} ceiling allows: other "
            "instructions did the work, or the ceiling is too low"
        }
    return {}


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


def _copying(device: torch.device) -> _Rate:
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return _Rate(name="copy_bytes_per_s", amount=moved, work=lambda: target.copy_(source))


def _multiplying(device: torch.device, dtype: str) -> _Rate:
    size = _MATMUL[device.type]
    x = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    out = torch.empty_like(x)
    return _Rate(name=dtype, amount=2 * size**3, work=lambda: torch.mm(x, x, out=out))


def _exponentials(device: torch.device) -> _Rate:
    """Base-2 exponentials of float32 in registers on CUDA; `torch.exp` in the cache on a CPU."""
    x = torch.rand(_EXP_ELEMENTS[device.type], device=device)
    if device.type == "cuda":
        jiterator: Any = torch.cuda.jiterator
        many = jiterator._create_jit_fn(_EXP_CODE)
        return _Rate(name="exp_per_s", amount=_EXPS * x.numel(), work=lambda: many(x))
    out = torch.empty_like(x)
    return _Rate(name="exp_per_s", amount=x.numel(), work=lambda: torch.exp(x, out=out))


def _spread(rates: Sequence[float]) -> float:
    return 1 - median(rates) / max(rates)


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
