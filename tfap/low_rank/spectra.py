"""Views kernels as matrices, and computes their singular values and ranks."""

import math
import numbers
from collections.abc import Iterable

import ml_dtypes
import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Graph, unwrap
from tfap.keras_compat.types import Layer, Model
from tfap.layers.find import is_pruning_wrapper


class KernelMatrix:
    """The kernel of one layer as a matrix.

    The kernel of a convolution becomes a matrix of shape `(window * inputs, outputs)`. Pruned weights of a
    wrapped layer are zero.

    Args:
        path: String. Path of the layer.
        layer: A layer for which `why_not_matrix` returns None.

    Attributes:
        path: String. Path of the layer, such as `"inner/dense"`.
        dtype: NumPy dtype of the kernel.
        values: Float64 array of shape `(rows, columns)`.
        index: Integer. Index of the kernel among the weights of the layer.
    """

    def __init__(self, path: str, layer: Layer) -> None:
        inner = unwrap(layer)
        (spec,) = layer_types.kernel_specs(inner)
        variable = spec.find(inner)
        kernel = variable.numpy()
        self.path, self.dtype, self._shape = path, kernel.dtype, kernel.shape
        self.index = [id(weight) for weight in inner.weights].index(id(variable))
        neuron_axes = [axis % kernel.ndim for axis in spec.neuron_axes]
        self._axis_order = [axis for axis in range(kernel.ndim) if axis not in neuron_axes] + neuron_axes
        self._columns = math.prod(kernel.shape[axis] for axis in neuron_axes)
        self.values = self._matrix(kernel.astype(np.float64) * _mask(layer))
        if not np.isfinite(self.values).all():
            raise ValueError(f"The kernel of '{path}' has values that are not finite.")

    def _matrix(self, kernel):
        return np.transpose(kernel, self._axis_order).reshape(-1, self._columns)

    def kernel(self, values: np.ndarray) -> np.ndarray:
        """Reshapes a matrix of the same shape to a kernel of the layer's shape and dtype."""
        shape = [self._shape[axis] for axis in self._axis_order]
        return np.transpose(values.reshape(shape), np.argsort(self._axis_order)).astype(self.dtype)


def of_model(model: Model) -> list[KernelMatrix]:
    """Returns every `KernelMatrix` of a built Sequential or Functional model, in graph order."""
    return of_layers(Graph(model).layers())


def of_layers(layers: Iterable[tuple[str, Layer]]) -> list[KernelMatrix]:
    """Returns the `KernelMatrix` of each `(path, layer)` whose kernel is a matrix."""
    return [KernelMatrix(path, layer) for path, layer in layers if why_not_matrix(layer) is None]


def why_not_matrix(layer: Layer) -> str | None:
    """Returns why the kernel of a layer is not one matrix, or None if it is."""
    layer = unwrap(layer)
    if not keras_compat.is_layer(layer):
        return "it is not a layer"
    reason, specs = layer_types.why_not_prunable(layer), layer_types.kernel_specs(layer)
    if reason is not None:
        return reason
    if len(specs) > 1:
        return "it has several kernels"
    inner = getattr(layer, "layer", layer)  # of a TimeDistributed
    if getattr(inner, "groups", 1) > 1:
        return "each of its groups has its own matrix"
    if not _is_matrix(inner, specs[0]):
        return "its kernel does not connect all input channels with all output channels"
    return None


def _is_matrix(layer, spec):
    if set(spec.input_axes) & set(spec.neuron_axes) or not (spec.reads_input and spec.feeds_output):
        return False  # a depthwise convolution, an Embedding, an EinsumDense on other axes
    # An EinsumDense such as `abc,bcd->abd` has a matrix for each b.
    matrix_axes = len(spec.input_axes) + len(spec.neuron_axes)
    return not hasattr(layer, "equation") or len(layer.kernel.shape) == matrix_axes


def _mask(layer):
    return layer.mask.numpy() if is_pruning_wrapper(layer) else 1


def singular_values(model: Model) -> dict[str, np.ndarray]:
    """Computes the singular values of the kernel of every layer.

    The kernel of a convolution is a matrix of shape `(window * inputs, outputs)`. Layers whose kernel is not
    one matrix between all channels are left out: depthwise, separable, and grouped convolutions, Embedding,
    recurrent layers, attention, and EinsumDense on other axes than the last.

    Args:
        model: A built Sequential or Functional model of either Keras. If it is wrapped, the masked kernels
            are used. Unchanged.

    Returns:
        Dict of layer path to a float64 array of shape `(min(rows, columns),)`, descending, in graph order.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is subclassed or unbuilt, or a kernel has values that are not finite.

    Example:

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    >>> model.layers[0].set_weights([numpy.array([[3, 0], [0, -4]]), numpy.zeros(2)])
    >>> singular_values(model)["dense"].tolist()
    [4.0, 3.0]
    """
    keras_compat.check_readable(model, "tfap.low_rank.singular_values")
    return {matrix.path: spectrum(matrix) for matrix in of_model(model)}


def ranks(model: Model, tolerance: float | None = None) -> dict[str, int]:
    """Computes the rank of the kernel of every layer: the number of singular values above a tolerance.

    Args:
        model: As in `tfap.low_rank.singular_values`.
        tolerance: Float >= 0. None uses NumPy's rule (`numpy.linalg.matrix_rank`): the largest singular value
            times the longer side times the precision of the kernel's dtype.

    Returns:
        Dict of layer path to integer, in graph order.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `tolerance` is negative or not a number, or as in `tfap.low_rank.singular_values`.

    Example:

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


def spectrum(matrix: KernelMatrix) -> np.ndarray:
    """Returns the singular values of a `KernelMatrix`, descending."""
    return np.linalg.svd(matrix.values, compute_uv=False)


def rank_of(matrix: KernelMatrix, values: np.ndarray, tolerance: float | None = None) -> int:
    """Returns the rank of a `KernelMatrix` with these singular values. A zero matrix has rank 0."""
    if tolerance is None:
        # A float32 kernel is rounded to float32, however precise the SVD.
        precision = float(ml_dtypes.finfo(matrix.dtype).eps)
        tolerance = values.max(initial=0) * max(matrix.values.shape) * precision
    return int((values > tolerance).sum())


def check_rank(rank: object, name: str, least: int) -> None:
    """Checks one rank from the argument `name`.

    Raises:
        TypeError: If the rank is not an integer.
        ValueError: If the rank is below `least`.
    """
    if not isinstance(rank, numbers.Integral) or isinstance(rank, bool):
        raise TypeError(f"{name} must be an int or {{layer path: int}}: received {rank!r}.")
    if int(rank) < least:
        raise ValueError(f"{name} must be at least {least}: received {rank}.")
