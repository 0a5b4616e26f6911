"""Calls through which tfap does not follow channels, because it does not know what they compute."""

from tfap import keras_compat
from tfap.graph import functions, layer_types, misread
from tfap.graph.layer_types import ChannelRule, ConstantRule


def why_not_analyzed(layer, call):
    """Returns why the channels that a call consumes are not removable. None if there is a rule for it.

    The rules of recurrent and attention layers themselves say what they do not analyze.
    """
    row = layer_types.of(layer)
    if call.training and row.random_in_training:
        return f"it is consumed by '{call.path}', which is always called with training=True"
    if misread.is_misread(call):
        return f"it is consumed by '{call.path}', in which Keras 3 on TensorFlow adds to another axis"
    if row.recurrent or row.attention:
        return None
    if row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE) and not _follows_its_row(layer):
        return _with_extra_weights(layer, call) if _has_extra_weights(layer) else unknown(layer, call)
    is_function = functions.name_of(call) is not None
    if row.channels is ChannelRule.MERGED and len(call.inputs) == 1 and not is_function:
        return unknown(layer, call)
    return unknown(layer, call) if row.channels is None else None


def unknown(layer, call):
    """Returns the reason for a layer or function of which tfap does not know what it computes."""
    if functions.name_of(call) is not None:
        consumer = f"the function '{call.path}'"
    elif layer_types.inner(layer) is not layer:
        kind = type(layer_types.inner(layer)).__name__
        consumer = f"the {type(layer).__name__} '{call.path}' around the {kind}"
    elif keras_compat.kind_of(layer) is None:
        consumer = f"the custom layer '{call.path}' ({type(layer).__name__})"
    else:
        consumer = f"the {type(layer).__name__} '{call.path}'"
    return f"it is consumed by {consumer}, which tfap does not analyze"


def _with_extra_weights(layer, call):
    return (
        f"it is consumed by '{call.path}' ({type(layer).__name__}), which has more weights than a kernel "
        "and a bias"
    )


def _follows_its_row(layer):
    """Returns whether a layer with kernels computes what the table of layer types says.

    Its kernels must be variables, its only other weight may be a bias, and an EinsumDense must act on the
    last axis.
    """
    layer = layer_types.inner(layer)
    if layer_types.why_not_prunable(layer) is not None or _has_extra_weights(layer):
        return False
    return not hasattr(layer, "equation") or _is_dense_einsum(layer)


def _has_extra_weights(layer):
    """Returns whether a layer has, or may get, other weights than its kernels and a bias."""
    layer = layer_types.inner(layer)
    activation = getattr(layer, "activation", None)
    if keras_compat.is_layer(activation):  # its weights may be created only in its first call
        return layer_types.of(activation).constants is not ConstantRule.APPLIED
    has_bias = getattr(layer, "bias", None) is not None
    return len(layer.weights) > len(layer_types.kernel_specs(layer)) + has_bias


def _is_dense_einsum(layer):
    """Returns whether an EinsumDense is a Dense on the last axis, such as `abc,cd->abd`."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    bias_axes = layer.bias_axes or outputs[-1]
    return (
        len(kernel) == 2
        and kernel == inputs[-1] + outputs[-1]
        and inputs[:-1] == outputs[:-1]
        and bias_axes == outputs[-1]
    )
