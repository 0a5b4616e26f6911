"""A layer's activation: whether neurons fire at it, and whether it looks at each unit alone."""

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.layer_types import ChannelRule, ConstantRule

# Keras's elementwise activations; softmax and functions of the user's may look at all units.
_ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
    "softsign", "swish", "tanh",
}  # fmt: skip
_NO_FIRING = {"linear", "softmax", "log_softmax"}


def fires(layer):
    """Whether neurons fire at a layer: an activation layer or one with a fused activation, not softmax."""
    row = layer_types.of(layer)
    if row.is_activation:
        return True
    if row.per_time_step:
        return fires(layer.layer)
    activation = getattr(layer, "activation", None)
    if activation is None:
        return False
    if keras_compat.is_layer(activation):
        known = layer_types.of(activation)
        return fires(activation) or (known is layer_types.UNKNOWN and not keras_compat.kind_of(activation))
    return getattr(activation, "__name__", type(activation).__name__) not in _NO_FIRING


def is_elementwise(layer):
    """Whether the layer's activation, if it has one, is known to look at each unit alone."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return True
    if keras_compat.is_layer(activation):
        row = layer_types.of(activation)
        known = row.channels is ChannelRule.SAME and row.constants is ConstantRule.APPLIED
        return known and not activation.weights and is_elementwise(activation)
    return _is_keras_function(activation) and activation.__name__ in _ELEMENTWISE


def is_zero_when_silent(layer):
    """Whether a neuron that does not fire gives zero: a ReLU, as a layer or fused into one."""
    if keras_compat.kind_of(layer) == "ReLU":
        return not layer.negative_slope
    activation = getattr(layer, "activation", None)
    if keras_compat.is_layer(activation):
        return is_zero_when_silent(activation)
    return _is_keras_function(activation) and activation.__name__ in ("relu", "relu6")


def _is_keras_function(activation):
    """Whether a function is one of Keras's; tf_keras has some of its activations from TensorFlow."""
    owner = (getattr(activation, "__module__", None) or "").split(".")[0]
    return owner in ("keras", "tf_keras", "tensorflow") and hasattr(activation, "__name__")
