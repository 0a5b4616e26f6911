"""How many floating-point operations one sample costs: the products with kernels, layer by layer.

A multiply-add is two operations. Counted is what a dense implementation computes, as Keras, TensorFlow,
TFLite and ONNX Runtime do: a weight that is zero costs as much as any other. Not counted are biases,
activations, normalisation, pooling, merging, products without a kernel (Attention, Dot, functions such as
`keras.ops.matmul`), and layers whose operations tfap does not know; `uncounted` names the last.
"""

import collections
import math

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Graph, channel_axis, unwrap


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
        rule = _rule(layer)
        if rule:
            products = rule(layer, [value.shape for value in call.inputs], call.outputs[0].shape)
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
    return [path for path, layer in layers if _has_kernel(layer) and not _rule(layer)]


def _graph(model):
    if not (keras_compat.is_graph_model(model) and keras_compat.is_built(model)):
        raise ValueError("Operations can be counted of a built Sequential or Functional model.")
    return Graph(model)


def _shapes(values):
    return ", ".join(str(value.shape) for value in values)


# -- one rule a layer type: (layer, input shapes, output shape) -> multiply-adds, or None if open ------


def _kernel_size(layer):
    return sum(math.prod(spec.find(layer).shape) for spec in layer_types.kernel_specs(layer))


def _product(*sizes):
    return None if None in sizes else math.prod(sizes)


def _at_output_positions(layer, inputs, output):
    return _product(_kernel_size(layer), *_positions(layer, output))


def _at_input_positions(layer, inputs, output):
    """A transposed convolution spreads every input pixel over a window of the output."""
    return _product(_kernel_size(layer), *_positions(layer, inputs[0]))


def _positions(layer, shape):
    channels = channel_axis(layer) % len(shape)
    return [size for axis, size in enumerate(shape) if axis not in (0, channels)]


def _at_time_steps(layer, inputs, output):
    return _product(_kernel_size(layer), inputs[0][1])


def _each_time_step(layer, inputs, output):
    within = _rule(layer.layer)
    inner = within(layer.layer, [_one_step(shape) for shape in inputs], _one_step(output))
    return _product(inner, inputs[0][1])


def _one_step(shape):
    return (shape[0], *shape[2:])


def _einsum(layer, inputs, output):
    """The kernel is applied at each index of the input that it does not have itself."""
    read, kernel, _ = layer.equation.replace(" ", "").replace("->", ",").split(",")
    left, _, right = read.partition("...")
    labels = left + "." * (len(inputs[0]) - len(left) - len(right)) + right
    positions = [size for label, size in zip(labels[1:], inputs[0][1:]) if label not in kernel]
    return _product(_kernel_size(layer), *positions)


def _attention(layer, inputs, output):
    """Four projections, the scores of each query for each key, and the mean of the values by them."""
    # The shapes of the call would be in the order of its arguments' names where these were given.
    shapes = {**layer.get_config(), **(layer.get_build_config() or {}).get("shapes_dict", {})}
    query, value = tuple(shapes["query_shape"]), tuple(shapes["value_shape"])
    wide = {name: math.prod(getattr(layer, f"_{name}_dense").kernel.shape[1:]) for name in ("key", "value")}
    projections = [
        _product(math.prod(getattr(layer, f"_{name}_dense").kernel.shape), *shape[1:-1])
        for name, shape in (("query", query), ("key", value), ("value", value), ("output", query))
    ]
    attended = [value[axis] for axis in layer._attention_axes]
    products = [*projections, _product(wide["key"] + wide["value"], *query[1:-1], *attended)]
    return None if None in products else sum(products)


def _nothing(layer, inputs, output):
    return 0


_RULES = {
    "Dense": _at_output_positions,
    "Conv1D": _at_output_positions,
    "Conv2D": _at_output_positions,
    "Conv3D": _at_output_positions,
    "DepthwiseConv1D": _at_output_positions,
    "DepthwiseConv2D": _at_output_positions,
    "SeparableConv1D": _at_output_positions,
    "SeparableConv2D": _at_output_positions,
    "Conv1DTranspose": _at_input_positions,
    "Conv2DTranspose": _at_input_positions,
    "Conv3DTranspose": _at_input_positions,
    "EinsumDense": _einsum,
    "Embedding": _nothing,
    "SimpleRNN": _at_time_steps,
    "GRU": _at_time_steps,
    "LSTM": _at_time_steps,
    "RNN": _at_time_steps,
    "Bidirectional": _at_time_steps,
    "TimeDistributed": _each_time_step,
    "MultiHeadAttention": _attention,
}


def _rule(layer):
    """The rule for a layer of either Keras, None if there is none."""
    if not layer_types.kernel_specs(layer):
        return None
    if type(layer).__name__ == "TimeDistributed" and not _rule(layer.layer):
        return None
    for cls in type(layer).__mro__:
        if cls.__module__.split(".")[0] in ("keras", "tf_keras") and cls.__name__ in _RULES:
            return _RULES[cls.__name__]
    return None


# Weights of these with more than one axis multiply element by element.
_ELEMENTWISE = {"GroupNormalization", "LayerNormalization", "Normalization", "PReLU", "RMSNormalization"}


def _has_kernel(layer):
    weights = keras_compat.weights_of(layer)  # functions of keras.ops have none
    return type(layer).__name__ not in _ELEMENTWISE and any(len(weight.shape) > 1 for weight in weights)
