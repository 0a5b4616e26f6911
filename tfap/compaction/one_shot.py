"""Data that can be iterated only once, handed to several fits as to one."""

import itertools
import threading

import numpy as np

from tfap import keras_compat
from tfap.keras_compat.lazy import tensorflow as tf

_COMPOSITE = ("tensorflow.SparseTensor", "tensorflow.RaggedTensor")
_PEEKED = 2  # as in Keras: a dimension that differs between two batches is undefined


class OneShotBatches:
    """Batches of a one-shot iterator, of which each stage of a training gets the next ones.

    Keras prefetches batches of a generator, which are lost at the end of a fit. It also draws a batch to
    build a model's metrics. A stage therefore gets a dataset without prefetching that ends after the batches
    of the stage, and batches that were drawn before the training begins are handed out again.

    Args:
        model: The model to train.
        iterator: An iterator of `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Each is an array, or a list,
            tuple or dict of arrays.
        signature: The structure of `tf.TypeSpec` of a batch. None finds it from the first batches.

    Raises:
        ValueError: If the iterator is empty, or a batch has other values than arrays.
    """

    def __init__(self, model, iterator, signature=None):
        self._model, self._iterator, self._signature = model, iterator, signature
        self._lock = threading.Lock()
        self._waiting, self._drawn, self._is_training = [], [], True
        self._converts = signature is None
        if self._converts:
            self._peek()

    def _peek(self):
        first = [self._standardized(batch) for batch in itertools.islice(self._iterator, _PEEKED)]
        if not first:
            raise ValueError("The data is an iterator without batches: expected one batch per step.")
        self._waiting = first
        self._signature = tf.nest.map_structure(self._spec, *first)

    def stage(self, batches):
        """Returns a `tf.data.Dataset` of the next batches, at most a number of them."""
        self._is_training, self._drawn = False, []
        return tf.data.Dataset.from_generator(
            lambda: self._next_batches(batches), output_signature=self._signature
        )

    def have_ended(self):
        """Returns whether there is no batch for another stage. It may draw one, which is not lost."""
        if not self._waiting:
            batch = self._from_iterator()
            self._waiting = [] if batch is None else [batch]
        return not self._waiting

    def begin_training(self):
        """Stops keeping batches to hand them out again: the next ones are trained on."""
        with self._lock:
            self._hand_out_again()
            self._is_training = True

    def _next_batches(self, count):
        with self._lock:
            self._hand_out_again()
        for _ in range(count):
            with self._lock:
                batch = self._draw()
            if batch is None:
                return
            yield batch

    def _hand_out_again(self):
        self._waiting, self._drawn = [*self._drawn, *self._waiting], []

    def _draw(self):
        batch = self._waiting.pop(0) if self._waiting else self._from_iterator()
        if batch is not None and not self._is_training:
            self._drawn.append(batch)
        return batch

    def _from_iterator(self):
        batch = next(self._iterator, None)
        return self._standardized(batch) if batch is not None and self._converts else batch

    def _standardized(self, batch):
        """Returns a batch as a tuple of arrays, as tf.data takes it."""
        parts = list(batch) if isinstance(batch, list | tuple) else [batch]
        while len(parts) > 1 and parts[-1] is None:
            parts.pop()
        return tuple(self._arrays(part) for part in parts)

    def _arrays(self, part):
        if isinstance(part, dict):
            return {key: self._arrays(value) for key, value in part.items()}
        if isinstance(part, list | tuple):
            return tuple(self._arrays(value) for value in part)
        if keras_compat.is_instance(part, "tensorflow.Tensor", *_COMPOSITE):
            return part
        array = np.asarray(part)
        if array.dtype == object:
            raise ValueError(
                f"The batches of the iterator contain {type(part).__name__}, expected arrays: pass a "
                "tf.data.Dataset, or stages=1."
            )
        # As tf_keras converts the batches of a generator.
        is_wide = array.dtype.kind == "f" and not keras_compat.is_keras3(self._model)
        return array.astype(keras_compat.keras_of(self._model).backend.floatx()) if is_wide else array

    def _spec(self, first, *others):
        if keras_compat.is_instance(first, *_COMPOSITE):
            raise ValueError(
                f"The batches of the iterator contain a {type(first).__name__}, expected arrays: pass a "
                "tf.data.Dataset, or stages=1."
            )
        shape = list(first.shape)
        fixed = keras_compat.is_keras3(self._model)  # tf_keras lets every dimension differ
        for axis, size in enumerate(shape):
            if axis == 0 or not fixed or any(other.shape[axis] != size for other in others):
                shape[axis] = None
        return tf.TensorSpec(shape, first.dtype)
