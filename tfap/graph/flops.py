"""FLOPs: the floating-point operations of one sample, per layer.

A multiply-add is two FLOPs. tfap counts the products with kernels in a dense implementation, as in Keras,
TensorFlow, TFLite, and ONNX Runtime. A zero weight costs as much as any other weight. Left out are biases,
activations, normalization, pooling, merging, products without a kernel (Attention, Dot, functions such as
`keras.ops.matmul`), and layers that tfap does not know. `uncounted` lists the latter.
"""

import collections
import math

from tfap import keras_compat
from tfap.graph import layer_types, multiply_adds
from tfap.graph.calls import Graph, unwrap
from tfap.keras_compat.types import Model


def flops(model: Model) -> int:
    """Counts the FLOPs of a model for one sample.

    This is the sum of `tfap.layer_flops`, which says what is counted.

    Args:
        model: A built Sequential or Functional model of either Keras, with or without tfap's wrappers.

    Returns:
        Integer. A multiply-add is two FLOPs.

    Raises:
        ValueError: See `tfap.layer_flops`.

    Example:

    >>> import keras, tfap
    >>> layers = [keras.layers.Dense(8), keras.layers.Dense(2)]
    >>> tfap.flops(keras.Sequential([keras.Input((4,)), *layers]))  # 2 x (4 x 8 + 8 x 2)
    96
    """
    return sum(layer_flops(model).values())


def layer_flops(model: Model) -> dict[str, int]:
    """Counts the FLOPs of each layer of a model for one sample.

    tfap counts the products with kernels: Dense, convolutions (grouped, strided, dilated, transposed,
    depthwise, separable), EinsumDense, recurrent layers, MultiHeadAttention, and these inside TimeDistributed
    and Bidirectional. An Embedding costs 0. A subclass counts like its base if it does not override `call`.
    Use `multiply_adds` of `tfap.register_prunable_layer` for custom layers.

    Args:
        model: A built Sequential or Functional model of either Keras, with or without tfap's wrappers.

    Returns:
        Dict of layer path, such as `inner/dense`, to an integer, in graph order. A multiply-add is two FLOPs.
        The calls of a shared layer are added up. Layers that are not counted are left out.

    Raises:
        ValueError: If `model` is subclassed or not built, or if the FLOPs depend on an undefined dimension,
            such as the number of time steps.

    Example:

    >>> import keras, tfap
    >>> model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(8, 3, name="conv")])
    >>> tfap.layer_flops(model)  # 2 x (3 x 3 x 3 x 8 weights) x (4 x 4 positions)
    {'conv': 6912}
    """
    total: collections.Counter[str] = collections.Counter()
    for call in _graph(model).calls:
        layer = unwrap(call.layer)
        shapes = [value.shape for value in call.inputs]
        if _is_counted(layer):
            products = _multiply_adds(layer, shapes, call.outputs[0].shape)
            if products is None:
                raise ValueError(
                    f"The FLOPs of the layer '{call.path}' depend on undefined dimensions: its input shape "
                    f"is {_shapes(call.inputs)}, its output shape {_shapes(call.outputs)}. Build the model "
                    "with a fixed input shape."
                )
            total[call.path] += 2 * products
    return dict(total)


def uncounted(model: Model) -> list[str]:
    """Returns the paths of the layers with kernels whose FLOPs tfap cannot count; see `layer_flops`."""
    layers = ((path, unwrap(layer)) for path, layer in _graph(model).layers())
    return [path for path, layer in layers if _has_kernel(layer) and not _is_counted(layer)]


def _graph(model):
    if not (keras_compat.is_graph_model(model) and keras_compat.is_built(model)):
        raise ValueError(
            "FLOPs need a built Sequential or Functional model: received an object of type "
            f"{type(model).__name__} that is subclassed or not built."
        )
    return Graph(model)


def _shapes(values):
    return ", ".join(str(value.shape) for value in values)


def _is_counted(layer):
    row = layer_types.of(layer)
    return _is_counted(layer.layer) if row.per_time_step else row.multiply_adds is not None


def _multiply_adds(layer, inputs, output):
    """Returns the multiply-adds of one sample. None if they depend on an undefined dimension."""
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
