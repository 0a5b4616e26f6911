"""Statistics of few paired differences: Student's t, since three seeds are no normal distribution."""

import dataclasses
import math

import numpy as np

_TWO_SIDED = 0.975


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval; `low` and `high` are NaN where one value alone gives none.

    >>> print(Interval(0.5, 0.25, 0.75))
    0.5 (0.25 to 0.75)
    """

    mean: float
    low: float
    high: float

    def text(self, write="{:.4g}".format):
        """The three numbers, each written by this function; "-" for what is not known."""
        if math.isnan(self.mean):
            return "-"
        ends = "-" if math.isnan(self.low) else f"{write(self.low)} to {write(self.high)}"
        return f"{write(self.mean)} ({ends})"

    __str__ = text


def interval(values):
    """The `Interval` of the mean of independent values, such as one a seed; all NaN without values.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.48..., high=4.48...)
    """
    values = np.asarray(values, float)
    if not values.size:
        return Interval(math.nan, math.nan, math.nan)
    half = _standard_error(values) * _scipy().stats.t.ppf(_TWO_SIDED, len(values) - 1)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def smallest_detectable_effect(values, power=0.8):
    """How far from 0 the true mean must be for so many values with this scatter to show it.

    Args:
        values: paired differences, such as one a seed.
        power: in (0, 1), the probability that a two-sided t-test at 5% then finds a difference.

    Returns:
        A number >= 0 in the unit of the values; NaN for fewer than two.

    >>> round(smallest_detectable_effect([-1.0, 0.0, 1.0]), 2)
    3.26
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return math.nan
    freedom = len(values) - 1
    bound = _scipy().stats.t.ppf(_TWO_SIDED, freedom)
    # The mean in standard errors; the test's other tail, below 1e-4, is left out.
    shift = _scipy().special.nctdtrinc(freedom, 1 - power, bound)
    return float(_standard_error(values) * shift)


def _standard_error(values):
    return values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _scipy():
    try:
        import scipy.special
        import scipy.stats
    except ImportError as error:
        raise ImportError("Intervals are computed with scipy: pip install 'tfap[comparison]'") from error
    return scipy
