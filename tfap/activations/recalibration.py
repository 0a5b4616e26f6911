"""New statistics for the BatchNormalization layers of a model."""

import itertools

from absl import logging

from tfap import keras_compat
from tfap.activations import batch_norm
from tfap.activations.batches import Batches, can_repeat
from tfap.keras_compat import Replacement, eager
from tfap.keras_compat.types import Data, Model


def recalibrate(
    model: Model,
    data: Data,
    batch_size: int = 32,
    steps: int | None = None,
    include_frozen: bool = False,
) -> Model:
    """Computes the moving statistics of BatchNormalization layers anew over data, exactly.

    Call it after pruning with little or no training. In training, a BatchNormalization normalizes with the
    statistics of the batch; in inference, with moving averages, which lag behind by hundreds of steps.

    The mean and variance are those of all values that a layer consumes in inference mode, not moving
    averages. Layers are computed in graph order, each behind layers that have their new statistics. The
    result does not depend on the batch size or on the order of the data, within float tolerance.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        data: Unlabeled inputs: an array, a list or dict of arrays for several inputs, or batches of `x`,
            `(x, y)` or `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a
            `keras.utils.PyDataset`, or a `tf_keras.utils.Sequence`. Labels and weights are ignored. Pass
            training data, without random augmentation that inference does not have.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        steps: Integer >= 1. Maximum number of batches. None for all batches.
        include_frozen: Boolean. Whether to also recompute layers that training does not update: those with
            `trainable=False`, and in tf_keras those that are only called with `training=False`.

    Returns:
        A new model with the same weights and new statistics, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is wrapped, subclassed, unbuilt, or has no BatchNormalization to recompute;
            if the data is empty, infinite, or does not fit the model's inputs; if a layer consumes less than
            two values per channel, or values that are NaN or infinite; or if data that can be read only once
            needs more than 1 GiB of activations.

    Example:

    >>> import keras, numpy
    >>> layers = [keras.Input((2,)), keras.layers.BatchNormalization(name="norm")]
    >>> model = recalibrate(keras.Sequential(layers), numpy.array([[1.0, -4.0], [3.0, 4.0]] * 50))
    >>> norm = model.get_layer("norm")
    >>> numpy.array(norm.moving_mean), numpy.array(norm.moving_variance)
    (array([2., 0.], dtype=float32), array([ 1., 16.], dtype=float32))
    """
    keras_compat.check_plain(model, "tfap.recalibrate")
    layers = _normalizations(model, include_frozen)
    found = _statistics(model, layers, data, batch_size, steps)

    def replace(layer):
        replacement = keras_compat.copied(layer)
        if replacement.layer is layer:
            held = [layer, *(keras_compat.all_layers(layer) if keras_compat.is_layer(layer) else ())]
            for inner in held:
                if id(inner) in found:
                    logging.warning(
                        "'%s' keeps its statistics: the new model shares it with the given one, as %s.",
                        inner.name,
                        keras_compat.why_shared(layer) or "it is tied to another layer",
                    )
            return replacement
        return Replacement(replacement.layer, _weights(layer, found))

    return keras_compat.rebuild(model, replace)


def recalibrate_in_place(
    model: Model,
    data: Data,
    batch_size: int = 32,
    steps: int | None = None,
    include_frozen: bool = False,
) -> None:
    """Does the same as `recalibrate` in the given model, which may have tfap's wrappers.

    If it raises, the model is unchanged.
    """
    keras_compat.check_measurable(model, "tfap.recalibrate")
    layers = _normalizations(model, include_frozen)
    found = _statistics(model, layers, data, batch_size, steps)
    for layer in layers.values():
        if id(layer) in found:
            batch_norm.write(layer, *found[id(layer)])


def check(model: Model, data: Data, batch_size: int = 32) -> None:
    """Checks what can be checked quickly: the model, and the first batch.

    Raises:
        TypeError, ValueError: As `recalibrate` does.
    """
    keras_compat.check_measurable(model, "tfap.recalibrate")
    _normalizations(model, False)
    for batch in itertools.islice(Batches(model, data, batch_size), 1):
        eager.InputReader(model).read(batch)


def _normalizations(model, include_frozen):
    layers = batch_norm.normalizations(model, include_frozen)
    if not layers:
        frozen = (
            "" if include_frozen else " that training updates (include_frozen=True takes frozen ones too)"
        )
        raise ValueError(f"The model '{model.name}' has no BatchNormalization{frozen}: nothing to recompute.")
    return layers


def _statistics(model, layers, data, batch_size, steps):
    batches = Batches(model, data, batch_size, steps)
    return batch_norm.statistics(model, batches, layers, can_repeat(data))


def _weights(layer, found):
    """The weights of a layer with new statistics, in the order of `set_weights`."""
    if not keras_compat.is_layer(layer):
        return None
    new = {}
    for inner in (layer, *keras_compat.all_layers(layer)):
        if id(inner) in found:
            new[id(inner.moving_mean)], new[id(inner.moving_variance)] = found[id(inner)]
    return [
        new[id(variable)].reshape(values.shape).astype(values.dtype) if id(variable) in new else values
        for variable, values in zip(layer.weights, layer.get_weights(), strict=True)
    ]
