"""Intervals against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from fedsim.report.statistics import Interval, bootstrap_interval, t_interval


@pytest.mark.parametrize("number", [2, 3, 5, 40])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_t_interval_is_that_of_scipy(number: int, confidence: float) -> None:
    values = np.random.default_rng(number).normal(0.9, 0.02, number)
    low, high = stats.t.interval(confidence, number - 1, loc=values.mean(), scale=stats.sem(values))
    found = t_interval(values.tolist(), confidence)
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert (found.known, found.repetitions) == (True, number)


def test_one_repetition_has_no_interval_and_none_has_no_mean() -> None:
    found = t_interval([0.7])
    assert (found.value, found.known) == (0.7, False)
    assert math.isnan(found.within(0, 1).low)
    with pytest.raises(ValueError, match="no mean"):
        t_interval([])
    with pytest.raises(ValueError, match="no statistic"):
        bootstrap_interval([], lambda samples: samples.mean(axis=1))


def test_an_interval_is_cut_to_what_is_possible() -> None:
    assert Interval(0.98, 0.9, 1.06, 5).within(0, 1) == Interval(0.98, 0.9, 1.0, 5)


def test_the_bootstrap_agrees_with_scipy_and_is_always_the_same() -> None:
    values = np.random.default_rng(5).beta(8, 2, 120)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, random_state=1)
    found = bootstrap_interval(values.tolist(), lambda samples: samples.mean(axis=1))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)
    shuffled = np.random.default_rng(9).permutation(values).tolist()
    assert bootstrap_interval(shuffled, lambda samples: samples.mean(axis=1)) == found
