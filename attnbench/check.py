"""The correctness check: what will be timed is compared with the definition, at the timed shape.

All heads, at least 64 rows, against `weights @ v` in float64. A fast form may be twice as far from
it as the definition itself in the dtype of the run, plus 8 roundings of the largest value; and,
because the largest values are those of rows with few keys, the error of every row, and of a whole
gradient, is held to its own size in the same way. For a
backward pass the output's gradient is zero off those rows (16 of them beyond 4096 tokens), so that
autograd through the same rows gives the exact gradients of q, k and v, at every position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from attnbench.definition import LONG, Expected, Inputs, expected_gradients, expected_output
from attnbench.findings import (
    NAMES,
    Wrong,
    accumulated,
    compare,
    restored,
    sees_the_future,
    why_malformed,
)
from attnbench.rows import check_rows, few
from patterns.base import Pattern


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found: `wrong` is None where all is well; `seen` goes into the record."""

    wrong: Wrong | None
    seen: dict[str, Any]

    @property
    def reason(self) -> str | None:
        """What is wrong, as a sentence."""
        return None if self.wrong is None else self.wrong.reason


class Checker:
    """Checks cases and remembers references, which passes and backends of a pattern share."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._outputs: dict[tuple[Any, ...], Expected] = {}  # small: the checked rows alone
        self._gradients: dict[tuple[Any, ...], list[Expected]] = {}  # large: of one pattern

    def check(
        self,
        pattern: Pattern,
        backend: str,
        inputs: Inputs,
        *,
        scale: float | None,
        seed: int,
        gradients: bool,
    ) -> Verdict:
        """Compare `attend` with the definition.

        Args:
            pattern: resolved.
            backend: of `attend`.
            inputs: q, k, v as they will be timed.
            scale: factor on the scores.
            seed: of the inputs; they and it identify each other here.
            gradients: whether to compare gradients too; dO is drawn from seed + 1.

        Raises:
            Unsupported: the backend cannot run these inputs.
        """
        q, k, v = (x.detach() for x in inputs)
        rows = check_rows(pattern, q.shape[2]).to(q.device)
        before = [x.clone() for x in (q, k, v)]
        leaves = [x.requires_grad_(gradients) for x in (q.detach(), k.detach(), v.detach())]
        _poison(q, v)
        with torch.set_grad_enabled(gradients):
            out = pattern.attend(*leaves, scale=scale, backend=backend)
        seen: dict[str, Any] = {"rows": len(rows)}
        found = out.detach()
        # Before anything is computed from inputs that the call may have spoilt.
        wrong = restored((q, k, v), before)
        wrong = wrong or why_malformed("output", found, (*q.shape[:3], v.shape[3]), q)
        key = (pattern.spec, q.shape, k.shape, q.dtype, q.device, scale, seed)
        if wrong is None:
            if key not in self._outputs:
                self._outputs[key] = expected_output(pattern, (q, k, v), rows, scale)
            wrong = compare("output", found[:, :, rows], self._outputs[key], q.dtype, seen)
        if wrong is None and pattern.causal:
            wrong = sees_the_future(pattern, backend, (q, k, v), found, rows, scale, seen)
        if wrong is None and gradients:
            rows = rows if q.shape[2] <= LONG else few(rows)
            d_rows = _d_out(found[:, :, rows], seed)
            d_out = torch.zeros_like(found).index_copy_(2, rows, d_rows)
            grads = torch.autograd.grad(out, leaves, d_out)
            del out
            wrong = self._check_gradients(pattern, grads, (q, k, v), rows, d_rows, key, seen)
            if wrong is None:
                again = torch.autograd.grad(
                    pattern.attend(*leaves, scale=scale, backend=backend), leaves, d_out
                )
                wrong = accumulated(leaves, grads, again, seen)
        wrong = restored((q, k, v), before) or wrong
        return Verdict(wrong=wrong, seen={"ok": wrong is None, **seen})

    def _check_gradients(
        self,
        pattern: Pattern,
        grads: Sequence[Tensor],
        inputs: Inputs,
        rows: Tensor,
        d_rows: Tensor,
        key: tuple[Any, ...],
        seen: dict[str, Any],
    ) -> Wrong | None:
        for name, grad, x in zip(NAMES[1:], grads, inputs, strict=True):
            if wrong := why_malformed(name, grad, x.shape, x):
                return wrong
        if key not in self._gradients:
            scale = key[-2]
            self._gradients = {key: expected_gradients(pattern, inputs, rows, d_rows, scale)}
        for name, grad, expected in zip(NAMES[1:], grads, self._gradients[key], strict=True):
            if wrong := compare(name, grad, expected, inputs[0].dtype, seen):
                return wrong
        return None


def _poison(q: Tensor, v: Tensor) -> None:
    """Leave NaN where the output will probably lie, so that a row never written shows itself."""
    torch.full((*q.shape[:3], v.shape[3]), torch.nan, dtype=q.dtype, device=q.device)


def _d_out(out_rows: Tensor, seed: int) -> Tensor:
    generator = Generator().manual_seed(seed + 1)
    drawn = torch.randn(out_rows.shape, generator=generator)
    return drawn.to(out_rows.device, out_rows.dtype)
