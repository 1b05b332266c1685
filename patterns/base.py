"""The contract of a pattern: what it is, how it is run, what it costs.

Letters: B batch, H heads (Hq for queries, Hkv for keys and values), L length, D head width,
R regions. Tensors are [B, H, L, D].
"""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from patterns.checks import check_inputs, chosen_scale, describe
from patterns.errors import BadInput, Unsupported
from patterns.grammar import near_match, spell

Aim = Literal["exact", "subset", "approximates", "reshapes", "replaces"]
"""What a pattern tries to be: full softmax itself; softmax over fewer keys; close to the full
softmax map; softmax-like but different on purpose; another operator. The distance to full softmax
is an error for the first three and only a distance for the others."""


if TYPE_CHECKING:
    AutoInt = int
else:
    AutoInt = int | None
"""The type of a parameter with an automatic value: None until `resolve` fills it in, so that the
methods with an underscore, which only resolved patterns run, may take it for a number."""

AUTO: Any = None
"""The default of such a parameter."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a pattern comes from."""

    title: str
    authors: str
    year: int
    link: str
    section: str = ""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes that decide what a call costs; `element_bytes` is the size of one number."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    dim: int
    element_bytes: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the definition of a pattern needs for one forward call (all heads, all sequences).

    attended_pairs: query-key products that enter the output softmax, regions counting as one key.
    building_pairs: query-key products spent on making summaries or on choosing keys.
    flops: multiplications and additions of the matrix products.
    bytes: the least that must move: q, k, v read once, the output and summaries written once.
    """

    attended_pairs: int
    building_pairs: int
    flops: int
    bytes: int

    @property
    def scored_pairs(self) -> int:
        """All query-key products that the definition needs."""
        return self.attended_pairs + self.building_pairs


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """Which code would run: `simulated` means a dense product with a mask laid over it."""

    backend: str
    kind: Literal["native", "simulated"]


class Pattern(abc.ABC):
    """A rule for attention. Subclasses are frozen, keyword-only dataclasses; fields = parameters.

    A subclass states `name`, `paper`, `aim`, `tiny` (parameters that show its shape at length 16),
    has a field `causal: bool = True`, and implements the abstract methods below. Everything
    without an underscore is implemented here, once, and checks its input.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    aim: ClassVar[Aim]
    tiny: ClassVar[Mapping[str, Any]]
    backends: ClassVar[tuple[str, ...]] = ("eager",)  # in order of preference
    quadratic: ClassVar[bool] = False  # time grows with the square of the length
    signed: ClassVar[bool] = False  # weights may be negative
    linear_in_values: ClassVar[bool] = True  # an effective map exists
    prefix_consistent: ClassVar[bool] = True  # causal: a prefix of the input gives that output

    causal: bool

    # What it is.

    @abc.abstractmethod
    def _weights(self, q: Tensor, k: Tensor, rows: Tensor, scale: float) -> Tensor:
        """The dense map [B, Hq, rows, L] for the resolved pattern; q, k are [B, Hq, L, D]."""

    @abc.abstractmethod
    def _support(self, rows: Tensor, length: int) -> Tensor:
        """Which pairs may have weight, bool [rows, L], for the resolved pattern."""

    # How it is run.

    @abc.abstractmethod
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        """The fast form for the resolved pattern; k, v have been expanded to Hq heads."""

    def _refusal(self, backend: str, q: Tensor) -> str | None:
        """Why this backend cannot run these inputs, or None; see `patterns.dense` for the usual."""
        from patterns.dense import refusal

        return refusal(backend, q)

    def _kind(self, backend: str) -> Literal["native", "simulated"]:
        return "native"

    # What it costs.

    @abc.abstractmethod
    def _pairs(self, length: int) -> tuple[int, int]:
        """(attended pairs, building pairs) of one head at this length, in closed form."""

    # What everybody calls.

    def weights(
        self, q: Tensor, k: Tensor, *, rows: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """The dense reference map: the specification of the pattern, in the dtype it is given.

        Args:
            q: queries [B, Hq, L, D].
            k: keys [B, Hkv, L, D]; Hq is a multiple of Hkv.
            rows: int64 tensor of query rows; all of them if None.
            scale: factor on the scores; 1/sqrt(D) if None.

        Returns:
            [B, Hq, rows, L]; output row i is `weights[i] @ v`.

        Raises:
            BadInput: shapes, dtypes or devices that do not fit together.
        """
        check_inputs(q, k, None)
        length = q.shape[2]
        if rows is None:
            rows = torch.arange(length, device=q.device)
        elif rows.dtype != torch.int64 or rows.ndim != 1:
            raise BadInput(f"rows must be a one-dimensional int64 tensor, got {describe(rows)}")
        elif rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < length:
            raise BadInput(f"rows must lie in [0, {length}), got {int(rows.min())}..{rows.max()}")
        resolved = self.resolve(length)
        k = expand_groups(k, q.shape[1])
        return resolved._weights(q, k, rows.to(q.device), chosen_scale(scale, q))

    def support(self, length: int, rows: Tensor | None = None) -> Tensor:
        """Which query-key pairs may have weight: bool [rows, L] (all rows if None)."""
        if rows is None:
            rows = torch.arange(length)
        return self.resolve(length)._support(rows, length)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """The fast form of `weights(q, k) @ v`, differentiable in q, k and v.

        Args:
            q: queries [B, Hq, L, D].
            k: keys [B, Hkv, L, D]; Hq is a multiple of Hkv.
            v: values [B, Hkv, L, D].
            scale: factor on the scores; 1/sqrt(D) if None.
            backend: a name out of `backends`, or "auto" for the first of them that can run.

        Returns:
            [B, Hq, L, D] in the dtype of q.

        Raises:
            BadInput: shapes, dtypes or devices that do not fit together, or an unknown backend.
            Unsupported: the backend cannot run these inputs; nothing else is tried silently.
        """
        check_inputs(q, k, v)
        chosen = self._chosen(q, backend)
        return self.resolve(q.shape[2])._run(q, k, v, chosen_scale(scale, q), chosen)

    def implementation(
        self, q: Tensor, k: Tensor, v: Tensor, backend: str = "auto"
    ) -> Implementation:
        """Which implementation `attend` would run for these inputs.

        Raises:
            BadInput: an unknown backend.
            Unsupported: none can run them, or not the one asked for.
        """
        check_inputs(q, k, v)
        chosen = self._chosen(q, backend)
        return Implementation(backend=chosen, kind=self._kind(chosen))

    def _chosen(self, q: Tensor, backend: str) -> str:
        """The backend that runs these queries, out of those asked for."""
        if backend == "auto":
            refusals = {}
            for name in self.backends:
                reason = self._refusal(name, q)
                if reason is None:
                    return name
                refusals[name] = reason
            raise Unsupported("; ".join(f"{name}: {why}" for name, why in refusals.items()))
        if backend not in self.backends:
            hint = near_match(backend, self.backends)
            raise BadInput(f"pattern {self.name!r} has no backend {backend!r}: {hint}")
        reason = self._refusal(backend, q)
        if reason is not None:
            raise Unsupported(reason)
        return backend

    def cost(self, shape: Shape) -> Cost:
        """What one forward call needs by definition, whatever the implementation."""
        resolved = self.resolve(shape.length)
        attended, building = resolved._pairs(shape.length)
        heads = shape.batch * shape.heads
        return Cost(
            attended_pairs=heads * attended,
            building_pairs=heads * building,
            flops=heads * resolved._flops(shape, attended, building),
            bytes=shape.element_bytes
            * shape.dim
            * (
                2 * heads * shape.length  # q and the output
                + 2 * shape.batch * shape.kv_heads * shape.length  # k and v
                + 2 * heads * resolved._summaries(shape.length)
            ),
        )

    def resolve(self, length: int) -> Self:
        """The same pattern with every automatic value filled in for this length."""
        automatic = {
            field.name: value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) is None
            and (value := self._automatic(field.name, length)) is not None
        }
        return dataclasses.replace(self, **automatic) if automatic else self  # type: ignore[type-var]

    @property
    def spec(self) -> str:
        """How this pattern is written: its name and the parameters that differ from the default."""
        return spell(self.name, self)

    # Defaults that a pattern may replace where its mathematics differs.

    def own_reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Queries, keys and scale whose full softmax is what this pattern estimates.

        None where that is full softmax of q and k as they are, or no softmax at all.
        """
        return None

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
        heads = q.shape[1]
        return self._attend(q, expand_groups(k, heads), expand_groups(v, heads), scale, backend)

    def _automatic(self, field: str, length: int) -> Any:
        return (
            automatic_block(length) if field in ("block", "columns", "stride", "window") else None
        )

    def _flops(self, shape: Shape, attended: int, building: int) -> int:
        return 4 * shape.dim * (attended + building)

    def _summaries(self, length: int) -> int:
        """How many key-value summaries a head writes and reads again."""
        return 0


def automatic_block(length: int) -> int:
    """The power of two at or below sqrt(length): 32 at 1k and 2k, 64 at 4k, 256 at 64k."""
    return 1 << ((max(length, 1).bit_length() - 1) // 2)


def expand_groups(x: Tensor, heads: int) -> Tensor:
    """A copy of its group's head for each query head: [B, Hkv, L, D] to [B, H, L, D]."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)
