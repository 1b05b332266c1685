"""What the kernels along the lines of a grid are told: the pattern, resolved."""

from dataclasses import dataclass
from typing import Literal

Plan = Literal[
    "rowmajor", "vertical", "horizontal", "split", "average", "joint", "cross", "strided"
]


@dataclass(frozen=True, kw_only=True)
class Axial:
    """An axial Combiner without sinks and near rows, or a sparse pattern of rows and columns.

    plan: which one; `split` is the horizontal one with two regions a row, `average` and `joint`
        are the two forms of the mixture; `cross` is the own row and column, and `strided` a window
        of `columns` tokens and the own column, both without summaries.
    kind: of summaries; `none` where there are none.
    scale: factor on the scores.
    """

    plan: Plan
    columns: int
    kind: str
    causal: bool
    scale: float
