"""Statistics of small samples, such as differences paired by seed.

The intervals use Student's t-distribution, because a normal approximation is too narrow for a few seeds.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_TWO_SIDED = 0.975


@dataclasses.dataclass(frozen=True)
class Interval:
    """Holds a mean and its 95% confidence interval.

    Attributes:
        mean: Float. NaN if there are no values.
        low: Float. Lower limit. NaN for fewer than two values.
        high: Float. Upper limit. NaN for fewer than two values.

    Example:

    >>> print(Interval(0.5, 0.25, 0.75))
    0.5 (0.25 to 0.75)
    """

    mean: float
    low: float
    high: float

    def text(self, write: Callable[[float], str] = "{:.4g}".format) -> str:
        """Formats the interval as "mean (low to high)".

        Args:
            write: Function that formats a number.

        Returns:
            A string with "-" in place of undefined numbers.
        """
        if math.isnan(self.mean):
            return "-"
        limits = "-" if math.isnan(self.low) else f"{write(self.low)} to {write(self.high)}"
        return f"{write(self.mean)} ({limits})"

    __str__ = text


def interval(values: npt.ArrayLike) -> Interval:
    """Computes the mean of independent values and its 95% confidence interval.

    Args:
        values: Sequence of floats, such as one per seed.

    Returns:
        An `Interval`. All of it is NaN if there are no values.

    Example:

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.48..., high=4.48...)
    """
    sample = np.asarray(values, float)
    if not sample.size:
        return Interval(math.nan, math.nan, math.nan)
    half_width = _standard_error(sample) * _scipy().stats.t.ppf(_TWO_SIDED, len(sample) - 1)
    mean = sample.mean()
    return Interval(float(mean), float(mean - half_width), float(mean + half_width))


def smallest_detectable_effect(values: npt.ArrayLike, power: float = 0.8) -> float:
    """Computes the smallest true mean that a t-test on as many values would detect.

    The test is a two-sided t-test at the 5% level. The standard deviation is that of the values.

    Args:
        values: Sequence of paired differences, such as one per seed.
        power: Float in (0, 1). Probability that the test detects the difference.

    Returns:
        A float >= 0, in the unit of the values. NaN for fewer than two values.

    Example:

    >>> round(smallest_detectable_effect([-1.0, 0.0, 1.0]), 2)
    3.26
    """
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return math.nan
    degrees_of_freedom = len(sample) - 1
    critical_value = _scipy().stats.t.ppf(_TWO_SIDED, degrees_of_freedom)
    # In standard errors. The opposite tail of the test, below 1e-4, is neglected.
    noncentrality = _scipy().special.nctdtrinc(degrees_of_freedom, 1 - power, critical_value)
    return float(_standard_error(sample) * noncentrality)


def _standard_error(sample):
    return sample.std(ddof=1) / math.sqrt(len(sample)) if len(sample) > 1 else math.nan


def _scipy():
    try:
        import scipy.special
        import scipy.stats
    except ImportError as error:
        raise ImportError("scipy is not installed: pip install 'tfap[comparison]'") from error
    return scipy
