"""The first inputs of some data, kept in memory for several passes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import EMPTY, Batches
from tfap.keras_compat import eager, equality
from tfap.keras_compat.types import Data, Model


def is_labeled(model: Model, data: Data) -> bool:
    """Returns whether data is `(x, y)` or `(x, y, sample_weight)`, and not inputs alone."""
    return isinstance(data, tuple) and len(data) in (2, 3) and len(data) != len(model.inputs)


class InputBatches:
    """The first inputs of some data, in batches, which can be read again and again.

    Args:
        model: The built model that receives the inputs.
        data: Inputs, as in `tfap.prune_once`.
        limit: Integer >= 1. The largest number of inputs.
        batch_size: Integer >= 1. Samples per batch, for arrays only.

    Attributes:
        samples: Integer. The number of inputs.

    Raises:
        ValueError: If the data is empty, does not fit the model, or has NaN or infinity.
    """

    def __init__(self, model: Model, data: Data, limit: int, batch_size: int) -> None:
        given = data[0] if is_labeled(model, data) else data
        reader, self._model = eager.InputReader(model), model
        self._batches: list[list[np.ndarray]] = []
        self.samples = 0
        for batch in Batches(model, given, batch_size, steps=limit):
            arrays = [keras_compat.to_numpy(tensor) for tensor in reader.read(batch)]
            arrays = [array[: limit - self.samples] for array in arrays]
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
                raise ValueError(
                    "data contains NaN or infinity: expected finite inputs. Remove these samples."
                )
            self._batches.append(arrays)
            self.samples += len(arrays[0])
            if self.samples >= limit:
                break
        if not self.samples:
            raise ValueError(EMPTY)

    def __iter__(self) -> Iterator[Any]:
        for arrays in self._batches:
            yield (keras_compat.packed_inputs(self._model, arrays),)

    def inputs(self) -> Iterator[Any]:
        """Iterates over the inputs of each batch, as the model takes them."""
        return (batch for (batch,) in self)

    def arrays(self) -> list[np.ndarray]:
        """Returns all inputs as a list with one array per input of the model."""
        return [np.concatenate(parts) for parts in zip(*self._batches)]

    def few(self) -> list[np.ndarray]:
        """Returns the first inputs as a list of arrays, to compare outputs on."""
        return [array[: equality.SAMPLES] for array in self._batches[0]]
