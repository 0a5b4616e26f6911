"""Multiply-adds per sample: one rule per kind of layer.

A rule is a function of `(layer, weights, input shapes, output shape)`, where `weights` is the number of
weights in the layer's kernels and shapes include the batch. It returns the number of multiply-adds, or None
if an undefined dimension decides it.
"""

import math


def product(*sizes):
    """The product of some sizes; None if one of them is undefined."""
    return None if None in sizes else math.prod(sizes)


def at_output_positions(layer, weights, inputs, output):
    """Every weight is used once per position of the output."""
    return product(weights, *_positions(layer, output))


def at_input_positions(layer, weights, inputs, output):
    """A transposed convolution spreads every input position over a window of the output."""
    return product(weights, *_positions(layer, inputs[0]))


def at_time_steps(layer, weights, inputs, output):
    return product(weights, inputs[0][1])


def none(layer, weights, inputs, output):
    """A lookup multiplies nothing."""
    return 0


def einsum(layer, weights, inputs, output):
    """The kernel is applied at each index of the input that is not one of its own."""
    read, kernel, _ = layer.equation.replace(" ", "").replace("->", ",").split(",")
    left, _, right = read.partition("...")
    labels = left + "." * (len(inputs[0]) - len(left) - len(right)) + right
    positions = [size for label, size in zip(labels[1:], inputs[0][1:]) if label not in kernel]
    return product(weights, *positions)


def attention(layer, weights, inputs, output):
    """Four projections, the scores of each query for each key, and the mean of the values by them."""
    # The shapes of the call would be in the order of its arguments' names if these were given.
    shapes = {**layer.get_config(), **(layer.get_build_config() or {}).get("shapes_dict", {})}
    query, value = tuple(shapes["query_shape"]), tuple(shapes["value_shape"])
    widths = {name: math.prod(getattr(layer, f"_{name}_dense").kernel.shape[1:]) for name in ("key", "value")}
    projections = [
        product(math.prod(getattr(layer, f"_{name}_dense").kernel.shape), *shape[1:-1])
        for name, shape in (("query", query), ("key", value), ("value", value), ("output", query))
    ]
    attended = [value[axis] for axis in layer._attention_axes]
    products = [*projections, product(widths["key"] + widths["value"], *query[1:-1], *attended)]
    return None if None in products else sum(products)


def _positions(layer, shape):
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    channels = 1 if channels_first else len(shape) - 1
    return [size for axis, size in enumerate(shape) if axis not in (0, channels)]
