"""Singular values of a model's kernels, and the ranks that they tell."""

import math
import numbers

import ml_dtypes
import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Graph, unwrap
from tfap.layers.find import is_pruning_wrapper


class KernelMatrix:
    """The kernel of one layer as a matrix.

    A convolution's rows are the weights of its window: `(window * inputs, outputs)`. Pruned weights of a
    wrapped layer are zero.

    Attributes:
        path: of the layer, such as `inner/dense`.
        dtype: of the kernel.
        values: float64 array `(rows, columns)`.
        index: the kernel's place among the layer's weights.
    """

    def __init__(self, path, layer):
        inner = unwrap(layer)
        (spec,) = layer_types.kernel_specs(inner)
        variable = spec.find(inner)
        kernel = variable.numpy()
        self.path, self.dtype, self._shape = path, kernel.dtype, kernel.shape
        self.index = [id(weight) for weight in inner.weights].index(id(variable))
        last = [axis % kernel.ndim for axis in spec.neuron_axes]
        self._order = [axis for axis in range(kernel.ndim) if axis not in last] + last
        self._columns = math.prod(kernel.shape[axis] for axis in last)
        self.values = self._matrix(kernel.astype(np.float64) * _mask(layer))
        if not np.isfinite(self.values).all():
            raise ValueError(f"The kernel of '{path}' has values that are not finite.")

    def _matrix(self, kernel):
        return np.transpose(kernel, self._order).reshape(-1, self._columns)

    def kernel(self, values):
        """A matrix of this one's shape as a kernel of the layer's shape and dtype."""
        shape = [self._shape[axis] for axis in self._order]
        return np.transpose(values.reshape(shape), np.argsort(self._order)).astype(self.dtype)


def of_model(model):
    """Every `KernelMatrix` of a built Sequential or Functional model, in graph order."""
    return of_layers(Graph(model).layers())


def of_layers(layers):
    """The `KernelMatrix` of each `(path, layer)` whose kernel is a matrix; others are left out."""
    return [KernelMatrix(path, layer) for path, layer in layers if why_no_matrix(layer) is None]


def why_no_matrix(layer):
    """The reason why a layer has no kernel that is one matrix, or None if it has."""
    layer = unwrap(layer)
    if not keras_compat.is_layer(layer):
        return "it is no layer"
    reason, specs = layer_types.why_not_prunable(layer), layer_types.kernel_specs(layer)
    if reason is not None:
        return reason
    if len(specs) > 1:
        return "it has several kernels"
    inner = getattr(layer, "layer", layer)  # of a TimeDistributed
    if getattr(inner, "groups", 1) > 1:
        return "each of its groups has a matrix of its own"
    if not _is_matrix(inner, specs[0]):
        return "its kernel does not lead from all channels of its input to all of its output"
    return None


def _is_matrix(layer, spec):
    if set(spec.input_axes) & set(spec.neuron_axes) or not (spec.reads_input and spec.feeds_output):
        return False  # a depthwise convolution, an embedding, an EinsumDense on other axes
    # An EinsumDense such as `abc,bcd->abd` has a matrix for each b.
    axes = len(spec.input_axes) + len(spec.neuron_axes)
    return not hasattr(layer, "equation") or len(layer.kernel.shape) == axes


def _mask(layer):
    return layer.mask.numpy() if is_pruning_wrapper(layer) else 1


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
    return {matrix.path: spectrum(matrix) for matrix in of_model(model)}


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
    return {matrix.path: rank_of(matrix, spectrum(matrix), tolerance) for matrix in of_model(model)}


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
