"""What is worked out once for all launches of a call of Combiner-Logsparse."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from patterns.kernels.launching import may_overlap, packs_halves, precision
from patterns.kernels.logsparse_tiles import Tiles, tiles

KINDS = {"max": 0, "mean": 1, "mean+size": 2, "variational": 3}
_LOG2E = 1.4426950408889634


@dataclass(frozen=True, kw_only=True)
class Logsparse:
    """A resolved Combiner-Logsparse: `block` a power of two, `scale` the factor on the scores."""

    block: int
    near: int
    sink: int
    kind: str
    causal: bool
    scale: float


@dataclass(frozen=True)
class Call:
    """Sizes and constants that all launches of a call share; several ask for each."""

    q: Tensor
    k: Tensor
    form: Logsparse

    @cached_property
    def lines(self) -> int:
        return self.q.shape[0] * self.q.shape[1]

    @cached_property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    @cached_property
    def sides(self) -> int:
        return 1 if self.form.causal else 2

    @cached_property
    def width(self) -> int:
        return max(16, power(self.q.shape[3]))

    @cached_property
    def tiles(self) -> Tiles:
        return tiles(self.width, self.q.dtype, self.q.device)

    @cached_property
    def block(self) -> int:
        """Tokens of a leaf; a sequence of one leaf is one whatever its length.

        Leaves of one token are leaves of two: a region of a single token is direct.
        """
        block, length = self.form.block, self.q.shape[2]
        return max(2, block if block < length else power(length))

    @cached_property
    def unit(self) -> int:
        """Tokens that no region of `logsparse_regions` divides."""
        return max(self.block, self.tiles.rows)

    @cached_property
    def lag(self) -> int:
        """How far the bound of a query is behind its leaf, in tokens."""
        block = min(self.form.block, self.block)
        return min(self.form.near, -(-self.q.shape[2] // block)) * block

    @cached_property
    def sink(self) -> int:
        return min(self.form.sink, self.q.shape[2])

    @cached_property
    def front(self) -> int:
        """How many places lie in the first tile before query 0."""
        return -self.lag % self.tiles.rows

    @cached_property
    def units(self) -> int:
        """Units of each side in regions that some query reads."""
        return max(0, -(-(self.q.shape[2] - self.lag) // self.unit) - 1)

    @cached_property
    def chunk_units(self) -> int:
        cut = self.tiles
        return max(1, cut.chunk // self.unit, power(-(-self.units // cut.most)))

    @cached_property
    def chunks(self) -> int:
        return -(-self.units // self.chunk_units)

    @cached_property
    def biased(self) -> bool:
        return KINDS[self.form.kind] >= KINDS["mean+size"]

    @cached_property
    def scale(self) -> float:
        return self.form.scale * _LOG2E

    @cached_property
    def shape(self) -> dict[str, Any]:
        """Constants that every kernel takes."""
        return {"UNIT": self.unit, "DIM": self.q.shape[3]}

    @cached_property
    def weighing(self) -> dict[str, Any]:
        """Constants of the kernels that go over all regions."""
        levels = 16 if self.units < 1 << 16 else 32
        return {**self.shape, "WIDTH": self.width, "LEVELS": levels, "SIDES": self.sides}

    @cached_property
    def lighter(self) -> dict[str, Any]:
        """Constants by which the kernels that go over all regions leave work out."""
        return {"SINKS": self.sink > 0, "PACKED": packs_halves(self.q)}

    @cached_property
    def reading(self) -> dict[str, Any]:
        """Constants of the kernels whose programs have a tile of queries."""
        form, rows = self.form, self.tiles.rows
        return {
            **self.shape,
            "WIDTH": self.width,
            "LEVELS": 16 if self.units < 1 << 16 else 32,
            "BLOCK": self.block,
            "GROUP": self.group,
            "T": rows,
            "KIND": KINDS[form.kind],
            "CAUSAL": form.causal,
            "OWN": self.lag == 0,
            "WINDOW": self.lag > 0 or self.block > rows or not form.causal,
            "INNER": self.block < rows and self.q.shape[2] - self.lag > self.block,
            "OUTER": self.units > 0,
            "SINKS": self.sink > 0,
            "PRECISION": precision(self.q),
        }

    @cached_property
    def reads_own(self) -> bool:
        """Whether queries see no more than one leaf of their own tile directly."""
        reading = self.reading
        return self.form.causal and not (reading["WINDOW"] or reading["SINKS"])

    @cached_property
    def early(self) -> bool:
        """Whether a launch may begin while the one before it ends."""
        return self.reads_own and may_overlap(self.q)

    @cached_property
    def reading_own(self) -> dict[str, Any]:
        """As `reading`, for `logsparse_own`."""
        reading = self.reading
        left_out = ("CAUSAL", "OWN", "WINDOW", "SINKS")
        kept = {name: x for name, x in reading.items() if name not in left_out}
        length, dim = self.q.shape[2:]
        return {
            **kept,
            "PACKED": packs_halves(self.q),
            "WHOLE": length % reading["T"] == 0 and dim == self.width,
        }


def power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, count - 1).bit_length()
