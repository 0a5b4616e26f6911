"""Counting in `keras.ops`, for the backends whose shapes are known in every step: JAX and PyTorch.

Arguments and results are those of the functions of the same names in `tensorflow.py`.
"""

import functools
import math

from keras import ops

from tfap.keras_compat.backends import attention

LARGEST = 2**30 - 1  # activations of a neuron in a batch, so that a sum of two fits into int32


def firing(activations, axis, threshold):
    return _sum_over_all_but(axis, ops.cast(_above(activations, threshold), "int32")), _seen(
        activations, axis
    )


def summed(activations, axis, threshold, dtype="float32"):
    values = ops.cast(activations, dtype)
    sums = _sum_over_all_but(axis, ops.where(_above(activations, threshold), values, ops.zeros_like(values)))
    return sums, _seen(activations, axis)


def squared(activations, axis, threshold, dtype="float32"):
    return _sum_over_all_but(axis, ops.square(ops.cast(activations, dtype))), _seen(activations, axis)


def firing_by_position(activations, axis, threshold):
    fired = ops.cast(_above(activations, threshold), "int32")
    if axis == 1:
        fired = ops.moveaxis(fired, 1, -1)
    return ops.reshape(ops.sum(fired, axis=0), (-1, fired.shape[-1])), activations.shape[0]


attention_excess = functools.partial(attention.excess, ops)


def _above(activations, threshold):
    return activations > ops.cast(threshold, activations.dtype)


def _sum_over_all_but(axis, values):
    rank = len(values.shape)
    return ops.sum(values, axis=[other for other in range(rank) if other != axis % rank])


def _seen(activations, axis):
    seen = math.prod(activations.shape) // activations.shape[axis]
    if seen > LARGEST:
        raise ValueError(
            f"A batch has {seen} activations per neuron, and tfap counts at most {LARGEST} in a step: use "
            "smaller batches."
        )
    return seen
