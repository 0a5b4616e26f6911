"""The built-in criteria by name, and how a criterion is asked for."""

from tfap import keras_compat, serialization
from tfap.criteria.base import Criterion

_BUILT_IN = {}


def built_in(cls):
    """Decorates a criterion of tfap's own: registered with both Kerases, and known by its class's name."""
    _BUILT_IN[keras_compat.snake_case(cls.__name__)] = keras_compat.register(cls)
    return cls


def get(criterion):
    """A criterion from an object, a name or a saved config, as Keras's `get` functions do.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a criterion nor a name.

    >>> get("magnitude")
    Magnitude()
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, dict):
        return serialization.deserialize(criterion, {})
    if isinstance(criterion, str):
        if criterion not in _BUILT_IN:
            raise ValueError(f"Unknown criterion '{criterion}'. Known: {', '.join(sorted(_BUILT_IN))}.")
        return _BUILT_IN[criterion]()
    raise TypeError(
        "criterion must be a tfap.Criterion, such as tfap.ActivationCount(), or the name of one: "
        f"received {criterion!r} of type {type(criterion).__name__}."
    )
