"""Batches of model inputs, from any data that `fit` accepts."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import rich.console
import rich.progress

from tfap import keras_compat
from tfap.keras_compat.types import Data, Model
from tfap.utils import checks

_INFINITE = -1  # tf.data.INFINITE_CARDINALITY
_PATIENCE = 3  # seconds of work before a progress bar appears
EMPTY = "The data is empty: there is nothing to measure."
_WRONG_TYPE = (
    "data must be an array, a list or dict of arrays, a tf.data.Dataset, a generator or a PyDataset: "
    "received {type}."
)


class Batches:
    """Iterates over the batches of model inputs in some data.

    It can be iterated as often as the data allows.

    Args:
        model: The built model that receives the batches.
        data: An array, a list or dict of arrays for several inputs, or batches of `x`, `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a `keras.utils.PyDataset`, or a
            `tf_keras.utils.Sequence`.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        steps: Integer >= 1. Maximum number of batches. None for all batches.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of its range, or the data is known to be empty, is infinite and `steps`
            is None, or has another number of arrays than the model has inputs.

    Example:

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> [batch.shape for batch in Batches(model, numpy.zeros((5, 2)), batch_size=4)]
    [(4, 2), (1, 2)]
    """

    def __init__(self, model: Model, data: Data, batch_size: int = 32, steps: int | None = None) -> None:
        checks.integer("batch_size", batch_size)
        if steps is not None:
            checks.integer("steps", steps)
        self._model, self._data, self._batch_size, self._steps = model, data, batch_size, steps
        _, count = self._read()
        if count == np.inf and steps is None:
            raise ValueError(
                "The dataset has no end: pass steps=, the number of batches to measure, or dataset.take(n)."
            )
        if count == 0:
            raise ValueError(EMPTY)

    def __iter__(self) -> Iterator[Any]:
        """Iterates over the inputs of each batch, and shows a progress bar if it takes long."""
        batches, count = self._read()
        return _with_progress(itertools.islice(batches, self._steps), count, self._steps)

    def _read(self):
        return _batches(self._model, self._data, self._batch_size)


def can_repeat(data: Data) -> bool:
    """Returns whether data can be iterated repeatedly, unlike a generator or another iterator."""
    return not hasattr(data, "__next__")


def check_repeatable(name: str, data: Any, unit: str = "fit") -> None:
    """Raises ValueError if an argument of a callback, such as `recalibrate`, lasts for one `unit` only."""
    if data is not None and not can_repeat(data):
        raise ValueError(
            f"{name} must be re-iterable, but a {type(data).__name__} is used up after one {unit}: pass "
            "arrays, a tf.data.Dataset or a PyDataset."
        )


def _batches(model, data, batch_size):
    """Returns an iterable of inputs and the number of batches: None if unknown, inf if infinite."""
    if keras_compat.is_tf_dataset(data):
        size = int(data.cardinality())
        count = np.inf if size == _INFINITE else size if size >= 0 else None
        return _inputs_of_batches(data), count
    if isinstance(data, dict | list | tuple) or hasattr(data, "__array__"):
        return _slices(model, data, batch_size)
    if isinstance(data, str):
        raise TypeError(_WRONG_TYPE.format(type="str"))
    if hasattr(data, "__getitem__"):  # a PyDataset, whose num_batches may be None, or a Sequence
        count = data.num_batches if hasattr(data, "num_batches") else len(data)
        indices = itertools.count() if count is None else range(count)
        return (_inputs_of(data[index]) for index in indices), np.inf if count is None else count
    if hasattr(data, "__iter__"):
        return _inputs_of_batches(data), None
    raise TypeError(_WRONG_TYPE.format(type=type(data).__name__))


def _inputs_of_batches(data):
    """Starts to iterate only when it is read, because each new iterator may shuffle the data."""
    for batch in data:
        yield _inputs_of(batch)


def _inputs_of(batch):
    """Returns `x` of `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return batch[0] if isinstance(batch, list | tuple) else batch


def _slices(model, data, batch_size):
    is_dict = isinstance(data, dict)
    arrays = list(data.values() if is_dict else [data] if hasattr(data, "__array__") else data)
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"data has {len(arrays)} arrays; the model '{model.name}' has {len(model.inputs)} inputs."
        )
    arrays = [np.asarray(array) for array in arrays]
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The arrays in data have different numbers of samples: {sorted(sizes)}.")

    def batch(start):
        slices = [array[start : start + batch_size] for array in arrays]
        return dict(zip(data, slices)) if is_dict else keras_compat.packed_inputs(model, slices)

    starts = range(0, sizes.pop(), batch_size)
    return map(batch, starts), len(starts)


def _with_progress(batches, count, steps):
    """Iterates over batches, with a progress bar in a terminal once `_PATIENCE` has passed."""
    console = rich.console.Console(stderr=True)
    limits = [limit for limit in (count, steps) if limit is not None]
    start, bar, task = time.monotonic(), None, None
    with contextlib.ExitStack() as stack:
        for done, batch in enumerate(batches):
            if bar is None and console.is_terminal and time.monotonic() - start > _PATIENCE:
                bar = stack.enter_context(rich.progress.Progress(console=console, transient=True))
                task = bar.add_task("Measuring activations", total=min(limits, default=None))
            if bar is not None:
                bar.update(task, completed=done)
            yield batch
