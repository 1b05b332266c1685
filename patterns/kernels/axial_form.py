"""What the fused axial Combiners are told: the pattern, resolved."""

from dataclasses import dataclass
from typing import Literal

Plan = Literal["rowmajor", "vertical", "horizontal", "split", "average", "joint"]


@dataclass(frozen=True, kw_only=True)
class Axial:
    """An axial Combiner without sinks and near rows; `scale` is the factor on the scores.

    plan: which one; `split` is the horizontal one with two regions a row, `average` and `joint`
        are the two forms of the mixture.
    """

    plan: Plan
    columns: int
    kind: str
    causal: bool
    scale: float
