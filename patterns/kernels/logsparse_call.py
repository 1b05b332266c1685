"""What a call of Combiner-Logsparse is asked for, and the sizes that follow from it.

B batch, H query heads, Hkv key-value heads, L length, D head width.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from patterns.kernels.combiner_form import Form, InputSizes, power
from patterns.kernels.launching import may_overlap, packs_halves, precision
from patterns.kernels.logsparse_tiles import Tiles, tiles


@dataclass(frozen=True, kw_only=True)
class Call(InputSizes):
    """Sizes and constants that all launches of a call share; several ask for each.

    device: of all tensors, on which tile sizes depend.
    overlapping: a launch may begin while the one before it ends.
    packing: an instruction takes the maxima of two numbers.
    """

    device: torch.device
    overlapping: bool
    packing: bool

    @cached_property
    def sides(self) -> int:
        return 1 if self.form.causal else 2

    @cached_property
    def lists(self) -> int:
        """One for each side and query head."""
        return self.lines * self.sides

    @cached_property
    def tiles(self) -> Tiles:
        return tiles(self.width, self.dtype, self.device)

    @cached_property
    def block(self) -> int:
        """Tokens of a leaf; a sequence of one leaf is one whatever its length.

        Leaves of one token are leaves of two: a region of a single token is direct.
        """
        block, length = self.form.block, self.length
        return max(2, block if block < length else power(length))

    @cached_property
    def unit(self) -> int:
        """Tokens that no region of `logsparse_regions` divides."""
        return max(self.block, self.tiles.rows)

    @cached_property
    def lag(self) -> int:
        """How far the bound of a query is behind its leaf, in tokens."""
        block = min(self.form.block, self.block)
        return min(self.form.near, -(-self.length // block)) * block

    @cached_property
    def sink(self) -> int:
        return min(self.form.sink, self.length)

    @cached_property
    def front(self) -> int:
        """How many places lie in the first tile before query 0."""
        return -self.lag % self.tiles.rows

    @cached_property
    def units(self) -> int:
        """Units of each side in regions that some query reads."""
        return max(0, -(-(self.length - self.lag) // self.unit) - 1)

    @cached_property
    def chunk_units(self) -> int:
        cut = self.tiles
        return max(1, cut.chunk // self.unit, power(-(-self.units // cut.most)))

    @cached_property
    def chunks(self) -> int:
        return -(-self.units // self.chunk_units)

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Constants that every kernel takes."""
        return {"UNIT": self.unit, "DIM": self.dim}

    @cached_property
    def weighing(self) -> dict[str, Any]:
        """Constants of the kernels that go over all regions."""
        levels = 16 if self.units < 1 << 16 else 32
        return {**self.constants, "WIDTH": self.width, "LEVELS": levels, "SIDES": self.sides}

    @cached_property
    def lighter(self) -> dict[str, Any]:
        """Constants by which the kernels that go over all regions leave work out."""
        return {"SINKS": self.sink > 0, "PACKED": self.packing}

    @cached_property
    def reading(self) -> dict[str, Any]:
        """Constants of the kernels whose programs have a tile of queries."""
        form, rows = self.form, self.tiles.rows
        return {
            **self.constants,
            "WIDTH": self.width,
            "LEVELS": 16 if self.units < 1 << 16 else 32,
            "BLOCK": self.block,
            "GROUP": self.group,
            "T": rows,
            "KIND": self.kind,
            "CAUSAL": form.causal,
            "OWN": self.lag == 0,
            "WINDOW": self.lag > 0 or self.block > rows or not form.causal,
            "INNER": self.block < rows and self.length - self.lag > self.block,
            "OUTER": self.units > 0,
            "SINKS": self.sink > 0,
            "PRECISION": self.exactness,
        }

    @cached_property
    def reads_own(self) -> bool:
        """Whether queries see no more than one leaf of their own tile directly."""
        reading = self.reading
        return self.form.causal and not (reading["WINDOW"] or reading["SINKS"])

    @cached_property
    def early(self) -> bool:
        """Whether a launch may begin while the one before it ends."""
        return self.reads_own and self.overlapping

    @cached_property
    def reading_own(self) -> dict[str, Any]:
        """As `reading`, for `logsparse_own`."""
        reading = self.reading
        left_out = ("CAUSAL", "OWN", "WINDOW", "SINKS")
        kept = {name: x for name, x in reading.items() if name not in left_out}
        return {
            **kept,
            "PACKED": self.packing,
            "WHOLE": self.length % reading["T"] == 0 and self.dim == self.width,
        }


def call_of(q: Tensor, k: Tensor, form: Form) -> Call:
    """What q [B, H, L, D] and k [B, Hkv, L, D] are asked for."""
    return Call(
        shape=q.shape,
        kv_heads=k.shape[1],
        dtype=q.dtype,
        exactness=precision(q),
        device=q.device,
        overlapping=may_overlap(q),
        packing=packs_halves(q),
        form=form,
    )
