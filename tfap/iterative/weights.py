"""A net's weights as plain data, `{layer path: arrays}`: biases and moving averages too, pruned ones zero."""

import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.graph import Graph, unwrap
from tfap.wrapped import is_pruning_wrapper


def read(model):
    """The weights of a model with pruning wrappers or without."""
    return {path: _of(layer) for path, layer in Graph(model).layers()}


def write(model, weights):
    """Writes what `read` gave, of the same net; the model's masks hide no weight."""
    for path, layer in Graph(model).layers():
        if weights[path]:
            unwrap(layer).set_weights(weights[path])


def drawn(model, seed):
    """Fresh weights from the initializers of a model's layers; one with a seed of its own draws the same."""
    keras_compat.set_seeds(seed)
    return read(keras_compat.rebuild(model, _untrained))


def flat(weights):
    """All arrays in one list, in graph order."""
    return [array for arrays in weights.values() for array in arrays]


def like(weights, arrays, path):
    """The weights of a list as `flat` gave it, read from a file, for the net of other weights.

    Raises:
        ValueError: they are those of another net.
    """
    if [array.shape for array in arrays] != [array.shape for array in flat(weights)]:
        raise ValueError(f"{path} has the weights of another net: use another directory.")
    rest = iter(arrays)
    # NumPy's files know no bfloat16.
    return {
        layer: [array.view(old.dtype) if (array := next(rest)).dtype.kind == "V" else array for old in olds]
        for layer, olds in weights.items()
    }


def check_copied(model):
    """Raises ValueError if a copy of the model would train a layer of the model itself."""
    layers = Graph(model).layers()
    tied = keras_compat.tied_layers(layer for _, layer in layers)
    for path, layer in layers:
        reason = tied.get(id(layer)) or keras_compat.why_shared(layer)
        if reason and layer.trainable_weights:
            raise ValueError(f"The layer '{path}' cannot be trained in cycles: {reason}.")


def _of(layer):
    arrays = layer.masked_weights() if is_pruning_wrapper(layer) else unwrap(layer).get_weights()
    return [np.asarray(array) for array in arrays]


def _untrained(layer):
    replacement = keras_compat.copied(layer)
    return replacement if replacement.layer is layer else dataclasses.replace(replacement, weights=None)
