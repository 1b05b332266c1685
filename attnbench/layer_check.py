"""Check what stands in for a model's attention before anything is said of it, at the model's shape.

As in a run: the fast form against the definition, on drawn q, k, v; docs/records.md has the rule.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.check import Checker
from attnbench.language import Sizes
from attnbench.layers import Layer, calls
from attnbench.matrix import ELEMENT_BYTES, asked_name
from attnbench.outcome import Ended
from attnbench.sources import load, settings
from patterns.base import Pattern, Shape


class LayerChecks:
    """Checks each pattern once for each shape, and remembers what would run."""

    def __init__(self, sizes: Sizes, *, dtype: str, device: str, seed: int) -> None:
        """Keep what all checks share."""
        self._sizes, self._dtype, self._device, self._seed = sizes, dtype, device, seed
        self._checker = Checker()
        self._known: dict[tuple[Pattern, Shape, str], str] = {}

    def expect(self, layers: Sequence[Layer], length: int, backend: str) -> dict[str, str]:
        """What runs for each pattern of these layers, such as ``{"local": "triton, native"}``.

        Raises:
            Ended: as `wrong`, where a fast form is not what the definition says.
            BadInput, Unsupported: a pattern has no such backend, or cannot run this.
        """
        shape = self._sizes.shape(length, ELEMENT_BYTES[self._dtype])
        return {
            asked_name(one): self._checked(one, part, backend)
            for one, part in calls(layers, shape)
            if one.causal  # the others are refused by the model
        }

    def _checked(self, one: Pattern, shape: Shape, backend: str) -> str:
        key = (one, shape, backend)
        if key not in self._known:
            resolved = one.resolve(shape.length)
            inputs = self._drawn(shape)
            chosen = one.implementation(*inputs, backend)
            verdict = self._checker.check(
                resolved, chosen.backend, inputs, scale=None, seed=self._seed, gradients=False
            )
            if verdict.reason is not None:
                raise Ended("wrong", f"{resolved.spec}@{chosen.backend}: {verdict.reason}")
            self._known[key] = f"{chosen.backend}, {chosen.kind}"
        return self._known[key]

    def _drawn(self, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
        (setting,) = settings("gaussian", causal=True)
        drawn = load(
            setting, length=shape.length, seed=self._seed, device=self._device,
            dtype=getattr(torch, self._dtype), batch=shape.batch, heads=shape.heads,
            kv_heads=shape.kv_heads, dim=shape.dim,
        )  # fmt: skip
        return drawn.q, drawn.k, drawn.v
