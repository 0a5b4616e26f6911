"""Singular values of a model's kernels, and the ranks that they tell."""

import numbers

import ml_dtypes
import numpy as np

from tfap import keras_compat
from tfap.low_rank import matrices


def singular_values(model):
    """The singular values of every layer's kernel, as a float64 SVD in NumPy gives them.

    A convolution's kernel is the matrix `(window * inputs, outputs)`. Layers whose kernel is no matrix
    between all channels are left out: depthwise, separable and grouped convolutions, Embedding, recurrent
    layers and attention, EinsumDense on other axes than the last.

    Args:
        model: a built Sequential or Functional model of either Keras; one with pruning wrappers gives
            those of the masked kernels, under the same paths.

    Returns:
        `{layer path: float64 array, descending, of length min(rows, columns)}`, in graph order.

    Raises:
        TypeError: no model. ValueError: a subclassed model, one that is not built, or a kernel with values
            that are not finite.

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    >>> model.layers[0].set_weights([numpy.array([[3, 0], [0, -4]]), numpy.zeros(2)])
    >>> singular_values(model)["dense"].tolist()
    [4.0, 3.0]
    """
    keras_compat.check_readable(model, "tfap.low_rank.singular_values")
    return {matrix.path: spectrum(matrix) for matrix in matrices.of_model(model)}


def ranks(model, tolerance=None):
    """The rank of every layer's kernel: how many singular values count as more than zero.

    Args:
        model: as for `singular_values`.
        tolerance: singular values above it count, a number >= 0. None is NumPy's rule (matrix_rank): the
            largest one x the longer side x the precision of the kernel's dtype.

    Returns:
        `{layer path: int}`, in graph order.

    Raises:
        TypeError, ValueError: as for `singular_values`; a tolerance below 0.

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    >>> model.layers[0].set_weights([numpy.ones((3, 2)), numpy.zeros(2)])
    >>> ranks(model)
    {'dense': 1}
    """
    keras_compat.check_readable(model, "tfap.low_rank.ranks")
    if tolerance is not None and not (isinstance(tolerance, numbers.Real) and tolerance >= 0):
        raise ValueError(f"tolerance must be None or a number >= 0: received {tolerance!r}.")
    return {matrix.path: rank_of(matrix, spectrum(matrix), tolerance) for matrix in matrices.of_model(model)}


def spectrum(matrix):
    """The singular values of a `KernelMatrix`, descending."""
    return np.linalg.svd(matrix.values, compute_uv=False)


def rank_of(matrix, values, tolerance=None):
    """The rank of a `KernelMatrix` with these singular values; 0 for one of zeros."""
    if tolerance is None:
        # A float32 kernel is rounded to float32, however precise the SVD.
        precision = float(ml_dtypes.finfo(matrix.dtype).eps)
        tolerance = values.max(initial=0) * max(matrix.values.shape) * precision
    return int((values > tolerance).sum())


def check_rank(rank, name, least):
    """Checks one rank that an argument gives.

    Raises:
        TypeError: it is no int. ValueError: it is below `least`.
    """
    if not isinstance(rank, numbers.Integral) or isinstance(rank, bool):
        raise TypeError(f"{name} must be an int or {{layer path: int}}: received {rank!r}.")
    if rank < least:
        raise ValueError(f"{name} must be at least {least}: received {rank}.")
