"""Custom layers. Each name makes an object of the Keras that owns the wrapped layer."""

import abc
import functools
import importlib
from typing import Any

from tfap import keras_compat
from tfap.keras_compat.types import Layer

_FILES = {"keras": "keras3", "tf_keras": "tf_keras"}  # the second imports tf_keras and tfmot


def _class_for(layer, name):
    if not keras_compat.is_layer(layer):
        raise TypeError(f"Expected a Keras layer: received {layer!r} of type {type(layer).__name__}.")
    return _class_of(keras_compat.keras_of(layer).__name__, name)


def _class_of(keras, name):
    return getattr(importlib.import_module(f"tfap.layers.{_FILES[keras]}"), name)


class PruneByActivation(metaclass=abc.ABCMeta):
    """Wraps one layer so that its kernels can be pruned in training.

    `tfap.prune` does this for whole models. Use it directly in subclassed models. tfap counts the layer's own
    activation. If the layer has none, it counts at the `CountActivations` that follows the layer in a
    Sequential or Functional model.

    Args:
        layer: A Dense, convolution or depthwise convolution layer, or another prunable one, of either Keras.
        *settings: `pruning_schedule`, `criterion`, `scope`, `granularity`, `min_weights_per_layer`,
            `sample_every`, `target`, `remove_disconnected`, `block_size`, `block_pooling_type` and
            `sparsity_m_by_n`, by position or name, as in `tfap.prune`.
        **kwargs: Arguments of a Keras layer. The default name is that of the wrapped layer.
            `group`, a string, is the same for wrappers that are ranked together with `scope="global"`.
            Without it, those with equal settings are.

    JAX has no int64. There, the counts are objects that are read and written like variables, with `numpy()`
    and `assign()`, and store each number in two of int32. `pruning_step` is int32.

    Attributes:
        layer: The wrapped layer.
        mask: A uint8 variable, 1 where a weight is kept; a dict by weight name for several kernels.
        activation_counts: An int64 variable, one entry per neuron: how often it fired in training. It is
            float64 if the criterion sums activations.
        activations_seen: An int64 variable: samples x positions x calls.
        pruning_step: An int64 variable: training steps so far.

    Raises:
        TypeError: If `layer` is not a Keras layer, or an argument has the wrong type.
        ValueError: If the layer has nothing to prune, or a value is invalid.

    Example:

    >>> import keras
    >>> wrapped = PruneByActivation(keras.layers.Dense(4, activation="relu"), 0.5)
    >>> _ = wrapped(keras.ops.ones((1, 3)))
    >>> wrapped.mask.numpy().shape, wrapped.activation_counts.numpy().shape
    ((3, 4), (4,))
    """

    def __new__(cls, layer: Layer, *settings: Any, **kwargs: Any) -> Any:
        return _class_for(layer, "PruneByActivation")(layer, *settings, **kwargs)


class CountActivations(metaclass=abc.ABCMeta):
    """Wraps an activation layer, such as ReLU, so that it counts how often each channel fires.

    Args:
        layer: The activation layer, of either Keras.
        threshold: A float. An activation above it counts as firing.
        sample_every: Integer. Counts activations every n-th training step.
        data_format: "channels_first" if axis 1 is that of the channels. Otherwise it is the last axis.
        statistic: "count", or "sum" to sum the activations above the threshold instead, or "square" to sum
            the squares of all activations, whatever the threshold.
        **kwargs: Arguments of a Keras layer. The default name is that of the wrapped layer.

    Attributes:
        layer: The wrapped layer.
        activation_counts: As in `PruneByActivation`, and so are `activations_seen` and `pruning_step`.

    Raises:
        TypeError: If `layer` is not a Keras layer, or an argument has the wrong type.
        ValueError: If a value is invalid.

    Example:

    >>> import keras
    >>> counter = CountActivations(keras.layers.ReLU())
    >>> _ = counter(keras.ops.array([[1.0, -1.0], [2.0, 3.0]]), training=True)
    >>> counter.activation_counts.numpy(), int(counter.activations_seen)
    (array([2, 1]), 2)
    """

    def __new__(cls, layer: Layer, *args: Any, **kwargs: Any) -> Any:
        return _class_for(layer, "CountActivations")(layer, *args, **kwargs)


for _name, _class in (("PruneByActivation", PruneByActivation), ("CountActivations", CountActivations)):
    _class.register(_class_of("keras", _name))  # those for tf_keras register themselves
    keras_compat.register_lazily(_name, functools.partial(_class_of, "tf_keras", _name), in_keras3=False)
