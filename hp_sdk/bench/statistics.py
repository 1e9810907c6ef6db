"""What a few runs say about all runs: percentiles, means and ratios, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[float] | NDArray[np.float64]

RUNS_MIN = 6
"""The fewest runs that bound a median: all lie on one side of it once in 2**5 = 32 times."""
_MISSED = 0.05
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and between what bounds it lies with 95 % confidence; None is no bound."""

    value: float
    low: float | None = None
    high: float | None = None

    def inverse(self, numerator: float) -> Estimate:
        """`numerator` divided by this."""
        low, high = (None if end is None else numerator / end for end in (self.high, self.low))
        return Estimate(numerator / self.value, low, high)


def percentile(samples: Samples, percent: int) -> Estimate:
    """The nearest-rank percentile, bounded by two of the samples.

    How many of n samples lie below a quantile is binomial whatever their distribution; the bounds
    are the innermost ranks that are passed with a probability of 2.5 % at most on each side.
    """
    ranked = np.sort(np.asarray(samples, np.float64))
    below = _binomial_cdf(len(ranked), percent / 100)
    low = int(np.count_nonzero(below <= _MISSED / 2))
    high = int(np.count_nonzero(below < 1 - _MISSED / 2))
    return Estimate(
        _at_rank(ranked, percent),
        float(ranked[low - 1]) if low else None,
        float(ranked[high]) if high < len(ranked) else None,
    )


def mean(samples: Samples) -> Estimate:
    """The mean, bounded by the bootstrap; the same samples always give the same bounds."""
    values = np.asarray(samples, np.float64)
    resampled = _bootstrap(lambda draw: float(draw(values).mean()))
    return _bounded(float(values.mean()), resampled, enough=len(values) >= RUNS_MIN)


def ratio_of_medians(new: Samples, base: Samples) -> Estimate:
    """Median of `new` / median of `base`, bounded by the bootstrap of both."""
    over, under = (np.sort(np.asarray(samples, np.float64)) for samples in (new, base))
    resampled = _bootstrap(lambda draw: _at_rank(draw(over), 50) / _at_rank(draw(under), 50))
    ratio = _at_rank(over, 50) / _at_rank(under, 50)
    return _bounded(ratio, resampled, enough=min(len(over), len(under)) >= RUNS_MIN)


def _at_rank(values: NDArray[np.float64], percent: int) -> float:
    """The smallest value that `percent` per cent of the values do not exceed."""
    rank = max(1, -(-percent * len(values) // 100))
    return float(np.partition(values, rank - 1)[rank - 1])


def _binomial_cdf(trials: int, chance: float) -> NDArray[np.float64]:
    """Probability of at most k successes, for k of 0 to trials - 1."""
    k = np.arange(1, trials)
    steps = np.log((trials - k + 1) / k) + math.log(chance / (1 - chance))
    logs = trials * math.log1p(-chance) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.cumsum(np.exp(logs))


Draw = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""As many values as there are, drawn with replacement."""


def _bootstrap(statistic: Callable[[Draw], float]) -> NDArray[np.float64]:
    generator = np.random.default_rng(0)

    def draw(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[generator.integers(0, len(values), len(values))]

    return np.array([statistic(draw) for _ in range(_RESAMPLES)])


def _bounded(value: float, resampled: NDArray[np.float64], *, enough: bool) -> Estimate:
    if not enough:
        return Estimate(value)
    low, high = np.quantile(resampled, [_MISSED / 2, 1 - _MISSED / 2])
    return Estimate(value, float(low), float(high))
