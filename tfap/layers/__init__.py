"""Custom layers. Each name makes the class of the Keras that owns the layer given to it."""

import abc

from tfap import keras_compat
from tfap.layers import keras3, tf_keras

_WORLDS = {"keras": keras3, "tf_keras": tf_keras}


def _class_for(layer, name):
    if not keras_compat.is_layer(layer):
        raise TypeError(f"Expected a Keras layer: received {layer!r} of type {type(layer).__name__}.")
    return getattr(_WORLDS[keras_compat.keras_of(layer).__name__], name)


class PruneByActivation(metaclass=abc.ABCMeta):
    """Wraps one layer so that its kernels can be pruned in training.

    `tfap.prune` does this for whole models; use it by hand in subclassed models. A layer wrapped alone
    fires at its own activation; one without an activation is counted at the `CountActivations` that
    follows it in a Sequential or Functional model.

    Args:
        layer: a Dense, convolution or depthwise convolution layer of either Keras.
        pruning_schedule, criterion, scope, granularity: As in `tfap.prune`.
        min_weights_per_layer, sample_every, target, remove_disconnected: As in `tfap.prune`.
        **kwargs: Keras layer arguments. The wrapper goes by its layer's name unless told otherwise.

    Attributes:
        layer: the wrapped layer.
        mask: uint8 variable, 1 where a weight is alive; a dict by weight name for several kernels.
        activation_counts: int64, one a neuron: how often it fired in training; float64 for a criterion that
            sums activations.
        activations_seen: int64: samples x positions x calls.
        pruning_step: int64: training steps so far.

    Raises:
        TypeError: not a layer. ValueError: a layer that has nothing to prune.

    >>> import keras
    >>> wrapped = PruneByActivation(keras.layers.Dense(4, activation="relu"), 0.5)
    >>> _ = wrapped(keras.ops.ones((1, 3)))
    >>> wrapped.mask.numpy().shape, wrapped.activation_counts.numpy().shape
    ((3, 4), (4,))
    """

    def __new__(cls, layer, *args, **kwargs):
        return _class_for(layer, "PruneByActivation")(layer, *args, **kwargs)


class CountActivations(metaclass=abc.ABCMeta):
    """Wraps an activation layer, such as ReLU, so that it counts how often each channel fires.

    Args:
        layer: the activation layer, of either Keras.
        threshold: an activation above it counts as firing.
        sample_every: count in every n-th training step only.
        data_format: "channels_first" if axis 1 numbers the channels; otherwise the last axis does.
        statistic: "count", or "sum" to add up the activations instead.
        **kwargs: Keras layer arguments. The wrapper goes by its layer's name unless told otherwise.

    Attributes:
        layer, activation_counts, activations_seen, pruning_step: as in `PruneByActivation`.

    >>> import keras
    >>> counter = CountActivations(keras.layers.ReLU())
    >>> _ = counter(keras.ops.array([[1.0, -1.0], [2.0, 3.0]]), training=True)
    >>> counter.activation_counts.numpy(), int(counter.activations_seen)
    (array([2, 1]), 2)
    """

    def __new__(cls, layer, *args, **kwargs):
        return _class_for(layer, "CountActivations")(layer, *args, **kwargs)


for _world in _WORLDS.values():
    PruneByActivation.register(_world.PruneByActivation)
    CountActivations.register(_world.CountActivations)
