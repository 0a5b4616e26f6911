"""Checks of arguments that many rooms make."""

import numbers


def whole(name, value, least=1):
    """The value as an int.

    Raises:
        ValueError: it is no whole number, or below `least`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}: received {value!r}.")
    return int(value)
