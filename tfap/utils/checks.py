"""Shared argument checks: a wrong type raises TypeError, a wrong value ValueError."""

import math
import numbers
from typing import Any

import numpy as np


def integer(name: str, value: Any, least: int = 1) -> int:
    """Checks that an argument is an integer.

    Args:
        name: String. Name of the argument, for the message.
        value: The argument.
        least: Integer. Smallest valid value.

    Returns:
        The value as an `int`.

    Raises:
        TypeError: If the value is not an integer.
        ValueError: If the value is less than `least`.
    """
    wrong_type = not isinstance(value, numbers.Integral) or isinstance(value, bool)
    if wrong_type or int(value) < least:
        raise (TypeError if wrong_type else ValueError)(
            f"{name} must be an integer >= {least}: received {value!r}."
        )
    return int(value)


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Checks that an argument is one of a few values.

    Args:
        name: String. Name of the argument, for the message.
        value: The argument.
        choices: Tuple of the valid values.

    Returns:
        The value.

    Raises:
        TypeError: If no valid value has the type of the value.
        ValueError: If the value is another one of a valid type.
    """
    wrong_type = not isinstance(value, tuple(type(valid) for valid in choices))
    if wrong_type or value not in choices:
        raise (TypeError if wrong_type else ValueError)(
            f"{name} must be one of {choices}: received {value!r}."
        )
    return value


def number(name: str, value: Any) -> float:
    """Checks that an argument is a finite number.

    Args:
        name: String. Name of the argument, for the message.
        value: The argument. Scalar arrays and tensors are numbers too.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: If the value is not a number.
        ValueError: If the value is not finite.
    """
    if hasattr(value, "__array__") and np.ndim(value) == 0:  # schedules return scalar tensors
        value = np.asarray(value).item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number: received {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number: received {value}.")
    return float(value)


def text(name: str, value: Any, none: bool = False) -> Any:
    """Checks that an argument is a string.

    Args:
        name: String. Name of the argument, for the message.
        value: The argument.
        none: Boolean. Whether None is valid too.

    Returns:
        The value.

    Raises:
        TypeError: If the value is not a string, nor a valid None.
    """
    if not isinstance(value, str) and not (none and value is None):
        raise TypeError(f"{name} must be a string{' or None' if none else ''}: received {value!r}.")
    return value
