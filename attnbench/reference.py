"""Full softmax attention of one source, in float64: what every pattern's fidelity is read against.

It is computed once and shared by all patterns on the same inputs. Letters: B batch, H heads
(Hq/Hkv), L length, D head width, R rows, K keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnbench import mapstats
from attnbench.softmax import (
    Attended,
    Operands,
    attention,
    key_gradients,
    log_weights,
    query_gradient,
    top_log_weights,
)
from attnbench.sources import Inputs
from patterns.base import expand_groups

DENSE_LIMIT_BYTES = 1 << 30
ROWS = 256
_MOST_PAIRS = {"cpu": 1 << 30}  # what the gradients may stream beyond the dense limit; elsewhere:
_MOST_PAIRS_ELSEWHERE = 1 << 39
_CHUNK = 1 << 20  # log-weights at once


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients of full attention: dq [B, Hq, R, D] of the rows, dk and dv [B, Hkv, K, D]."""

    grad: Tensor  # of the output, [B, Hq, L, D]
    keys: Tensor  # int64 [K]
    dq: Tensor
    dk: Tensor
    dv: Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Full attention on one source's inputs, rounded to the dtype of the run.

    The rounded inputs are what every float64 number here starts from, so that the errors of an
    implementation and of a dtype are those of its arithmetic alone.
    """

    inputs: Inputs
    causal: bool
    seed: int
    q: Tensor  # the inputs in the dtype of the run
    k: Tensor
    v: Tensor
    precise: Operands  # the same in float64
    rows: Tensor  # int64 [R]: all of them, or one at random from each of R equal parts
    exact: bool  # whether they are all of them
    attended: Attended  # at these rows
    thresholds: Mapping[int, Tensor]  # log-weights of the 8th and 64th heaviest key, [B, Hq, R]
    entropy: float  # nats, mean
    by_distance: list[float]
    dtype_error: float
    gradients: Gradients | None
    gradient_note: str | None  # why there are none, or what of them


@torch.no_grad()
def reference(
    inputs: Inputs,
    *,
    causal: bool,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    dense_limit_bytes: int = DENSE_LIMIT_BYTES,
    rows: int = ROWS,
    gradients: bool = True,
) -> Reference:
    """Compute what all patterns on these inputs are compared with.

    Args:
        inputs: from a source; its device is where everything runs.
        causal: whether the patterns are causal.
        dtype: of the run; that of the inputs if None.
        seed: of the inputs; the gradient of the output is drawn from seed + 1, rows from seed.
        dense_limit_bytes: up to B * Hq * L * L * 8 bytes of this all rows are compared.
        rows: how many are sampled beyond it, and as many keys for the gradients.
        gradients: whether to compute them.
    """
    q, k, v = (x.to(dtype or inputs.q.dtype) for x in (inputs.q, inputs.k, inputs.v))
    precise = Operands(
        q=q.double(), k=k.double(), v=v.double(), causal=causal, scale=scale_of(inputs)
    )
    batch, heads, length, _ = q.shape
    exact = batch * heads * length * length * 8 <= dense_limit_bytes or rows >= length
    generator = Generator().manual_seed(seed)
    wanted = precise.all_rows() if exact else sample(length, rows, generator).to(q.device)
    attended = attention(precise, wanted)
    entropy, by_distance = _map_of(precise, wanted, attended.lse)
    found: Gradients | None = None
    note: str | None = "gradients were not asked for"
    if gradients:
        keys = wanted if exact else sample(length, rows, generator).to(q.device)
        found, note = _gradients(precise, wanted, keys, attended, seed=seed, exact=exact)
    best = top_log_weights(precise, wanted, attended.lse, max(mapstats.TOP))
    return Reference(
        inputs=inputs,
        causal=causal,
        seed=seed,
        q=q,
        k=k,
        v=v,
        precise=precise,
        rows=wanted,
        exact=exact,
        attended=attended,
        thresholds=mapstats.thresholds(best),
        entropy=entropy,
        by_distance=by_distance,
        dtype_error=_dtype_error(q, k, v, precise, wanted, attended),
        gradients=found,
        gradient_note=note,
    )


def scale_of(inputs: Inputs) -> float:
    """The factor on the scores."""
    return inputs.q.shape[-1] ** -0.5 if inputs.scale is None else inputs.scale


def sample(length: int, count: int, generator: Generator) -> Tensor:
    """One position at random from each of `count` equal parts: int64, ascending, on the CPU."""
    bounds = torch.arange(count + 1, dtype=torch.float64) * length / count
    low, high = bounds[:-1].ceil(), bounds[1:].ceil()
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    return (low + (drawn * (high - low)).floor()).long()


def _map_of(x: Operands, rows: Tensor, lse: Tensor) -> tuple[float, list[float]]:
    """Mean entropy of full attention's rows, and their mass by distance."""
    entropy = x.q.new_zeros(())
    mass = x.q.new_zeros(mapstats.DISTANCES)
    keys = x.all_rows()
    step = max(1, _CHUNK // (lse.shape[0] * lse.shape[1] * x.length))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        seen = keys[: int(rows[part].max()) + 1] if x.causal else keys
        logs = log_weights(x, rows[part], seen, lse[:, :, part])
        weights = logs.exp()
        entropy -= (weights * logs.clamp(min=-1e30)).sum()
        mass += mapstats.by_distance(weights.sum(dim=(0, 1)), rows[part], seen, causal=x.causal)
    bins = len(mapstats.edges(x.length)) - 1
    return float(entropy) / lse.numel(), (mass[:bins] / lse.numel()).tolist()


def _dtype_error(
    q: Tensor, k: Tensor, v: Tensor, x: Operands, rows: Tensor, attended: Attended
) -> float:
    """Full softmax by PyTorch's kernel in the dtype of the run, against float64."""
    some = torch.arange(0, len(rows), max(1, len(rows) // ROWS), device=q.device)
    seen = x.all_rows() <= rows[some, None] if x.causal else None
    k, v = expand_groups(k, q.shape[1]), expand_groups(v, q.shape[1])
    out = scaled_dot_product_attention(q[:, :, rows[some]], k, v, attn_mask=seen, scale=x.scale)
    wanted = attended.output[:, :, some]
    return float((out.double() - wanted).norm() / wanted.norm())


def _gradients(
    x: Operands, rows: Tensor, keys: Tensor, attended: Attended, *, seed: int, exact: bool
) -> tuple[Gradients | None, str | None]:
    pairs = x.q.shape[0] * x.q.shape[1] * x.length**2
    if not exact and pairs > _MOST_PAIRS.get(x.q.device.type, _MOST_PAIRS_ELSEWHERE):
        return None, f"the gradients of full attention need all {pairs:.1e} pairs"
    generator = Generator().manual_seed(seed + 1)
    grad = torch.randn(x.q.shape[:3] + x.v.shape[3:], generator=generator, dtype=torch.float64)
    grad = grad.to(x.q.device)
    everywhere = attended if exact else attention(x)
    dk, dv = key_gradients(x, grad, keys, everywhere)
    found = Gradients(
        grad=grad,
        keys=keys,
        dq=query_gradient(x, grad[:, :, rows], rows, attended),
        dk=dk,
        dv=dv,
    )
    if exact:
        return found, None
    return found, (
        f"dq at {len(rows)} sampled rows, dk and dv at {len(keys)} sampled keys that all queries "
        f"were streamed past; the gradient of the output is normal, from seed {seed + 1}"
    )
