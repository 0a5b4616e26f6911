"""Reads and writes the state of a model as plain data: weights and masks by layer path."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph, unwrap
from tfap.keras_compat.types import Model
from tfap.layers.find import is_pruning_wrapper, with_paths

# Layer path to all arrays of the layer, biases and moving averages included. Pruned weights are zero.
Weights: TypeAlias = dict[str, list[np.ndarray]]


def read(model: Model) -> Weights:
    """Reads the weights of a model with or without pruning wrappers."""
    return {path: _layer_weights(layer) for path, layer in Graph(model).layers()}


def write(model: Model, weights: Weights) -> None:
    """Writes weights from `read` to a model of the same graph. Masks are not applied."""
    for path, layer in Graph(model).layers():
        if weights[path]:
            unwrap(layer).set_weights(weights[path])


def reinitialized(model: Model, seed: int) -> Weights:
    """Returns new weights from the initializers of the layers. A fixed seed repeats its values."""
    keras_compat.set_seeds(seed)
    return read(keras_compat.rebuild(model, _untrained))


def flatten(weights: Weights) -> list[np.ndarray]:
    """Returns all arrays in one list, in graph order."""
    return [array for arrays in weights.values() for array in arrays]


def unflatten(arrays: list[np.ndarray], like: Weights, path: object) -> Weights:
    """Inverts `flatten` for arrays from a file.

    Args:
        arrays: List of arrays.
        like: Weights of the same model.
        path: Path of the file, for the error.

    Raises:
        ValueError: If the arrays are from another model.
    """
    if [array.shape for array in arrays] != [array.shape for array in flatten(like)]:
        raise ValueError(f"{path} has the weights of another model: use another directory.")
    remaining = iter(arrays)
    return {
        layer_path: [_with_dtype(next(remaining), array.dtype) for array in layer_arrays]
        for layer_path, layer_arrays in like.items()
    }


def _with_dtype(array, dtype):
    """Restores bfloat16, which NumPy's files store as raw bytes."""
    return array.view(dtype) if array.dtype.kind == "V" else array


def check_copied(model: Model) -> None:
    """Checks that training a copy of the model does not change the model.

    Raises:
        ValueError: If the copy shares a trainable layer with the model.
    """
    layers = Graph(model).layers()
    weight_tying = keras_compat.tied_layers(layer for _, layer in layers)
    for path, layer in layers:
        reason = weight_tying.get(id(layer)) or keras_compat.why_shared(layer)
        if reason and layer.trainable_weights:
            raise ValueError(f"The layer '{path}' cannot be trained in cycles: {reason}.")


def _layer_weights(layer):
    arrays = layer.masked_weights() if is_pruning_wrapper(layer) else unwrap(layer).get_weights()
    return [np.asarray(array) for array in arrays]


def _untrained(layer):
    replacement = keras_compat.copied(layer)
    return replacement if replacement.layer is layer else dataclasses.replace(replacement, weights=None)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedMasks:
    """The masks of all prunable weights of a model, in graph order, as packed bits.

    Attributes:
        places: List of `(layer path, weight name, shape)`, one per prunable weight.
        bits: List of uint8 arrays from `numpy.packbits`, one per prunable weight. 1 where a weight is kept.

    >>> masks = PackedMasks([("dense", "kernel", (2, 3))], [np.packbits([1, 1, 0, 0, 1, 0])])
    >>> masks.arrays()["dense"], masks.alive
    (array([[1, 1, 0], [0, 1, 0]], dtype=uint8), 3)
    """

    places: list[tuple[str, str, tuple[int, ...]]]
    bits: list[np.ndarray]

    @classmethod
    def of(cls, model: Model) -> "PackedMasks":
        """Packs the masks of a model with pruning wrappers."""
        places, bits = [], []
        for path, wrapper in with_paths(model):
            for spec, _, mask in wrapper.kernel_and_mask():
                places.append((path, spec.name, tuple(mask.shape)))
                bits.append(np.packbits(mask.numpy()))
        return cls(places, bits)

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(math.prod(shape) for _, _, shape in self.places)

    @property
    def alive(self) -> int:
        """Number of weights that are kept."""
        return sum(int(array.sum()) for array in self._arrays())

    def arrays(self) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
        """Returns a dict of layer path to uint8 array, or to a dict by weight name if there are several."""
        by_name: dict[str, dict[str, np.ndarray]] = {}
        for (path, name, _), array in zip(self.places, self._arrays()):
            by_name.setdefault(path, {})[name] = array
        return {
            path: masks if len(masks) > 1 else next(iter(masks.values())) for path, masks in by_name.items()
        }

    def write(self, model: Model) -> None:
        """Writes the masks to the wrappers of a model and zeroes the pruned weights."""
        arrays = iter(self._arrays())
        for _, wrapper in with_paths(model):
            for _, kernel, mask in wrapper.kernel_and_mask():
                mask.assign(next(arrays))
                kernel.assign(kernel.numpy() * mask.numpy())
            wrapper.zero_biases()

    def _arrays(self) -> Iterator[np.ndarray]:
        for (_, _, shape), packed in zip(self.places, self.bits):
            yield np.unpackbits(packed, count=math.prod(shape)).reshape(shape)
