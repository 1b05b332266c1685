"""A made-up run folder, as docs/records.md describes it, with every status and no measuring."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# asked, backend, what it costs a token (power, factor), keys a query, error at 2k
PATTERNS: list[tuple[str, str, float, float, float, float]] = [
    ("full", "auto", 2.0, 0.020, 0, 0.0008),
    ("full", "sdpa:flash", 2.0, 0.024, 0, 0.0008),
    ("full", "sdpa:cudnn", 2.0, 0.018, 0, 0.0008),
    ("full", "eager", 2.0, 0.110, 0, 0.0007),
    ("uniform", "auto", 1.0, 0.010, 0, 1.02),
    ("oracle-topk[keys=64]", "auto", 2.0, 0.160, 64, 0.192),
    ("block-topk[block=64]", "auto", 1.3, 0.050, 512, 0.29),
    ("local[window=128]", "auto", 1.02, 0.020, 128, 0.739),
    ("sinks[window=64,sink=4]", "auto", 1.02, 0.018, 68, 0.43),
    ("sinks[window=128,sink=4]", "auto", 1.02, 0.021, 132, 0.336),
    ("sinks[window=256,sink=4]", "auto", 1.02, 0.029, 260, 0.262),
    ("sinks[window=512,sink=4]", "auto", 1.02, 0.046, 516, 0.205),
    ("sinks[window=1024,sink=4]", "auto", 1.02, 0.080, 1028, 0.15),
    ("fixed[block=64]", "auto", 1.3, 0.027, 70, 1.1),
    ("strided", "auto", 1.5, 0.030, 100, 0.93),
    ("logsparse", "auto", 1.1, 0.033, 11, 1.31),
    ("axial", "auto", 1.5, 0.031, 90, 0.98),
    ("combiner-fixed[block=64]", "auto", 1.35, 0.034, 64, 1.106),
    ("combiner-fixed[block=64,near=1,sink=4,summary=variational]", "auto", 1.38, 0.041, 118, 0.271),
    ("combiner-logsparse", "auto", 1.15, 0.055, 12, 0.97),
    ("combiner-axial-vertical", "auto", 1.5, 0.045, 88, 0.83),
    ("combiner-axial-horizontal", "auto", 1.5, 0.047, 92, 0.71),
    ("combiner-axial-rowmajor", "auto", 1.5, 0.040, 75, 0.63),
    ("combiner-mixture", "auto", 1.45, 0.085, 150, 0.58),
    ("performer", "auto", 1.0, 0.060, 0, 1.4),
    ("retention", "auto", 1.0, 0.050, 0, 1.9),
]
SHAPE = {"heads": 16, "kv_heads": 16, "dim": 64}
MACHINE = "m1"


def make(
    folder: Path,
    *,
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384),
    captured: tuple[int, ...] = (2048, 4096, 8192),
    layers: tuple[int, ...] = (0, 5, 15, 29),
    patterns: list[tuple[str, str, float, float, float, float]] = PATTERNS,
    passes: tuple[str, ...] = ("fwd", "fwdbwd"),
    device: str = "cuda",
    failures: bool = True,
    maps: int = 2,
) -> Path:
    """Write run.json, machine.json, records.jsonl and maps/; empty lengths leave a kind out."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*_costs(patterns, lengths, passes, device, failures)]
    lines += _fidelities(patterns, captured, layers, device, failures)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    info = {
        "schema": 1,
        "command": ["run_bench.py", "run", "--preset", "reference", "--lengths", "1k..16k"],
        "seeds": {"input": 0, "order": 7},
        "order": "interleaved round by round, shuffled",
        "version": {"code": "5f0c12ab90de", "commit": None},
    }
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "machine.json").write_text(json.dumps({MACHINE: _machine(device)}))
    good = [x for x in lines if x["kind"] == "fidelity" and x["status"] == "ok"]
    wanted = [x for x in good if x["case"]["asked"].startswith(("combiner-fixed", "sinks"))]
    for record in wanted[:maps]:
        _map(folder / "maps" / f"{record['case_key']}.npz", record)
    return folder


