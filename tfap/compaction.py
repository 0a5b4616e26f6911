"""Removes dead neurons for real: a smaller plain model with the same outputs.

So far in chains of Dense layers. A neuron can go when nothing flows into it (all its incoming weights
are zero: it is constant, and the constant moves into the next layer's bias) or when nothing reads it.
"""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from tfap import graph, keras_compat
from tfap.keras_compat import Replacement

# Layers between two Dense layers through which a neuron stays itself and a constant stays one.
_TRANSPARENT = {"Activation", "ReLU", "LeakyReLU", "ELU", "Dropout"}
# Activations that look at one unit alone; softmax and functions of the user's may look at all.
_ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh",
    "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus",
    "softsign", "swish", "tanh",
}  # fmt: skip


@dataclasses.dataclass(eq=False)
class _DenseLayer:
    """A Dense layer of a chain: what it computes, and which of its inputs and units are still there."""

    layer: object
    kernel: np.ndarray
    bias: np.ndarray | None
    activations: tuple  # layers between this one and the next Dense layer
    units: np.ndarray  # indices of the units that stay

    @classmethod
    def read(cls, call, activations):
        weights = call.layer.get_weights()
        kernel, bias = weights[0], weights[1].copy() if len(weights) > 1 else None
        return cls(call.layer, kernel.copy(), bias, activations, np.arange(kernel.shape[1]))

    def constant(self, unit):
        """The output of a unit that nothing flows into, after the activations that follow."""
        value = np.zeros((1, self.kernel.shape[1]), self.kernel.dtype)
        value[0, unit] = 0 if self.bias is None else self.bias[unit]
        value = self.layer.activation(tf.constant(value))
        for layer in self.activations:
            value = layer(value)
        return np.asarray(value)[0, unit]

    def keep(self, kept):
        """Drops the units that are not in the boolean array `kept`."""
        self.kernel = self.kernel[:, kept]
        self.bias = None if self.bias is None else self.bias[kept]
        self.units = self.units[kept]


def compact(model):
    """Removes the neurons that cannot matter, with the same outputs.

    A neuron goes if all its incoming weights are zero (its constant output is folded into the next
    layer's bias) or if all its outgoing weights are zero; this repeats until nothing changes. A layer
    keeps at least one unit.

    Simplification: only neurons between two Dense layers that follow each other directly, or through
    Activation, ReLU, LeakyReLU, ELU and Dropout layers, are removed, and only where the activations are
    Keras's elementwise ones. Other layers stay as they are.

    Args:
        model: a plain Sequential or Functional model of either Keras, such as `strip_pruning` returns.
            It is not changed.

    Returns:
        A new model of the same Keras and graph, with fewer units.

    Raises:
        ValueError: `model` still has pruning wrappers, or is subclassed or not built.

    >>> import keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    ... )
    >>> kernel, bias = model.layers[0].get_weights()
    >>> kernel[:, 3:] = 0
    >>> model.layers[0].set_weights([kernel, bias])
    >>> compact(model).layers[0].units
    3
    """
    if not (keras_compat.is_graph_model(model) and keras_compat.is_built(model)):
        raise ValueError("tfap.compact takes a built Sequential or Functional model.")
    layers = graph.Graph(model)
    if any(keras_compat.is_tfap_wrapper(layer) for _, layer in layers.layers()):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")
    smaller = {}
    for chain in _dense_chains(layers):
        while sum(itertools.starmap(_shrink, itertools.pairwise(chain))):
            pass  # a unit that goes can leave others without inputs or readers
        smaller.update({id(dense.layer): dense for dense in chain})

    def replace(layer):
        return _resized(layer, smaller[id(layer)]) if id(layer) in smaller else keras_compat.copied(layer)

    return keras_compat.rebuild(model, replace)


def _resized(layer, dense):
    config = layer.get_config()
    config.update(units=len(dense.units), use_bias=dense.bias is not None)
    weights = [dense.kernel] if dense.bias is None else [dense.kernel, dense.bias]
    return Replacement(type(layer).from_config(config), weights)


def _shrink(dense, reader):
    """Removes the dead units between a layer and the next; True if there were any."""
    disconnected = ~dense.kernel.any(axis=0)
    unread = ~reader.kernel.any(axis=1)
    dead = disconnected | unread
    if dead.all():
        dead[0] = False  # Keras has no layers without units
    if not dead.any():
        return False
    constants = {unit: dense.constant(unit) for unit in np.flatnonzero(dead & ~unread)}
    folded = sum(value * reader.kernel[unit] for unit, value in constants.items())
    if np.any(folded):
        reader.bias = folded if reader.bias is None else reader.bias + folded
    dense.keep(~dead)
    reader.kernel = reader.kernel[~dead]
    return True


def _dense_chains(layers):
    """Lists of `_DenseLayer`s that follow each other, each called once and read by the next alone."""
    chains, seen = [], set()
    for call in layers.calls:
        chain = []
        while call is not None and call.path not in seen and _is_dense(call, layers):
            seen.add(call.path)
            activations, following = _next_dense(call, layers)
            chain.append(_DenseLayer.read(call, activations))
            call = following
        if len(chain) > 1:
            chains.append(chain)
    return chains


def _is_dense(call, layers):
    # Exactly Keras's own Dense: a subclass may compute something else.
    return (
        type(call.layer) is keras_compat.keras_of(call.layer).layers.Dense
        and len(layers.calls_of[call.path]) == 1
        and len(call.inputs[0].shape) == 2
    )


def _next_dense(call, layers):
    """The layers between a Dense layer and the only one that reads it, and that one, or None."""
    activations, value = [], call.outputs[0]
    if not _is_elementwise(call.layer):
        return (), None
    while len(value.readers) == 1 and value not in layers.outputs:
        reader = value.readers[0][0]
        if _is_dense(reader, layers):
            return tuple(activations), reader
        if type(reader.layer).__name__ not in _TRANSPARENT or not _is_elementwise(reader.layer):
            break
        activations.append(reader.layer)
        value = reader.outputs[0]
    return (), None


def _is_elementwise(layer):
    activation = getattr(layer, "activation", None)
    return activation is None or getattr(activation, "__name__", "") in _ELEMENTWISE
