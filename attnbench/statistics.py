"""Medians over interleaved rounds, with bootstrap intervals, and paired ratios.

A timing is a list of rounds, each a list of samples in milliseconds. What varies between rounds
(clocks, neighbours) is larger than what varies within one, so rounds are what is resampled.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rounds = Sequence[Sequence[float]]

_RESAMPLES = 2000
_RANKS = (2.5, 97.5)
_MOST_FREEDOM = 1e3  # beyond, Student's t is the normal distribution
_STEPS = 4000


class Interval(NamedTuple):
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval, relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def interval(values: Sequence[float], *, resamples: int = _RESAMPLES) -> Interval:
    """The median of one value a round, with a percentile bootstrap over the rounds."""
    data: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(0)  # the same data always has the same interval
    chosen = generator.integers(len(data), size=(resamples, len(data)))
    low, high = np.percentile(np.median(data[chosen], axis=1), _RANKS)
    return Interval(float(np.median(data)), float(low), float(high))


def mean_interval(values: Sequence[float], *, resamples: int = _RESAMPLES) -> dict[str, Any]:
    """The mean with a percentile bootstrap over the values, as a record has it.

    For a paired interval the values are differences. With one value there is no interval: null.
    """
    data: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    found: dict[str, Any] = {"mean": float(data.mean()), "interval": None}
    if len(data) > 1:
        generator = np.random.default_rng(0)  # the same data always has the same interval
        chosen = generator.integers(len(data), size=(resamples, len(data)))
        low, high = np.percentile(data[chosen].mean(axis=1), _RANKS)
        found["interval"] = [float(low), float(high)]
    return found


def medians(rounds: Rounds) -> list[float]:
    """The median of each round."""
    return [float(np.median(samples)) for samples in rounds]


def summary(rounds: Rounds) -> dict[str, Any] | None:
    """A timing as a record has it; None where nothing was timed."""
    if not rounds:
        return None
    samples = [sample for samples in rounds for sample in samples]
    middle = interval(medians(rounds))
    low, high = np.percentile(samples, (20, 80))
    return {
        "median": middle.median,
        "p20": float(low),
        "p80": float(high),
        "interval": [middle.low, middle.high],
        "n": len(samples),
        "samples": samples,
    }


def ratio(dense: Rounds, own: Rounds) -> Interval:
    """How many times faster `own` is than `dense`, over the rounds that both have."""
    pairs = zip(medians(dense), medians(own), strict=False)
    return interval([one / other for one, other in pairs])


def student_quantile(tail: float, freedom: float) -> float:
    """Where the upper tail of Student's t holds this probability (at most one half)."""
    if freedom >= _MOST_FREEDOM:
        return NormalDist().inv_cdf(1 - tail)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if scale * _cosine_tail(middle, freedom - 1) > tail:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _cosine_tail(start: float, power: float) -> float:
    """The integral of cos(x)^power from `start` to pi / 2, by the trapezoidal rule."""
    # Powers of the sine near zero, on points that are dense where the integrand is small.
    end = math.pi / 2 - start
    x = end * np.linspace(0.0, 1.0, _STEPS) ** 2
    y = np.sin(x) ** power
    return float(np.sum((y[1:] + y[:-1]) * np.diff(x)) / 2)
