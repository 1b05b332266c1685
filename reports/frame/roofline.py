"""How fast a case computes against what the device can do, and how much of it is thrown away.

Work is that of the definition (scored pairs); where the record knows how many pairs the
implementation computed, the same time is read as a rate of those too. Products of a backward pass
are counted as in the least time of a record (`attnbench.ceilings`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnbench.ceilings import BYTES_FACTOR, EXP_FACTOR, doubtful
from attnbench.predict import PASS_FACTOR

OLDER = (
    "machine.json holds no ceilings: this run is older than their measurement, and a new run "
    "measures them"
)


@dataclass(frozen=True, kw_only=True)
class Roof:
    """The measured ceilings of one setting and pass; `why` says why one is None, or doubtful.

    Rates are per second: bytes copied (read and written), FLOPs of a matrix product, and FLOPs of
    attention while exponentials take all the time (each pair takes one).
    """

    copy: float | None
    matmul: float | None
    exp: float | None
    why: str

    def at(self, intensity: float) -> float | None:
        """The lowest known ceiling, FLOPs a second, at so many FLOPs a byte."""
        if self.copy is None or self.matmul is None:
            return None
        known = [self.copy * intensity, self.matmul, *([self.exp] if self.exp else [])]
        return min(known)

    @property
    def ridge(self) -> float | None:
        """From how many FLOPs a byte on the matrix products are what limits."""
        return self.matmul / self.copy if self.copy and self.matmul else None


def roofline(cost: pd.DataFrame) -> pd.DataFrame:
    """The timed cases with `rate` (FLOPs a second) and `intensity` (FLOPs a byte).

    `computed_rate` and `computed_intensity` count what the implementation computed, and
    `computed_ratio` says how many times the definition's work that is; NaN where it is unknown.
    """
    known = cost.status.eq("ok") & cost.ms.gt(0) & cost.flops.gt(0) & cost.bytes.gt(0)
    rows = cost[known]
    flops = rows.flops * rows["pass"].map(PASS_FACTOR)
    moved = rows.bytes * rows["pass"].map(BYTES_FACTOR)
    ratio = rows.computed_pairs * (4 * rows.dim) / rows.flops
    rate, intensity = flops / (rows.ms / 1e3), flops / moved
    return rows.assign(
        rate=rate,
        intensity=intensity,
        computed_ratio=ratio,
        computed_rate=rate * ratio,
        computed_intensity=intensity * ratio,
    )


def roof(machine: Mapping[str, Any], *, dtype: str, pass_: str, dim: int) -> Roof:
    """The ceilings in one machine's facts.

    Args:
        machine: its entry in machine.json.
        dtype: of the products.
        pass_: the pass: a backward pass takes more products for each exponential.
        dim: head width D; a pair is 4 D FLOPs forward.
    """
    found = machine.get("ceilings")
    if not isinstance(found, Mapping):
        return Roof(copy=None, matmul=None, exp=None, why=OLDER)
    products = found.get("matmul_flops_per_s")
    matmul = _rate(products.get(dtype)) if isinstance(products, Mapping) else None
    copy, exps = _rate(found.get("copy_bytes_per_s")), _rate(found.get("exp_per_s"))
    noted = found.get("notes")
    notes = noted if isinstance(noted, Mapping) else {}
    named = {"copy_bytes_per_s": copy, dtype: matmul, "exp_per_s": exps}
    words = {"copy_bytes_per_s": "copying", dtype: f"{dtype} products", "exp_per_s": "exponentials"}
    why = [
        f"no ceiling for {words[key]}: {notes.get(key, 'it was not measured')}"
        for key, value in named.items()
        if value is None
    ]
    spread = found.get("spread")
    shaken = doubtful({"spread": spread}) if isinstance(spread, Mapping) else {}
    why += [
        f"the ceiling of {words[key]} is doubtful: most of its measurements were {shaken[key]:.0%} "
        "below the best, as on a busy machine, so it may be too low"
        for key, value in named.items()
        if value is not None and key in shaken
    ]
    factor = 4 * dim * PASS_FACTOR[pass_] / EXP_FACTOR[pass_]
    exp = None if exps is None else exps * factor
    return Roof(copy=copy, matmul=matmul, exp=exp, why="; ".join(why))


def shown_length(rows: pd.DataFrame) -> int:
    """The length to compare at: the longest with at least half as many lines as any other.

    Where full attention was timed at one of these, the longest of those.
    """
    lines = rows.asked + "@" + rows.backend
    counts = lines.groupby(rows.length).nunique()
    many = rows[rows.length.isin(counts.index[2 * counts >= counts.max()])]
    dense = many[many.name.eq("full")]
    return int((dense if len(dense) else many).length.max())


def _rate(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
