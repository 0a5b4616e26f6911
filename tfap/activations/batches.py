"""Batches of inputs from data of all kinds that `fit` takes, with a progress bar on long work."""

import contextlib
import itertools
import time

import numpy as np
import rich.console
import rich.progress
import tensorflow as tf

from tfap import keras_compat
from tfap.utils import checks

_PATIENCE = 3  # seconds of work without a progress bar
EMPTY = "The data is empty: there is nothing to measure."
_WRONG = (
    "data must be an array, a list or dict of arrays, a tf.data.Dataset, a generator or a PyDataset: "
    "received {kind}."
)


class Batches:
    """The batches of inputs in some data, to be gone through as often as the data can.

    Args:
        model: the built model that reads them.
        data: an array, or a list or dict of arrays for several inputs; or batches of `x`, `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a `keras.utils.PyDataset` or a
            `tf_keras.utils.Sequence`.
        batch_size: samples a batch, for arrays only.
        steps: at most this many batches; None for all of them.

    Raises:
        TypeError: data of another kind.
        ValueError: data that is known to be empty or has no end, or of another number of inputs than the
            model has.

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> [batch.shape for batch in Batches(model, numpy.zeros((5, 2)), batch_size=4)]
    [(4, 2), (1, 2)]
    """

    def __init__(self, model, data, batch_size=32, steps=None):
        checks.whole("batch_size", batch_size)
        if steps is not None:
            checks.whole("steps", steps)
        self._model, self._data, self._batch_size, self._steps = model, data, batch_size, steps
        _, count = self._read()
        if count == np.inf and steps is None:
            raise ValueError("The dataset has no end: say with steps how many batches to measure.")
        if count == 0:
            raise ValueError(EMPTY)

    def __iter__(self):
        batches, count = self._read()
        return _with_progress(itertools.islice(batches, self._steps), count, self._steps)

    def _read(self):
        return _batches(self._model, self._data, self._batch_size)


def can_repeat(data):
    """False for an iterator, such as a generator, that is used up once it has been gone through."""
    return not hasattr(data, "__next__")


def _batches(model, data, batch_size):
    """`(iterable of inputs, number of batches)`: None where it is not known, inf where there is no end."""
    if isinstance(data, tf.data.Dataset):
        size = int(data.cardinality())
        count = np.inf if size == tf.data.INFINITE_CARDINALITY else size if size >= 0 else None
        return _each(data), count
    if isinstance(data, dict | list | tuple) or hasattr(data, "__array__"):
        return _slices(model, data, batch_size)
    if isinstance(data, str):
        raise TypeError(_WRONG.format(kind="str"))
    if hasattr(data, "__getitem__"):  # a PyDataset, whose num_batches may be None, or a Sequence
        count = data.num_batches if hasattr(data, "num_batches") else len(data)
        positions = itertools.count() if count is None else range(count)
        return (_inputs_of(data[at]) for at in positions), np.inf if count is None else count
    if hasattr(data, "__iter__"):
        return _each(data), None
    raise TypeError(_WRONG.format(kind=type(data).__name__))


def _each(data):
    for batch in data:  # begins when it is read: a new iterator may shuffle anew
        yield _inputs_of(batch)


def _inputs_of(batch):
    """`x` of `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return batch[0] if isinstance(batch, list | tuple) else batch


def _slices(model, data, batch_size):
    named = isinstance(data, dict)
    arrays = list(data.values() if named else [data] if hasattr(data, "__array__") else data)
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"data has {len(arrays)} arrays; the model '{model.name}' has {len(model.inputs)} inputs."
        )
    arrays = [np.asarray(array) for array in arrays]
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The arrays in data have different numbers of samples: {sorted(sizes)}.")

    def batch(start):
        parts = [array[start : start + batch_size] for array in arrays]
        return dict(zip(data, parts)) if named else keras_compat.packed_inputs(model, parts)

    starts = range(0, sizes.pop(), batch_size)
    return map(batch, starts), len(starts)


def _with_progress(batches, count, steps):
    """The batches, with a progress bar once they have taken a while; none where nobody looks on."""
    console = rich.console.Console(stderr=True)
    known = [number for number in (count, steps) if number is not None]
    begin, bar, task = time.monotonic(), None, None
    with contextlib.ExitStack() as stack:
        for done, batch in enumerate(batches):
            if bar is None and console.is_terminal and time.monotonic() - begin > _PATIENCE:
                bar = stack.enter_context(rich.progress.Progress(console=console, transient=True))
                task = bar.add_task("Measuring activations", total=min(known, default=None))
            if bar is not None:
                bar.update(task, completed=done)
            yield batch
