"""Samples with labels, as arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.keras_compat.inputs import listed


def read_labeled(data: Any, input_names: Sequence[str]) -> tuple[list[np.ndarray], Any]:
    """Reads `(x, y)`, or a batched `tf.data.Dataset` of such pairs.

    Args:
        data: The samples and their labels.
        input_names: Names of the inputs of the model, in its order.

    Returns:
        The list of input arrays, in the order of `input_names`, and the labels: an array, or a dict or list
        of one array per output.

    Raises:
        TypeError: If the data has another form.
        ValueError: If a dataset has no end or no batches.
    """
    if keras_compat.is_instance(data, "tensorflow.data.Dataset"):
        data = _concatenated(data)
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise TypeError(f"data must be (x, y) or a tf.data.Dataset of such pairs: received {type(data)}.")
    inputs = [np.asarray(array) for array in listed(data[0], input_names)]
    return inputs, _labels(data[1], samples=len(inputs[0]))


def _labels(y, samples):
    """Returns labels as an array, or as a dict or list of one array per output."""
    if isinstance(y, dict):
        return {name: np.asarray(array) for name, array in y.items()}
    parts = [np.asarray(part) for part in y] if isinstance(y, list | tuple) else []
    if len(parts) != samples and parts and all(part.ndim and len(part) == samples for part in parts):
        return parts
    return np.asarray(y)


def _concatenated(dataset):
    """Returns `(x, y)` of all batches of a dataset."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise TypeError(f"data must be a dataset of pairs (x, y): received elements {spec}.")
    if keras_compat.is_infinite(dataset):
        raise ValueError("data must be a finite dataset: pass it without repeat().")
    if any(part.shape.rank == 0 for part in keras_compat.tree.flatten(spec)):
        raise ValueError(f"data must be batched: pass dataset.batch(64). Received elements {spec}.")
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        return [], []
    return keras_compat.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
