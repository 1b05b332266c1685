"""How far a pattern is from full softmax attention: three errors that are never mixed.

The pattern error is what the idea loses (in float64), the kernel error what the implementation
loses, the dtype error what the number format loses. Letters: B batch, H heads (Hq/Hkv), L length,
D head width, R rows.
"""

import itertools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from attnbench.baselines import equal_keys, keys_per_query, uniform
from attnbench.effective import compare
from attnbench.mapstats import edges, per_head
from attnbench.reference import DENSE_LIMIT_BYTES, ROWS, Reference, reference
from attnbench.rows import check_rows
from attnbench.softmax import Operands, attention
from attnbench.sources import Inputs
from patterns.base import Pattern, expand_groups
from patterns.errors import BadInput

_FAST_FORM = 1e-7  # how far the float64 fast form may be from the definition, relative
_WEIGHT_BYTES = 1 << 27  # of the definition's rows at once
_RESAMPLES = 1000


class WrongResult(ArithmeticError):
    """A fast form that does not compute what its pattern says: the case's status is `wrong`."""


class _Precise(NamedTuple):
    """The pattern in float64: its output at the reference's rows, and gradients of q, k, v."""

    output: Tensor
    gradients: tuple[Tensor, Tensor, Tensor] | None
    note: str | None


def measure(
    pattern: Pattern,
    inputs: Inputs,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    dense_limit_bytes: int = DENSE_LIMIT_BYTES,
    rows: int = ROWS,
    gradients: bool = True,
    seed: int = 0,
    shared: Reference | None = None,
) -> dict[str, Any]:
    """The `fidelity` block of a record (docs/records.md).

    Args:
        pattern: what to measure.
        inputs: from a source, on the device to run on.
        backend: of the implementation whose kernel error and map are wanted.
        dtype: of the run; that of the inputs if None.
        dense_limit_bytes: up to B * Hq * L * L * 8 bytes of this every row is compared; a few
            times as much memory may be taken for a moment.
        rows: how many are sampled beyond it.
        gradients: whether to compare gradients.
        seed: of the inputs; see `reference`.
        shared: what `reference` gave for the same inputs, causality and dtype, to spend its time
            once for many patterns; its limit, rows and seed then hold.

    Raises:
        BadInput: the shared reference is of other inputs, another causality or another dtype.
        Unsupported: the backend cannot run these inputs.
        WrongResult: a fast form disagrees with the definition of its pattern.
    """
    if shared is None:
        shared = reference(
            inputs,
            causal=pattern.causal,
            dtype=dtype,
            seed=seed,
            dense_limit_bytes=dense_limit_bytes,
            rows=rows,
            gradients=gradients,
        )
    _check_shared(shared, pattern, inputs, dtype or inputs.q.dtype)
    pattern = pattern.resolve(inputs.q.shape[2])
    backend = pattern.implementation(shared.q, shared.k, shared.v, backend).backend
    check = check_rows(pattern, inputs.q.shape[2]).to(inputs.q.device)
    defined = _by_definition(pattern, shared.precise, check)
    precise = _in_float64(pattern, shared, check, defined, gradients=gradients)
    with torch.no_grad():
        out = _attend(pattern, shared, backend)
    kernel_error = _kernel_error(pattern, shared, backend, out[:, :, check], defined)
    found, map_notes = compare(pattern, shared, backend=backend, out=out)
    slopes, gradient_notes = _gradient_error(precise, shared)
    errors = output_errors(precise.output, shared)
    notes = map_notes | gradient_notes
    if inputs.output_projection is None:
        notes["output_error_projected"] = "the source has no output projection"
    if not shared.exact:
        notes["row_error.worst"] = "the worst of the sampled rows: a lower bound"
    own_error = _own_reference_error(pattern, shared, precise.output)
    if own_error is None:
        notes["own_reference_error"] = "the pattern estimates no other softmax than the plain one"
    return {
        **errors,
        "kernel_error": kernel_error,
        "dtype_error": shared.dtype_error,
        "own_reference_error": own_error,
        "map": found,
        "gradient_error": slopes,
        "rows": _rows(precise.output, shared),
        "baselines": _baselines(pattern, shared),
        "notes": notes,
    }


