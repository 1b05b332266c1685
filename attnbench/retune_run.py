"""`retune`: measure tile sizes for the fused kernels on this GPU, and keep them in a file."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from attnbench.case import Pass
from attnbench.check import Checker
from attnbench.contender import CostInputs, choose, load_inputs, make_call, own_stream
from attnbench.matrix import Matrix, cost_case
from attnbench.outcome import confirm_device
from attnbench.retune import Time, Trial, Tuned, retuned
from attnbench.statistics import interval, medians
from attnbench.timing import Call, Contender, time_group
from attnbench.watch import watch_for
from patterns import Pattern
from patterns.errors import BadInput, Unsupported
from patterns.kernels import tile_choice, tile_file

USUAL = (  # those whose kernels are launched most; one pattern stands for all that share them
    "combiner-fixed[block=64|128|256|512]",
    "combiner-axial-vertical",
    "combiner-logsparse[summary=variational]",
    "sinks[window=256]",
    "logsparse",
    "logsparse[keys=suffix]",
)
_HARD_LENGTH = 2000
_HARDER: tuple[dict[str, Any], ...] = (  # the first that can run is checked as well
    {"causal": False, "summary": "variational", "sink": 4, "near": 1},
    {"causal": False, "summary": "variational"},
    {"summary": "variational", "sink": 4, "near": 1},
    {"summary": "variational"},
    {"causal": False},
)
_PASSES: tuple[Pass, ...] = ("fwd", "fwdbwd")
_GROUP_S = 1.0  # to time one kernel's candidates in


@dataclass(frozen=True, kw_only=True)
class Retune:
    """What is to be tuned: patterns at one shape, within so many seconds, into a file."""

    patterns: tuple[Pattern, ...]
    length: int
    heads: int
    kv_heads: int
    dim: int
    dtype: str
    budget_s: float
    out: Path | None


def retune(asked: Retune, say: Callable[[str], None]) -> str:
    """Tune, keep what was found as it comes, and tell it as a table.

    Raises:
        BadInput: there is no GPU, the old file cannot be used, or no kernel was tuned.
        DeviceLost: some sizes broke the GPU's context; what was found before is kept.
    """
    if not torch.cuda.is_available():
        raise BadInput(
            "retune measures kernels on a GPU, and PyTorch sees none; 'doctor' says more"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    card = torch.cuda.get_device_name(device)
    path = asked.out or tile_file.default_path(card)
    before = tile_file.read(path, card).tiles if path.exists() else {}
    tile_file.write(path, card, before)
    tile_choice.forget()
    end = time.monotonic() + asked.budget_s
    tiles, found = dict(before), []
    with own_stream(device):
        trials = list(_trials(asked, device, say))
        for one in retuned(trials, timing(device), lambda: time.monotonic() > end):
            found.append(one)
            tiles[one.kernel] = one.sizes
            tile_file.write(path, card, tiles)
            say(_line(one))
    confirm_device(device)
    if not found:
        raise BadInput("no kernel was tuned: expected fused patterns, and time to compile them")
    tile_choice.forget()
    spent = " (the budget is spent: the same command goes on)" if time.monotonic() > end else ""
    return f"{told(found)}\n{path}: sizes of {len(tiles)} kernels{spent}"


def told(found: Iterable[Tuned]) -> str:
    """What was tuned, as a table."""
    rows = [
        (one.kernel, one.trial, _sizes(one.before), _sizes(one.sizes), one.before_ms, one.ms)
        for one in found
    ]
    names = ["kernel", "in", "before", "now", "call before, ms", "call now, ms"]
    return str(tabulate(rows, names, "plain", floatfmt=".4g"))


def timing(device: torch.device) -> Time:
    """Cold medians, as all times of the project are taken."""

    def timed(calls: Mapping[str, Call]) -> dict[str, float]:
        watch = watch_for(device)
        contenders = [Contender(name=name, call=call) for name, call in calls.items()]
        found = time_group(contenders, watch, seed=0, budget_s=_GROUP_S)
        return {
            name: interval(medians(one.cold), resamples=1).median
            for name, one in found.items()
            if one.error is None and one.cold
        }

    return timed


def _trials(asked: Retune, device: torch.device, say: Callable[[str], None]) -> Iterator[Trial]:
    """Forward before forward and backward, whose backward kernels are then left."""
    checker = Checker()
    for pattern in asked.patterns:
        for one_pass in _PASSES:
            try:
                yield _trial(asked, pattern, one_pass, device, checker)
            except (Unsupported, BadInput) as error:
                say(f"{pattern.spec} is left out: {error}")
                break


def _trial(
    asked: Retune, pattern: Pattern, one_pass: Pass, device: torch.device, checker: Checker
) -> Trial:
    matrix = Matrix(
        lengths=(asked.length,),
        heads=asked.heads,
        kv_heads=asked.kv_heads,
        dim=asked.dim,
        dtype=asked.dtype,
        device=device.type,
        causal=pattern.causal,
    )
    case = cost_case(matrix, pattern, "triton", asked.length, one_pass)
    kept: list[tuple[CostInputs, Call]] = []

    def call(copy: int) -> object:
        if not kept:
            inputs = load_inputs(case, device)
            kept.append((inputs, make_call(case, choose(case, inputs), inputs)))
        return kept[0][1](copy)

    shape = (1, asked.heads, 16, asked.dim)
    dtype = getattr(torch, asked.dtype)
    few = torch.empty(shape, device=device, dtype=dtype)
    resolved = pattern.resolve(asked.length)
    resolved.implementation(few, few[:, : asked.kv_heads], few[:, : asked.kv_heads], "triton")
    hard = list(harder(resolved, few))

    def alone() -> AbstractContextManager[object]:
        kept.clear()
        torch.cuda.empty_cache()
        return torch.set_grad_enabled(one_pass != "fwd")

    def wrong() -> str | None:
        generator = torch.Generator(device).manual_seed(0)
        shapes = [(1, heads, _HARD_LENGTH, asked.dim) for heads in (4, 2, 2)]
        q, k, v = (
            torch.randn(one, generator=generator, device=device, dtype=dtype) for one in shapes
        )
        for form in hard:
            verdict = checker.check(
                form, "triton", (q, k, v), scale=None, seed=0, gradients=one_pass != "fwd"
            )
            if verdict.reason is not None:
                return f"{form.spec}: {verdict.reason}"
        return None

    return Trial(name=f"{resolved.spec} {one_pass}", call=call, wrong=wrong, alone=alone)


def harder(pattern: Pattern, q: torch.Tensor) -> Iterator[Pattern]:
    """The pattern, and a form of it that needs more of its kernels, where one can run."""
    yield pattern
    names = {field.name for field in fields(pattern)}  # type: ignore[arg-type]
    for changes in _HARDER:
        if changes.keys() <= names:
            form: Pattern = replace(pattern, **changes)  # type: ignore[type-var]
            with suppress(Unsupported):
                form.implementation(q, q[:, :1], q[:, :1], "triton")
                yield form
                return


def _line(one: Tuned) -> str:
    left_out = f", {len(one.left_out)} sizes left out" if one.left_out else ""
    return f"{one.kernel}: {_sizes(one.sizes)} ({one.before_ms:.4g} to {one.ms:.4g} ms){left_out}"


def _sizes(sizes: tile_file.Sizes) -> str:
    return " ".join(f"{field}={size}" for field, size in sizes.items() if size is not None)
