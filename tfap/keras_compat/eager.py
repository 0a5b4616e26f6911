"""Layers of a model called one at a time, outside Keras's own pass through the graph."""

import contextlib
import inspect
import re

import keras

from tfap.keras_compat import lazy, private
from tfap.keras_compat.inputs import listed
from tfap.keras_compat.owner import is_keras3, is_layer, keras_of


def is_batch_normalization(thing):
    """Whether a thing is a BatchNormalization of either Keras, also one of a user's subclass."""
    if is_keras3(thing):
        return isinstance(thing, keras.layers.BatchNormalization)
    # The base class in tf_keras is also that of SyncBatchNormalization and of the layer of TensorFlow 1.
    tf_keras = lazy.loaded("tf_keras")
    return tf_keras is not None and isinstance(thing, tf_keras.layers.BatchNormalization.__base__)


class InputReader:
    """Turns batches into the input tensors of a Sequential or Functional model, as its own call does.

    Args:
        model: The built model.
    """

    def __init__(self, model):
        self._inputs = list(model.inputs)
        self._names = [private.producer_of(tensor).name for tensor in self._inputs]
        self._identity = keras_of(model).Model(self._inputs, self._inputs, name=model.name)

    def read(self, batch):
        """Returns a list with one tensor per input of the model.

        Raises:
            ValueError: If a batch does not have the model's inputs, or a shape does not fit.
        """
        try:
            arrays = listed(batch, self._names)
        except KeyError as error:
            raise ValueError(
                self._does_not_fit(f"received a dict of {', '.join(map(str, batch))}")
            ) from error
        if len(arrays) != len(self._inputs):
            raise ValueError(self._does_not_fit(f"received {len(arrays)} arrays per batch"))
        try:
            tensors = self._identity(arrays, training=False)
        except Exception as error:  # which one depends on Keras, the backend, and what is wrong
            self._check_shapes(arrays)
            reason = re.sub(r"\x1b\[\d+m", "", str(error)).removeprefix("Exception encountered when calling ")
            raise ValueError(self._does_not_fit(" ".join(reason.split())[:200])) from error
        tensors = list(tensors) if isinstance(tensors, list | tuple) else [tensors]
        self._check_shapes(tensors)
        return tensors

    def _check_shapes(self, tensors):
        for tensor, expected in zip(tensors, self._inputs):
            shape = tuple(getattr(tensor, "shape", expected.shape))
            sizes = zip(shape[1:], tuple(expected.shape)[1:])
            if len(shape) != len(expected.shape) or any(size not in (None, given) for given, size in sizes):
                raise ValueError(self._does_not_fit(f"received the shape {shape}"))

    def _does_not_fit(self, reason):
        inputs = ", ".join(f"{name} {tuple(each.shape)}" for name, each in zip(self._names, self._inputs))
        return f"The data does not fit the inputs of the model '{self._identity.name}', {inputs}: {reason}."


def call_in_inference(layer, args, kwargs, training=None):
    """Calls a layer or function on tensors as a model in inference mode does.

    Args:
        layer: The layer, or a function such as `keras.ops.add`.
        args: Its arguments.
        kwargs: Its keyword arguments.
        training: The `training` argument that the graph of the model fixes, which tf_keras obeys.
    """
    if is_layer(layer) and _takes_training(layer):
        kwargs = {**kwargs, "training": bool(training) and not is_keras3(layer)}
    return layer(*args, **kwargs)


def _takes_training(layer):
    called = getattr(layer, "layer", layer) if getattr(layer, "is_tfap_wrapper", False) else layer
    try:
        return "training" in inspect.signature(called.call).parameters
    except (TypeError, ValueError):
        return False


@contextlib.contextmanager
def call_replaced(layer, make_call):
    """Replaces the `call` of one layer.

    Args:
        layer: A layer of either Keras.
        make_call: `make_call(call)` returns the function to call instead.
    """
    # Both Kerases look `call` up on the instance. It is set in the instance's dict, because Keras tracks
    # attributes that are set.
    name = "quantized_call" if getattr(layer, "quantization_mode", None) else "call"
    attributes = vars(layer)
    saved = {name: attributes[name]} if name in attributes else {}
    attributes[name] = make_call(getattr(layer, name))
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(saved)
