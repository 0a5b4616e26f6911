"""Multiply-adds per sample: one rule per kind of layer.

A rule is a function `(layer, weights, inputs, output)`: the layer, the number of weights in its kernels, the
list of its input shapes, and its output shape. Shapes include the batch axis. It returns the number of
multiply-adds, or None if this depends on an undefined dimension.
"""

import math

from tfap import keras_compat


def product(*sizes):
    """Returns the product of sizes. None if one of them is undefined."""
    return None if None in sizes else math.prod(sizes)


def at_output_positions(layer, weights, inputs, output):
    """Applies every weight once per output position."""
    return product(weights, *_positions(layer, output))


def at_input_positions(layer, weights, inputs, output):
    """Applies every weight once per input position, as a transposed convolution does."""
    return product(weights, *_positions(layer, inputs[0]))


def at_time_steps(layer, weights, inputs, output):
    """Applies every weight once per time step, in a ConvLSTM at every output position."""
    data_format = getattr(getattr(layer, "forward_layer", layer), "data_format", None)
    count = 0 if data_format is None else len(inputs[0]) - 3
    end = len(output) - (data_format != "channels_first")
    return product(weights, inputs[0][1], *output[end - count : end])


def none(layer, weights, inputs, output):
    """Multiplies nothing, as in a lookup."""
    return 0


def einsum(layer, weights, inputs, output):
    """Applies the kernel once per position on the input axes that the kernel does not have."""
    consumed, kernel, _ = layer.equation.replace(" ", "").replace("->", ",").split(",")
    left, _, right = consumed.partition("...")
    labels = left + "." * (len(inputs[0]) - len(left) - len(right)) + right
    positions = [size for label, size in zip(labels[1:], inputs[0][1:]) if label not in kernel]
    return product(weights, *positions)


def attention(layer, weights, inputs, output):
    """Adds up the four projections, the products of queries and keys, and the weighted sums of values."""
    # From the config: Keras sorts the shapes of a call's inputs by argument name.
    shapes = {**layer.get_config(), **(layer.get_build_config() or {}).get("shapes_dict", {})}
    query, value = tuple(shapes["query_shape"]), tuple(shapes["value_shape"])
    shapes = {name: _projection(layer, name) for name in ("query", "key", "value", "output")}
    heads, key_dim = shapes["query"][1:]
    width = heads * (key_dim + shapes["value"][-1])  # several query heads may share a key and value head
    projections = [
        product(math.prod(shapes[name]), *shape[1:-1])
        for name, shape in (("query", query), ("key", value), ("value", value), ("output", query))
    ]
    attended = [value[axis] for axis in getattr(layer, "_attention_axes", (1,))]
    products = [*projections, product(width, *query[1:-1], *attended)]
    return None if None in products else sum(products)


def blocks(layer, weights, inputs, output):
    """Applies every kernel once per position of the input, and adds the products inside attention layers.

    That is what a transformer block does: the layers inside it act on the last axis.
    """
    positions = inputs[0][1:-1]
    kernels = [weight for weight in keras_compat.weights_of(layer) if "kernel" in weight.name]
    total = product(sum(math.prod(kernel.shape) for kernel in kernels), *positions)
    for each in keras_compat.all_layers(layer):
        projections = [getattr(each, f"_{name}_dense", None) for name in ("key", "value")]
        if None in projections:
            continue
        widths = [math.prod(projection.kernel.shape[1:]) for projection in projections]
        attended = product(sum(widths), *positions, *positions)
        total = None if None in (total, attended) else total + attended
    return total


def _projection(layer, name):
    return tuple(getattr(layer, f"_{name}_dense").kernel.shape)


def _positions(layer, shape):
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    channels = 1 if channels_first else len(shape) - 1
    return [size for axis, size in enumerate(shape) if axis not in (0, channels)]
