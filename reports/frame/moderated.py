"""Intervals of many differences at once, from a few repeats each: moderated t, corrected.

Three repeats say little of their own spread, and many cases together say much of how spreads are.
So the variance of each case is drawn towards what is common to all of them, as far as they agree
(`reports/frame/prior.py`), and has more degrees of freedom for it. A case far beyond all others
keeps its own variance and is left out of the common one, and fewer than 8 cases share nothing.
A variance that is no finite number leaves its own case without an interval, and no other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnbench.statistics import student_quantile
from reports.frame.prior import cautious, robust_prior

Array = NDArray[np.float64]

FEWEST = 8
"""Cases that share what they know of variances: fewer say too little of it."""

_LEAST_SHARE = 1e-3  # of the middle variance above 0: repeats that agree to the clock's last tick


class Repeats(NamedTuple):
    """What was measured several times: the middle, a repeat's variance, how many (2 or more)."""

    middle: float
    variance: float
    number: int

    @classmethod
    def around_median(cls, values: Sequence[float]) -> "Repeats":
        """The repeats of one case around their median: of rounds, some of which are disturbed."""
        data = np.asarray(values, dtype=float)
        # A median strays farther than a mean: so much of normal repeats, at most pi / 2.
        factor = {2: 1.0, 3: 1.35}.get(len(data), math.pi / 2)
        return cls(float(np.median(data)), factor * _variance(data), len(data))

    @classmethod
    def around_mean(cls, values: Sequence[float]) -> "Repeats":
        """The repeats of one case around their mean, which is what Student's t is of."""
        data = np.asarray(values, dtype=float)
        return cls(float(data.mean()), _variance(data), len(data))


def _variance(data: Array) -> float:
    # Of three equal values the mean may be another number by rounding, and they differ from it.
    return float(data.var(ddof=1)) if (data != data[0]).any() else 0.0


def centre(values: Sequence[float]) -> float:
    """The median of the means of all pairs, each value with itself too (Hodges and Lehmann 1963).

    A median jumps where rounds fall on two levels, half on each, and a mean follows one disturbed
    round. This does neither: up to 29 % of the values may be anything.
    """
    data = np.asarray(values, dtype=float)
    one, other = np.triu_indices(len(data))
    return float(np.median((data[one] + data[other]) / 2))


@dataclass(frozen=True, kw_only=True)
class Differences:
    """One entry a case: the difference of two middles, and half the width of its interval.

    `shared` says whether the case's variance was drawn towards the common one.
    """

    value: Array
    half_width: Array
    shared: NDArray[np.bool_]


def differences(
    a: Sequence[Repeats],
    b: Sequence[Repeats],
    *,
    level: float,
    least: Sequence[float] | None = None,
) -> Differences:
    """b - a of each case's middles, with intervals that all hold together with this probability.

    Args:
        a: the repeats of each case in one run.
        b: the same in the other, in the same order.
        level: of all intervals together, 0.99 for instance; Bonferroni's correction.
        least: the variance of each case's repeats where no repeats of any case differ; 0 if None.
    """
    pairs = list(zip(a, b, strict=True))
    value = np.array([y.middle - x.middle for x, y in pairs])
    if not pairs:
        return Differences(value=value, half_width=value, shared=value.astype(bool))
    freedom = np.array([x.number + y.number - 2.0 for x, y in pairs])
    squares = [x.variance * (x.number - 1) + y.variance * (y.number - 1) for x, y in pairs]
    inverse = np.array([1 / x.number + 1 / y.number for x, y in pairs])
    floor = np.zeros(len(pairs)) if least is None else np.asarray(least, dtype=float)
    variance, total, shared = moderated(np.array(squares) / freedom, freedom, floor)
    tail = (1 - level) / 2 / len(pairs)
    quantile = {one: student_quantile(tail, one) for one in set(total.tolist())}
    factor = np.array([quantile[one] for one in total.tolist()])
    return Differences(value=value, half_width=factor * np.sqrt(variance * inverse), shared=shared)


def moderated(
    variance: Array, freedom: Array, least: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Variances drawn towards the common one, their degrees of freedom, and which were drawn.

    Args:
        variance: [cases]; those that are no finite number stay so, and the others do not see them.
        freedom: [cases], the degrees of freedom of each.
        least: [cases], the variances where all that were measured are 0.
    """
    known = np.isfinite(variance)
    above = variance[known & (variance > 0)]
    # Before anything is shared: few cases, or mostly equal repeats, are no surer than others.
    floor = np.full(len(variance), _LEAST_SHARE * np.median(above)) if len(above) else least
    raised = np.where(known, np.maximum(variance, floor), variance)
    shared = np.zeros(len(variance), dtype=bool)
    if known.sum() < FEWEST or len(above) == 0:
        return raised, freedom, shared
    prior, wild = robust_prior(raised[known], freedom[known])
    prior = cautious(prior, freedom[known][~wild])
    shared[known] = ~wild
    drawn = (prior.freedom * prior.variance + freedom * raised) / (prior.freedom + freedom)
    total = np.where(shared, prior.freedom + freedom, freedom)
    return np.where(shared, drawn, raised), total, shared
