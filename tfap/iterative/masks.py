"""The masks of a net, one bit a weight."""

import dataclasses
import math

import numpy as np

from tfap import wrapped


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
        for path, wrapper in wrapped.with_paths(model):
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
        for _, wrapper in wrapped.with_paths(model):
            for _, kernel, mask in wrapper.kernel_and_mask():
                mask.assign(next(arrays))
                kernel.assign(kernel.numpy() * mask.numpy())

    def _arrays(self):
        for (_, _, shape), packed in zip(self.places, self.bits):
            yield np.unpackbits(packed, count=math.prod(shape)).reshape(shape)
