"""Intervals: of a mean over few repetitions (Student's t), and of any statistic of many values (bootstrap)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A value with the interval around it; no interval (NaN ends) where one repetition cannot give one."""

    value: float
    low: float
    high: float
    repetitions: int

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def within(self, low: float, high: float) -> "Interval":
        """The same, cut to the values that are possible."""
        return Interval(self.value, max(self.low, low), min(self.high, high), self.repetitions) if self.known else self


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent repetitions, and its two-sided Student t interval, which takes them for normal.

    Raises ValueError without values.
    """
    from scipy.special import stdtrit

    if not values:
        raise ValueError("there is no mean of no values")
    sample = np.asarray(values, dtype=np.float64)
    mean, number = float(sample.mean()), len(sample)
    if number == 1:
        return Interval(mean, math.nan, math.nan, 1)
    reach = float(stdtrit(number - 1, (1 + confidence) / 2)) * float(sample.std(ddof=1)) / math.sqrt(number)
    return Interval(mean, mean - reach, mean + reach, number)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    confidence: float = CONFIDENCE,
) -> Interval:
    """A statistic of the values with its percentile bootstrap interval (Efron 1979), always the same for them.

    ``statistic`` takes ``[resamples, n]`` to ``[resamples]``. Raises ValueError without values.
    """
    if not values:
        raise ValueError("there is no statistic of no values")
    sample = np.sort(np.asarray(values, dtype=np.float64))  # their order must not matter
    drawn = np.random.default_rng(len(sample)).integers(len(sample), size=(RESAMPLES, len(sample)))
    share = (1 - confidence) / 2
    low, high = np.quantile(statistic(sample[drawn]), [share, 1 - share])
    value = float(statistic(sample[None])[0])
    return Interval(value, *((float(low), float(high)) if len(sample) > 1 else (math.nan, math.nan)), len(sample))
