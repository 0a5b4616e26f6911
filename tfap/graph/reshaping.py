"""Where channels are after a Flatten or Reshape, which spreads each of them over several elements."""

import numpy as np


def keeps_last_axis(layer, axis, shape, new_shape):
    """Returns whether a reshape keeps the channels on the last axis. Other dimensions may be undefined."""
    is_last = axis == len(shape) - 1 and not channels_first_flatten(layer)
    return is_last and shape[-1] is not None and shape[-1] == new_shape[-1]


def unit_axis(elements):
    """Returns the axis on which reshaped channels can be removed.

    It is the last one on which alone the group depends. If there is none, as in a channel shuffle, channels
    are coupled, and the longest of the axes on which the group depends couples the fewest.
    """
    axes = range(elements.ndim)[::-1]
    for axis in axes:
        units = by_unit(elements, axis)
        if (units == units[:1]).all():
            return axis
    return max((axis for axis in axes if _depends_on(elements, axis)), key=lambda axis: elements.shape[axis])


def _depends_on(elements, axis):
    return bool((elements != elements.take([0], axis)).any())


def by_unit(elements, axis):
    """Returns the elements as rows with one entry per index on an axis."""
    return np.moveaxis(elements, axis, -1).reshape(-1, elements.shape[axis])


def spread(values, axis, shape, channels_first):
    """Repeats one value per channel for every element of a sample, in the order in which it is flattened."""
    along = [1] * (len(shape) - 1)
    along[axis - 1] = len(values)
    elements = np.broadcast_to(np.reshape(values, along), shape[1:])
    return np.moveaxis(elements, 0, -1).ravel() if channels_first else elements.ravel()


def channels_first_flatten(layer):
    """Returns whether a layer is a Flatten with channels_first, which moves the channels last first."""
    is_flatten = not hasattr(layer, "target_shape")
    return is_flatten and getattr(layer, "data_format", None) == "channels_first"