def output_errors(output: Tensor, full: Reference) -> dict[str, Any]:
    """The errors of a pattern's output [B, Hq, R, D] at the reference's rows."""
    wanted = full.attended.output
    error = output - wanted
    later = full.rows >= full.precise.length // 2
    projection = full.inputs.output_projection
    by_row = error.norm(dim=-1) / wanted.norm(dim=-1)
    relative = by_row.flatten().cpu().numpy()
    quantiles = np.quantile(relative, np.linspace(0, 1, 101))
    projected = None
    if projection is not None:
        # ||e W||^2 = e (W W^T) e: the head's width squared instead of the model's width.
        gram = projection.double() @ projection.double().mT
        sizes = [torch.einsum("bhrd,hde,bhre->h", x, gram, x) for x in (error, wanted)]
        projected = per_head((sizes[0] / sizes[1]).clamp(min=0).sqrt())
    return {
        "output_error": per_head(_by_head(error, wanted)),
        "output_error_later_half": per_head(_by_head(error[:, :, later], wanted[:, :, later])),
        "output_error_projected": projected,
        "row_error": {
            "p50": float(np.quantile(relative, 0.5)),
            "p95": float(np.quantile(relative, 0.95)),
            "p99": float(np.quantile(relative, 0.99)),
            "worst": float(relative.max()),
            "by_quantile": quantiles.tolist(),
            "by_position": _by_position(by_row, full.rows, full.precise.length),
        },
    }


def _by_position(by_row: Tensor, rows: Tensor, length: int) -> dict[str, list[Any]]:
    """Quantiles of the rows' errors [B, Hq, R] where queries lie: 0, 1, [2, 4), [4, 8) and on."""
    bounds = edges(length)
    found = []
    for first, end in itertools.pairwise(bounds):
        here = by_row[:, :, (rows >= first) & (rows < end)].flatten().cpu().numpy()
        found.append(np.quantile(here, (0.5, 0.95)).tolist() if len(here) else [None, None])
    p50, p95 = (list(one) for one in zip(*found, strict=True))
    return {"edges": bounds, "p50": p50, "p95": p95}


def _own_reference_error(pattern: Pattern, full: Reference, output: Tensor) -> float | None:
    """The relative error against the softmax that the pattern estimates, mean over heads."""
    own = pattern.own_reference(full.precise.q, full.precise.k)
    if own is None:
        return None
    q, k, scale = own
    wanted = attention(replace(full.precise, q=q, k=k, scale=scale), full.rows).output
    return float(_by_head(output - wanted, wanted).mean())


def _check_shared(shared: Reference, pattern: Pattern, inputs: Inputs, dtype: torch.dtype) -> None:
    wanted = (pattern.causal, dtype)
    got = (shared.causal, shared.q.dtype)
    if wanted != got or shared.inputs is not inputs:
        raise BadInput(
            f"the shared reference is of causal, dtype = {got}, expected {wanted} and these inputs"
        )


def _by_head(error: Tensor, wanted: Tensor) -> Tensor:
    """Relative Frobenius norm of [B, H, R, D], [H]."""
    squares = [x.square().sum(dim=(0, 2, 3)) for x in (error, wanted)]
    return (squares[0] / squares[1]).sqrt()


def _relative(out: Tensor, wanted: Tensor) -> float:
    return float((out.double() - wanted).norm() / wanted.norm())


def _attend(pattern: Pattern, shared: Reference, backend: str) -> Tensor:
    scale = shared.precise.scale
    return pattern.attend(shared.q, shared.k, shared.v, scale=scale, backend=backend)


