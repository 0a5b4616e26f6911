"""Facts of attention layers: what they consume, which ones tfap does not analyze, their heads.

The kernels of MultiHeadAttention and GroupedQueryAttention have the heads on an axis of their own:

    query (inputs, query heads, key_dim), key (inputs, heads, key_dim), value (inputs, heads, value_dim),
    output (query heads, value_dim, outputs)

See `attention_map.py` for what depends on what in them.
"""

from tfap import keras_compat
from tfap.graph import layer_types, misread
from tfap.graph.kernel import KernelSpec

ROLES = ("query", "key", "value")


def consumed(call):
    """Lists what a call of an attention layer consumes: the `Value`s of `ROLES`. None for other things.

    Without a key, the value is the key too.
    """
    args, keywords = call.arguments
    given = {**dict(zip(("query", "value", "key"), args)), **keywords}
    query, value, key = (given.get(name) for name in ("query", "value", "key"))
    found = [query, value if key is None else key, value]
    return [each if each in call.inputs else None for each in found]


def why_not_analyzed(layer, call):
    """Returns which attention layers tfap does not analyze, such as this one. None if it does.

    Args:
        layer: The layer of a row with `attention`.
        call: Its `Call`.
    """
    if layer_types.why_not_prunable(layer) is not None or _uses_gate(layer):
        return "with other weights than four kernels and their biases"
    if None in consumed(call):
        return "called on other things than outputs of layers"
    expected = [id(weight) for weight in variables(layer)]
    if expected != [id(weight) for weight in layer.weights]:
        return "with other weights than four kernels and their biases"
    if _output_axes(layer) != 1:
        return "with an output_shape of several axes"
    if has_bias(layer) and keras_compat.misreads_sums(layer) and _is_misread(layer, call):
        return "with heads of size 1 and as many steps, whose biases Keras 3 on TensorFlow misreads"
    if call.training and layer.get_config()["dropout"]:
        return "with dropout that are always called with training=True"
    return None


def has_bias(layer):
    """Returns whether the projections have biases."""
    return bool(layer.get_config()["use_bias"])


def variables(layer):
    """Lists the weights of the layer in the order of its `set_weights`."""
    names = [spec.name for spec in layer_types.kernel_specs(layer)]
    parts = ("kernel", "bias") if has_bias(layer) else ("kernel",)
    return [KernelSpec(f"{name.rpartition('.')[0]}.{part}").find(layer) for name in names for part in parts]


def makes_output(name):
    """Returns whether a weight of this name is the kernel of the output projection."""
    return name.startswith("_output_dense")


def head_count(layer):
    """Returns the number of heads that can be removed: those of keys and values."""
    return layer_types.kernel_specs(layer)[1].find(layer).shape[1]


def has_width_of_query(layer):
    """Returns whether the layer has as many output channels as its query, whatever its config."""
    return "output_shape" not in layer.get_config()


def _is_misread(layer, call):
    shapes = [spec.find(layer).shape for spec in layer_types.kernel_specs(layer)[:3]]
    steps = [{value.shape[1]} - {None} for value in consumed(call)]
    found = misread.single_dimensions([shape[1] for shape in shapes], steps)
    return any(shapes[2 * at][2] == 1 for at in found)


def _uses_gate(layer):
    return bool(layer.get_config().get("use_gate"))


def _output_axes(layer):
    return len(layer_types.kernel_specs(layer)[-1].find(layer).shape) - 2
