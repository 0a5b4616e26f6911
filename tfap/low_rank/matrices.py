"""A layer's kernel as a matrix: rows for what it reads, columns for the neurons that it feeds."""

import math

import numpy as np

from tfap import graph, keras_compat, kernels, wrapped


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
        inner = graph.unwrap(layer)
        (spec,) = kernels.kernel_specs(inner)
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
    return of_layers(graph.Graph(model).layers())


def of_layers(layers):
    """The `KernelMatrix` of each `(path, layer)` whose kernel is a matrix; others are left out."""
    return [KernelMatrix(path, layer) for path, layer in layers if why_no_matrix(layer) is None]


def why_no_matrix(layer):
    """The reason why a layer has no kernel that is one matrix, or None if it has."""
    layer = graph.unwrap(layer)
    if not keras_compat.is_layer(layer):
        return "it is no layer"
    reason, specs = kernels.why_not_prunable(layer), kernels.kernel_specs(layer)
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
    return layer.mask.numpy() if wrapped.is_pruning_wrapper(layer) else 1
