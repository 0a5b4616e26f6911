"""A fault of `keras.ops.add` on TensorFlow: it takes some tensors for a bias of another axis."""

import functools

import keras
import numpy as np

from tfap.keras_compat import lazy
from tfap.keras_compat.owner import backend_name


def misreads_sums(layer):
    """Returns whether a layer or function adds with a fault of Keras 3 on TensorFlow, seen in Keras 3.15.

    Its `ops.add` takes a second tensor with one axis longer than 1 for a bias: of the last axis of the first
    tensor if that is as long, or else of axis 1 if that is as long, wherever broadcasting would put it.
    """
    is_keras3 = not lazy.is_instance(layer, "tf_keras.layers.Layer")
    return is_keras3 and backend_name(layer) == "tensorflow" and _has_fault()


@functools.cache
def _has_fault():
    first, second = np.zeros((1, 2, 2, 1), "float32"), np.array([[0], [1]], "float32")
    return not np.array_equal(np.array(keras.ops.add(first, second)), first + second)
