"""What many variances have in common: empirical Bayes for variances of a few repeats each.

The model is that of Smyth (2004), Statistical Applications in Genetics and Molecular Biology 3,
article 3: true variances vary around a common one as an inverse chi-squared distribution with
`freedom` degrees of freedom (his d0 and s0 squared), so that each measured variance over the
common one follows Fisher's F. He takes the two numbers from moments of log variances. Here the
likelihood of F has them, because moments of logarithms count a variance that came out tiny by
luck for more than one that is large.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FREEDOMS = np.geomspace(0.5, 8.0, 49)  # with more lent, a case that drifts would be missed
_UPPER = 1.96  # standard errors
_STEPS = 40
_FAR = 3.5  # standard deviations of a logarithm of a variance
_MOST_WILD = 0.25  # of the cases: what more of them do is no exception


class Prior(NamedTuple):
    """The common variance, and how many degrees of freedom of it each case is lent."""

    variance: float
    freedom: float

    def wild(self, variance: Array, freedom: Array) -> NDArray[np.bool_]:
        """Which measured variances are too large to be of this distribution."""
        own, lent = freedom / 2, np.array([self.freedom / 2])
        centre = digamma(own) - np.log(own) - digamma(lent) + np.log(lent)
        deviation = np.sqrt(trigamma(own) + trigamma(lent))
        return np.asarray(np.log(variance / self.variance) > centre + _FAR * deviation)


def robust_prior(variance: Array, freedom: Array) -> tuple[Prior, NDArray[np.bool_]]:
    """The prior of these variances without the wild ones, and which are wild.

    Args:
        variance: [cases], above 0.
        freedom: [cases], the degrees of freedom of each.
    """
    wild = np.zeros(len(variance), dtype=bool)
    while True:
        prior = likeliest_prior(variance[~wild], freedom[~wild])
        # One wild case widens the prior, and a narrower prior may show the next.
        more = wild | prior.wild(variance, freedom)
        if (more == wild).all() or more.mean() > _MOST_WILD:
            return prior, wild
        wild = more


def likeliest_prior(variance: Array, freedom: Array) -> Prior:
    """The prior under which these variances are most likely; arguments as of `robust_prior`."""
    lent = _FREEDOMS[:, None]  # [candidates, 1], beside [cases]
    low, high = (np.full((len(lent), 1), math.log(end)) for end in (min(variance), max(variance)))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        share = freedom * variance / (freedom * variance + lent * np.exp(middle))
        slope = ((freedom + lent) * share - freedom).sum(axis=1, keepdims=True)
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    likelihood = _log_likelihood(variance / np.exp(low), freedom, lent)
    best = int(np.argmax(likelihood))
    return Prior(math.exp(low[best, 0]), float(_FREEDOMS[best]))


def cautious(prior: Prior, freedom: Array) -> Prior:
    """The prior with its variance at the upper end of its own 95 % interval.

    Intervals miss where a case drifts and its own few repeats agree by luck: then the common
    variance is most of what it has, and an estimate of that which is too small costs coverage.
    """
    lent = prior.freedom
    known = (freedom * lent / (freedom + lent + 2) / 2).sum()  # Fisher's information on its log
    return prior._replace(variance=prior.variance * math.exp(_UPPER / math.sqrt(known)))


def _log_likelihood(ratio: Array, freedom: Array, lent: Array) -> Array:
    """Of F at these ratios [candidates, cases], summed over cases, but for a constant."""
    found = (
        _log_gamma((freedom + lent) / 2) - _log_gamma(lent / 2)
        + freedom / 2 * np.log(ratio / lent)
        - (freedom + lent) / 2 * np.log1p(freedom * ratio / lent)
    )  # fmt: skip
    return np.asarray(found.sum(axis=1))


def digamma(x: Array) -> Array:
    """The derivative of the logarithm of the gamma function, above 0."""
    return np.asarray(torch.special.digamma(torch.from_numpy(x)))


def trigamma(x: Array) -> Array:
    """The derivative of `digamma`: the variance of the logarithm of a gamma variable."""
    return np.asarray(torch.special.polygamma(1, torch.from_numpy(x)))


def _log_gamma(x: Array) -> Array:
    return np.asarray(torch.special.gammaln(torch.from_numpy(x)))
