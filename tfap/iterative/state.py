"""A net's weights as plain data, `{layer path: arrays}`: biases and moving averages too, pruned ones zero."""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph, unwrap
from tfap.layers.find import is_pruning_wrapper, with_paths


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


@dataclasses.dataclass(frozen=True, eq=False)
class PackedMasks:
    """The masks of all prunable weights of a net, in graph order.

    Attributes:
        places: `(layer path, weight name, shape)` of each.
        bits: a uint8 array for each, as `numpy.packbits` makes it; 1 where a weight is alive.

    >>> masks = PackedMasks([("dense", "kernel", (2, 3))], [np.packbits([1, 1, 0, 0, 1, 0])])
    >>> masks.arrays()["dense"], masks.alive
    (array([[1, 1, 0], [0, 1, 0]], dtype=uint8), 3)
    """

    places: list
    bits: list[np.ndarray]

    @classmethod
    def of(cls, model):
        """Those of a model with pruning wrappers."""
        places, bits = [], []
        for path, wrapper in with_paths(model):
            for spec, _, mask in wrapper.kernel_and_mask():
                places.append((path, spec.name, tuple(mask.shape)))
                bits.append(np.packbits(mask.numpy()))
        return cls(places, bits)

    @property
    def total(self):
        """How many weights could be pruned."""
        return sum(math.prod(shape) for _, _, shape in self.places)

    @property
    def alive(self):
        return sum(int(array.sum()) for array in self._arrays())

    def arrays(self):
        """`{layer path: uint8 array}`; a dict by weight name where a layer has several."""
        found = {}
        for (path, name, _), array in zip(self.places, self._arrays()):
            found.setdefault(path, {})[name] = array
        return {
            path: masks if len(masks) > 1 else next(iter(masks.values())) for path, masks in found.items()
        }

    def write(self, model):
        """Gives the masks to the wrappers of a model and sets the weights that they hide to zero."""
        arrays = iter(self._arrays())
        for _, wrapper in with_paths(model):
            for _, kernel, mask in wrapper.kernel_and_mask():
                mask.assign(next(arrays))
                kernel.assign(kernel.numpy() * mask.numpy())

    def _arrays(self):
        for (_, _, shape), packed in zip(self.places, self.bits):
            yield np.unpackbits(packed, count=math.prod(shape)).reshape(shape)
