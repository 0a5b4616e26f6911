import math

import numpy as np
import pytest
import scipy.stats

from tfap.utils.statistics import interval, smallest_detectable_effect


@pytest.mark.parametrize("count", [2, 3, 10])
def test_interval_is_scipys(count):
    values = np.random.default_rng(count).normal(size=count)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_a_mean_and_no_interval():
    found = interval([2.5])
    assert found.mean == 2.5 and math.isnan(found.low) and math.isnan(found.high)
    assert found.text() == "2.5 (-)"
    assert math.isnan(smallest_detectable_effect([2.5]))


def test_no_values_at_all():
    assert math.isnan(interval([]).mean) and interval([]).text() == "-"
    assert math.isnan(smallest_detectable_effect([]))


def test_a_metric_that_is_nan_is_told():
    assert math.isnan(interval([1.0, math.nan]).mean)


@pytest.mark.parametrize("count, effect", [(3, 3.264), (5, 1.682), (10, 0.996)])
def test_effects_of_the_tables(count, effect):
    """In standard deviations; power tables of the one-sample t-test give the same, for example G*Power."""
    values = np.linspace(-1, 1, count)
    assert smallest_detectable_effect(values / values.std(ddof=1)) == pytest.approx(effect, abs=1e-3)


@pytest.mark.parametrize("count, power", [(3, 0.8), (6, 0.8), (6, 0.95)])
def test_an_effect_of_that_size_is_found_as_often_as_promised(count, power):
    values = np.linspace(-1, 1, count)
    effect = smallest_detectable_effect(values / values.std(ddof=1), power)
    drawn = np.random.default_rng(0).normal(effect, 1, (20_000, count))
    found = np.mean(scipy.stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(power, abs=0.015)
