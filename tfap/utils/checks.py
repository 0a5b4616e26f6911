"""Checks of arguments that many rooms make."""

import math
import numbers

import numpy as np


def whole(name, value, least=1):
    """The value as an int.

    Raises:
        ValueError: it is no whole number, or below `least`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}: received {value!r}.")
    return int(value)


def number(name, value):
    """The value as a float.

    Raises:
        TypeError: it is no number. ValueError: it is not finite.
    """
    if hasattr(value, "__array__") and np.ndim(value) == 0:  # as schedules give their sparsity
        value = np.asarray(value).item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number: received {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number: received {value}.")
    return float(value)


def text(name, value, none=False):
    """The value, a string, or None where `none` says so.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, str) and not (none and value is None):
        raise TypeError(f"{name} must be a string{' or None' if none else ''}: received {value!r}.")
    return value