def _by_definition(pattern: Pattern, x: Operands, rows: Tensor) -> Tensor:
    """`weights @ v` in float64 at these rows: [B, Hq, R, D]."""
    heads = x.q.shape[1]
    v = expand_groups(x.v, heads)
    step = max(1, _WEIGHT_BYTES // (8 * x.q.shape[0] * heads * x.length))
    parts = [
        pattern.weights(x.q, x.k, rows=some, scale=x.scale) @ v for some in torch.split(rows, step)
    ]
    return torch.cat(parts, dim=2)


def _in_float64(
    pattern: Pattern, shared: Reference, check: Tensor, defined: Tensor, *, gradients: bool
) -> _Precise:
    """The pattern's own fast form in float64, once it has been checked against the definition.

    Beyond the dense limit, what is quadratic runs by its definition at the reference's rows.
    """
    x = shared.precise
    if pattern.quadratic and not shared.exact:
        output = _by_definition(pattern, x, shared.rows)
        return _Precise(output, None, "the pattern needs every pair, too many for float64 here")
    wanted = gradients and shared.gradients is not None
    operands = [part.detach().requires_grad_(wanted) for part in (x.q, x.k, x.v)]
    with torch.set_grad_enabled(wanted):
        q, k, v = operands
        out = pattern.attend(q, k, v, scale=x.scale, backend="eager")
    error = _relative(out.detach()[:, :, check], defined)
    if not error <= _FAST_FORM:
        raise WrongResult(
            f"the fast form of {pattern.spec} in float64 is {error:.1e} from its definition on "
            f"{len(check)} rows; {_FAST_FORM:.0e} is allowed"
        )
    found = None
    note = shared.gradient_note if gradients else "gradients were not asked for"
    if wanted and shared.gradients is not None:
        dq, dk, dv = torch.autograd.grad(out, operands, shared.gradients.grad)
        keys = shared.gradients.keys
        found = (dq[:, :, shared.rows], dk[:, :, keys], dv[:, :, keys])
    return _Precise(out.detach()[:, :, shared.rows], found, note)


def _kernel_error(
    pattern: Pattern, shared: Reference, backend: str, out: Tensor, defined: Tensor
) -> float:
    """The error of the implementation; no more than twice that of eager in the same dtype."""
    error = _relative(out, defined)
    allowed = shared.dtype_error
    if not (pattern.quadratic and not shared.exact) and backend != "eager":
        check = check_rows(pattern, shared.precise.length).to(out.device)
        with torch.no_grad():
            eager = _attend(pattern, shared, "eager")[:, :, check]
        allowed = max(allowed, _relative(eager, defined))
    allowed = 2 * allowed + 8 * torch.finfo(out.dtype).eps
    if not math.isfinite(error) or (backend != "eager" and not error <= allowed):
        raise WrongResult(
            f"{pattern.spec} on backend {backend} in {out.dtype} is {error:.1e} from its "
            f"definition on {out.shape[2]} rows; {allowed:.1e} is allowed"
        )
    return error


def _gradient_error(precise: _Precise, shared: Reference) -> tuple[dict[str, Any], dict[str, str]]:
    notes = {} if precise.note is None else {"gradient_error": precise.note}
    if precise.gradients is None or shared.gradients is None:
        return {"dq": None, "dk": None, "dv": None}, notes
    full = (shared.gradients.dq, shared.gradients.dk, shared.gradients.dv)
    pairs = zip(("dq", "dk", "dv"), precise.gradients, full, strict=True)
    return {name: per_head(_by_head(one - all_, all_)) for name, one, all_ in pairs}, notes


def _rows(output: Tensor, shared: Reference) -> dict[str, Any]:
    if shared.exact:
        return {"exact": True}
    low, high = interval(output - shared.attended.output, shared.attended.output, shared.seed)
    return {"exact": False, "sampled": len(shared.rows), "interval": [low, high]}


def interval(error: Tensor, wanted: Tensor, seed: int) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean output error over sampled rows [B, H, R, D]."""
    squares = [x.square().sum(dim=(0, 3)).mT.cpu() for x in (error, wanted)]  # [R, H] each
    count = len(squares[0])
    drawn = torch.randint(count, (_RESAMPLES, count), generator=Generator().manual_seed(seed))
    times = torch.zeros(_RESAMPLES, count, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    means = (times @ squares[0] / (times @ squares[1])).sqrt().mean(dim=1).numpy()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _baselines(pattern: Pattern, shared: Reference) -> dict[str, Any]:
    length = shared.precise.length
    sinks = equal_keys(pattern, length, causal=shared.causal)
    return {
        "uniform": _error_of(uniform(causal=shared.causal), shared),
        "sinks": {
            "asked": sinks.spec,
            "keys_per_query": keys_per_query(sinks, length),
            "error": _error_of(sinks, shared),
        },
    }


@torch.no_grad()
def _error_of(pattern: Pattern, shared: Reference) -> float:
    x = shared.precise
    if shared.exact:
        out = pattern.attend(x.q, x.k, x.v, scale=x.scale, backend="eager")
    else:  # the window may be as wide as the pattern has keys: few rows of it are cheaper
        out = _by_definition(pattern, x, shared.rows)
    return float(_by_head(out - shared.attended.output, shared.attended.output).mean())
