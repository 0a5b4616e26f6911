"""How many floating-point operations one sample costs: the products with kernels, layer by layer.

A multiply-add is two operations. Counted is what a dense implementation computes, as Keras, TensorFlow,
TFLite and ONNX Runtime do: a weight that is zero costs as much as any other. Not counted are biases,
activations, normalisation, pooling, merging, products without a kernel (Attention, Dot, functions such as
`keras.ops.matmul`), and layers whose operations tfap does not know; `uncounted` names the last.
"""

import collections
import math

from tfap import keras_compat
from tfap.graph import layer_types, multiply_adds
from tfap.graph.calls import Graph, unwrap


def flops(model):
    """Counts the floating-point operations of one sample: the sum of `layer_flops`.

    Args:
        model: As in `layer_flops`.

    Returns:
        Integer. A multiply-add is two operations.

    Raises:
        ValueError: As `layer_flops`.

    Example:

    >>> import keras
    >>> flops(keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]))
    96
    """
    return sum(layer_flops(model).values())


def layer_flops(model):
    """Floating-point operations of each layer for one sample, 2 for a multiply-add.

    Counted are Dense, convolutions (grouped, strided, dilated, transposed, depthwise, separable),
    EinsumDense, recurrent layers, MultiHeadAttention, and these inside TimeDistributed and
    Bidirectional; an Embedding looks up and costs 0. A subclass counts as its Keras layer.

    Args:
        model: a built Sequential or Functional model of either Keras, with or without tfap's wrappers.

    Returns:
        Dict of layer path, such as `inner/dense`, to operations, in graph order. The calls of a shared
        layer are added up. Layers that are not counted are not in it.

    Raises:
        ValueError: `model` is subclassed or not built, or a size that the operations depend on, such as
            the number of time steps, is not fixed.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(8, 3, name="conv")])
    >>> layer_flops(model)  # 2 x (3 x 3 x 3 x 8 weights) x (4 x 4 positions)
    {'conv': 6912}
    """
    counted = collections.Counter()
    for call in _graph(model).calls:
        layer = unwrap(call.layer)
        shapes = [value.shape for value in call.inputs]
        if _is_counted(layer):
            products = _multiply_adds(layer, shapes, call.outputs[0].shape)
            if products is None:
                raise ValueError(
                    f"The operations of the layer '{call.path}' depend on sizes that the model leaves open: "
                    f"it reads {_shapes(call.inputs)} and gives {_shapes(call.outputs)}. Build the model "
                    f"with a fixed input shape to count them."
                )
            counted[call.path] += 2 * products
    return dict(counted)


def uncounted(model):
    """Paths of the layers with kernels whose operations tfap cannot count; see `layer_flops`."""
    layers = ((path, unwrap(layer)) for path, layer in _graph(model).layers())
    return [path for path, layer in layers if _has_kernel(layer) and not _is_counted(layer)]


def _graph(model):
    if not (keras_compat.is_graph_model(model) and keras_compat.is_built(model)):
        raise ValueError("Operations can be counted of a built Sequential or Functional model.")
    return Graph(model)


def _shapes(values):
    return ", ".join(str(value.shape) for value in values)


def _is_counted(layer):
    row = layer_types.of(layer)
    return _is_counted(layer.layer) if row.per_time_step else row.multiply_adds is not None


def _multiply_adds(layer, inputs, output):
    """Multiply-adds of one sample; None if an undefined dimension decides it."""
    row = layer_types.of(layer)
    if row.per_time_step:
        per_step = _multiply_adds(layer.layer, [_one_step(shape) for shape in inputs], _one_step(output))
        return multiply_adds.product(per_step, inputs[0][1])
    weights = sum(math.prod(spec.find(layer).shape) for spec in row.kernel_specs(layer))
    return row.multiply_adds(layer, weights, inputs, output)


def _one_step(shape):
    return (shape[0], *shape[2:])


def _has_kernel(layer):
    weights = keras_compat.weights_of(layer)  # functions of keras.ops have none
    elementwise = layer_types.of(layer).elementwise_weights
    return not elementwise and any(len(weight.shape) > 1 for weight in weights)