def _machine(device: str) -> dict[str, Any]:
    gpu = {"gpu": "NVIDIA H100 80GB HBM3", "driver": "570.86.15", "cudnn": "9.10.2"}
    cpu = {"cpu": "AMD EPYC 9654", "threads": 16}
    return {
        **(gpu if device == "cuda" else cpu),
        "torch": "2.13.0", "triton": "3.6.0", "python": "3.12.4",
        "ceilings": {
            "copy_bytes_per_s": 2.9e12, "exp_per_s": 4e12, "notes": {},
            "matmul_flops_per_s": {"bfloat16": 6.1e14, "float32": 3e13},
        },
    }  # fmt: skip


def _noise(*parts: Any) -> float:
    """A number in (-1, 1) that depends on its arguments only."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**31 - 1


def _record(kind: str, group: str, case: dict[str, Any], keys: float) -> dict[str, Any]:
    key = hashlib.sha256(json.dumps([kind, case], sort_keys=True).encode()).hexdigest()[:16]
    return {
        "schema": 1, "kind": kind, "case_key": key, "group": group, "case": case,
        "status": "ok", "reason": None,
        "implementation": {"backend": case["backend"].replace("auto", "sdpa"), "kind": "native"},
        "time": None, "memory": None, "fidelity": None,
        "cost": {
            "attended_pairs": int(keys * case["length"]), "building_pairs": 0,
            "scored_pairs": int(keys * case["length"]), "flops": int(keys * case["length"] * 256),
            "bytes": case["length"] * 512, "keys_per_query": keys,
        },
        "guards": {"check": "ok"}, "version": {"code": "5f0c12ab90de", "commit": None},
        "machine": MACHINE,
    }  # fmt: skip


def _failed(record: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    return record | {
        "status": status, "reason": reason, "time": None, "memory": None, "fidelity": None,
    }  # fmt: skip


def _timing(ms: float, wobble: float = 0.02) -> dict[str, Any]:
    return {
        "median": ms, "p20": ms * (1 - wobble), "p80": ms * (1 + 2 * wobble),
        "interval": [ms * (1 - wobble / 2), ms * (1 + wobble / 2)], "n": 60, "samples": None,
    }  # fmt: skip


def _ms(asked: str, backend: str, power: float, factor: float, length: int, one: str) -> float:
    grown = factor * (length / 1024) ** power
    floor = 0.008 if backend.startswith("sdpa") or asked == "full" else 0.02
    times = {"fwd": 1.0, "bwd": 2.4, "fwdbwd": 3.4}[one]
    return math.hypot(grown, floor) * times * (1 + 0.02 * _noise(asked, backend, length, one))


def _costs(
    patterns: list[Any], lengths: tuple[int, ...], passes: tuple[str, ...], device: str, fail: bool
) -> Iterator[dict[str, Any]]:
    for one in passes:
        for length in lengths:
            yield from _group(patterns, length, one, device, fail)


def _group(
    patterns: list[Any], length: int, one: str, device: str, fail: bool
) -> Iterator[dict[str, Any]]:
    dtype = "bfloat16" if device == "cuda" else "float32"
    group = f"{one}-b1-h16x16-l{length}-d64-{dtype}-{device}-causal-gaussian"
    fastest = [
        (_ms(asked, backend, power, factor, length, one), f"{asked}@{backend}")
        for asked, backend, power, factor, _, _ in patterns
        if asked == "full" and backend != "eager"
    ]
    dense = min(fastest, default=None)
    for asked, backend, power, factor, keys, _ in patterns:
        case = {
            "asked": asked, "pattern": asked, "backend": backend, "causal": True,
            "length": length, **SHAPE, "dtype": dtype, "device": device,
            "source": "gaussian", "seed": 0, "pass": one, "batch": 1,
        }  # fmt: skip
        record = _record("cost", group, case, keys or length / 2)
        if asked == "block-topk[block=64]":
            record["implementation"]["kind"] = "simulated"
        if fail and (found := _failure(asked, backend, length, one)):
            yield _failed(record, *found)
            continue
        ms = _ms(asked, backend, power, factor, length, one)
        record["time"] = {
            "cold_ms": _timing(ms), "graph_ms": _timing(ms * 0.95),
            "eager_wall_ms": _timing(ms + 0.02) if device == "cuda" else None,
            "first_call_ms": ms * 40, "rounds": 9, "stopped": "bound",
            "ratio_to_dense": _ratio(dense, ms),
            "notes": {},
        }  # fmt: skip
        scored = record["cost"]["scored_pairs"]
        record["time"]["roof"] = {
            "scored_pairs": scored,
            "computed_pairs": 2 * scored if keys else None,
        }
        quadratic = length**2 * 16 * 2 if (asked, backend) == ("full", "eager") else 0
        memory = 16 * length * 64 * 2 * (1 + factor * 20) + quadratic
        record["memory"] = {
            "peak_bytes": int(memory), "saved_bytes": int(memory) if one != "fwd" else None,
            "reserved_bytes": int(memory * 1.3), "how": "cuda allocator",
        }  # fmt: skip
        yield record


def _ratio(dense: tuple[float, str] | None, ms: float) -> dict[str, Any] | None:
    if dense is None:
        return None
    ratio = dense[0] / ms
    return {"median": ratio, "interval": [ratio * 0.98, ratio * 1.02], "dense": dense[1]}


def _failure(asked: str, backend: str, length: int, one: str) -> tuple[str, str] | None:
    both = one == "fwdbwd"
    found = {
        ("full", "eager", length >= 16384): (
            "oom", "needs 34.4 GB above the inputs and 21.0 GB are free"),
        ("strided", "auto", length >= 16384): ("timeout", "no result after 60 s"),
        ("combiner-mixture", "auto", both): (
            "unsupported", "the joint form has no backward pass yet; use form=average"),
        ("axial", "auto", both and length == 1024): (
            "wrong", "output differs from the reference by 0.31, 0.012 are allowed (row 1023)"),
        ("performer", "auto", both and length >= 8192): (
            "crashed",
            "the worker died with signal 11 <script>alert('\U0001f600')</script> \"quoted\""),
        ("retention", "auto", length >= 16384): ("skipped", "out of --budget"),
    }  # fmt: skip
    return found.get((asked, backend, True))


def _fidelities(
    patterns: list[Any], captured: tuple[int, ...], layers: tuple[int, ...], device: str, fail: bool
) -> Iterator[dict[str, Any]]:
    dtype = "bfloat16" if device == "cuda" else "float32"
    for source in ("captured", "structured"):
        for length in captured:
            for asked, backend, _, _, keys, error in patterns:
                if backend != "auto":
                    continue
                for layer in layers if source == "captured" else (None,):
                    case = {
                        "asked": asked, "pattern": asked, "backend": backend, "causal": True,
                        "length": length, "heads": 9, "kv_heads": 3, "dim": 64, "dtype": dtype,
                        "device": device, "source": source, "seed": 0, "layer": layer,
                    }  # fmt: skip
                    group = f"{source}-l{length}-{dtype}-{device}-causal"
                    record = _record("fidelity", group, case, keys or length / 2)
                    if fail and asked == "combiner-axial-rowmajor" and length == captured[0]:
                        yield _failed(record, "crashed", "ran out of patience")
                        continue
                    grown = error * (1 + 0.06 * math.log2(length / 2048)) if error > 0.01 else error
                    yield record | {"fidelity": _fidelity(asked, grown, length, layer, source)}


def _fidelity(
    asked: str, error: float, length: int, layer: int | None, source: str
) -> dict[str, Any]:
    error *= 1 + 0.35 * _noise(source, layer) * (error > 0.01)
    heads = [error * (1 + 0.4 * _noise(asked, layer, head)) for head in range(9)]
    mean = sum(heads) / len(heads)
    edges = [0, *(2**i for i in range(int(math.log2(length)) + 1))]
    full = np.exp(-0.35 * np.arange(len(edges) - 1)) + 0.02
    full /= full.sum()
    near = full * np.exp(-error * 0.5 * np.arange(len(full)))
    quantiles = [mean * (0.2 + 1.6 * (i / 100) ** 2 + 2.5 * (i / 100) ** 20) for i in range(101)]

    def each(x: float) -> dict[str, Any]:
        return {"per_head": [x] * 9, "mean": x}

    return {
        "output_error": {"per_head": heads, "mean": mean},
        "output_error_later_half": each(mean * 1.1),
        "output_error_projected": each(mean * 0.9) if layer is not None else None,
        "row_error": {
            "p50": quantiles[50], "p95": quantiles[95], "p99": quantiles[99],
            "worst": quantiles[100], "by_quantile": quantiles,
            "by_position": {"edges": edges, "p50": [quantiles[50]] * (len(edges) - 1),
                            "p95": [None, *[quantiles[95]] * (len(edges) - 2)]},
        },
        "kernel_error": 0.0007, "dtype_error": 0.0011, "own_reference_error": None,
        "map": {
            "total_variation": {
                "per_head": [0.7 * x for x in heads], "mean": min(1, 0.7 * mean),
                "p95": min(1, mean), "worst": min(1, 1.3 * mean),
            },
            "kl": each(mean**2), "dropped_mass": min(1, mean * 0.4),
            "recall": {"8": max(0, 1 - 0.3 * mean), "64": max(0, 1 - 0.5 * mean)},
            "entropy": 3.1, "full_entropy": 3.6,
            "mass_by_distance": {
                "edges": edges, "full": full.tolist(), "effective": (near / near.sum()).tolist(),
            },
            "negative_share": 0.0, "leakage": 0.0, "row_sum": {"low": 1.0, "high": 1.0},
            "linearity": 2e-4,
        },
        "gradient_error": {"dq": each(mean * 1.3), "dk": each(mean * 1.2), "dv": each(mean)},
        "rows": {"exact": True},
        "baselines": {
            "uniform": 1.02,
            "sinks": {"asked": "sinks[window=114,sink=4]", "keys_per_query": 118, "error": 0.36},
        },
        "notes": {},
    }  # fmt: skip


def _map(path: Path, record: dict[str, Any], bins: int = 64) -> None:
    path.parent.mkdir(exist_ok=True)
    length = record["case"]["length"]
    size = length // bins
    i, j = np.mgrid[0:bins, 0:bins]
    away = (i - j).astype(float)
    seen = away >= 0
    full = np.where(seen, np.exp(-0.5 * away) + 0.3 * (j == 0) + 0.01, 0)
    full /= full.sum(1, keepdims=True) * size
    combiner = record["case"]["asked"].startswith("combiner")
    effective = np.where(away < 8, full, full.mean() if combiner else 0) * seen
    effective[:, 0] = full[:, 0]
    effective /= effective.sum(1, keepdims=True) * size
    visible = np.where(away > 0, size * size, np.where(away == 0, size * (size + 1) // 2, 0))
    two = np.stack([full, full[::-1, ::-1].T]).astype(np.float32)
    other = np.stack([effective, effective[::-1, ::-1].T]).astype(np.float32)
    meta = {
        "case": record["case"], "pattern": record["case"]["asked"], "causal": True,
        "length": length,
        "bin_size": size, "heads": [0, 3], "crops": [0, length - 32],
        "checks": {"linearity": 2e-4, "row_sum": {"low": 1.0, "high": 1.0}, "leakage": 0.0},
    }  # fmt: skip
    np.savez_compressed(
        path, full=two, effective=other, difference=other - two, absolute=np.abs(other - two),
        full_max=two * 3, effective_max=other * 3, visible=visible.astype(np.float32),
        crop_full=_corners(two), crop_effective=_corners(other), meta=json.dumps(meta),
    )  # fmt: skip


def _corners(maps: np.ndarray) -> np.ndarray:
    return np.stack([maps[:, :32, :32], maps[:, -32:, -32:]], axis=1)
