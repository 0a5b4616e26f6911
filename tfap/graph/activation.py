"""The activation of a layer: whether neurons fire in it, and whether it is elementwise."""

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.layer_types import ChannelRule, ConstantRule

# Keras's elementwise activations. Softmax and custom functions may combine several units.
_ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
    "softsign", "swish", "tanh",
}  # fmt: skip
_NO_FIRING = {"linear", "softmax", "log_softmax"}


def fires(layer):
    """Returns whether neurons fire in a layer.

    They fire in activation layers and in layers with a fused activation other than softmax.
    """
    row = layer_types.of(layer)
    if row.is_activation:
        return True
    if row.per_time_step:
        return fires(layer.layer)
    if row.recurrent and hasattr(layer, "forward_layer"):
        return fires(layer.forward_layer)
    activation = getattr(layer, "activation", None)
    if activation is None:
        return False
    if keras_compat.is_layer(activation):
        is_custom = layer_types.of(activation) is layer_types.UNKNOWN and not keras_compat.kind_of(activation)
        return is_custom or fires(activation)
    return getattr(activation, "__name__", type(activation).__name__) not in _NO_FIRING


def is_elementwise(layer):
    """Returns whether a layer's activation is known to be elementwise. True for a layer without one."""
    activation = getattr(layer_types.inner(layer), "activation", None)
    if activation is None:
        return True
    if keras_compat.is_layer(activation):
        row = layer_types.of(activation)
        per_element = row.channels is ChannelRule.SAME and row.constants is ConstantRule.APPLIED
        return per_element and not activation.weights and is_elementwise(activation)
    return _is_keras_function(activation) and activation.__name__ in _ELEMENTWISE


def is_zero_when_silent(layer):
    """Returns whether a neuron that does not fire outputs 0, as in a ReLU layer or with a fused ReLU."""
    if keras_compat.kind_of(layer) == "ReLU":
        return not layer.negative_slope
    activation = getattr(layer_types.inner(layer), "activation", None)
    if keras_compat.is_layer(activation):
        return is_zero_when_silent(activation)
    return _is_keras_function(activation) and activation.__name__ in ("relu", "relu6")


def _is_keras_function(activation):
    """Returns whether a function comes from Keras. tf_keras takes some activations from TensorFlow."""
    owner = (getattr(activation, "__module__", None) or "").split(".")[0]
    return owner in ("keras", "tf_keras", "tensorflow") and hasattr(activation, "__name__")
