"""Medians over interleaved rounds, with bootstrap intervals, and paired ratios.

A timing is a list of rounds, each a list of samples in milliseconds. What varies between rounds
(clocks, neighbours) is larger than what varies within one, so rounds are what is resampled.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rounds = Sequence[Sequence[float]]

_RESAMPLES = 2000
_RANKS = (2.5, 97.5)


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
