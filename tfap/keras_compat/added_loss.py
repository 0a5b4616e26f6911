"""A term of a model's loss that depends on weights only, for as long as a `fit` lasts, in either Keras."""

import functools

import keras
import numpy as np

from tfap.keras_compat import private
from tfap.keras_compat.backends import backend_of
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.keras_compat.owner import is_keras3


class _TensorFlow:
    """The functions of `keras.ops` that `GroupPenalty` needs, for tf_keras."""

    @staticmethod
    def square(x):
        return tf.square(x)

    @staticmethod
    def sqrt(x):
        return tf.sqrt(x)

    @staticmethod
    def sum(x, axis=None):
        return tf.reduce_sum(x, axis)

    @staticmethod
    def reshape(x, shape):
        return tf.reshape(x, shape)

    @staticmethod
    def concatenate(parts):
        return tf.concat(parts, 0)

    @staticmethod
    def segment_sum(values, segments, count):
        return tf.math.unsorted_segment_sum(values, segments, count)

    @staticmethod
    def where(condition, x, y):
        return tf.where(condition, x, y)

    @staticmethod
    def cast(x, dtype):
        return tf.cast(x, dtype)


def operations(model):
    """Returns the functions, named as in `keras.ops`, that compute tensors of a model."""
    return keras.ops if is_keras3(model) else _TensorFlow


def step_state(model, values, name):
    """Makes a variable that is read in the steps of a model and written by the host.

    Pass it to `AddedLoss`, so that steps see what the host writes.

    Args:
        model: The model.
        values: Array. The initial values.
        name: String. Name of the variable.
    """
    values = np.asarray(values)
    if is_keras3(model):
        return keras.Variable(values, trainable=False, dtype=values.dtype.name, name=name)
    return tf.Variable(values, trainable=False, name=name)


class AddedLoss:
    """Adds a term to a model's `losses`, until `remove` is called.

    Args:
        model: A model of either Keras.
        weight: A trainable variable of the model. On Keras 3 it carries the term, besides its regularizer.
        function: A function without arguments that returns a scalar tensor.
        states: List of the variables of `step_state` that the function reads. They are inputs of
            the training step, but neither weights of the model nor in its files.
    """

    def __init__(self, model, weight, function, states):
        leftover = getattr(model, _NAME, None)
        if leftover is not None:
            leftover.remove()  # of a fit that has failed
        self._model = model
        self._undo = (_add_to_keras3 if is_keras3(model) else _add_to_tf_keras)(
            model, weight, function, states
        )
        setattr(model, _NAME, self)
        model.make_train_function(force=True)
        backend_of(model).protected(model)

    def remove(self):
        """Takes the term out again. The next `fit` traces its step anew."""
        if self._undo is not None:
            self._undo()
            self._undo = None
            delattr(self._model, _NAME)
            self._model.train_function = self._model.test_function = None


_NAME = "tfap_added_loss"  # the attribute of a model


class _State:
    """Holds a variable where Keras 3 expects a seed generator.

    The variables of seed generators are inputs of stateless steps, but not weights: they are not in
    `get_weights()`, which callbacks such as EarlyStopping restore, nor in files.
    """

    def __init__(self, variable):
        self.state = variable


def _add_to_keras3(model, weight, function, states):
    users = weight.regularizer

    class Added(keras.regularizers.Regularizer):
        def __call__(self, value):
            return function() if users is None else users(value) + function()

    held, generators = [_State(variable) for variable in states], private.seed_generators(model)
    generators.extend(held)
    weight.regularizer = Added()

    def undo():
        weight.regularizer = users
        for each in held:
            generators.remove(each)

    return undo


def _add_to_tf_keras(model, weight, function, states):
    return functools.partial(private.remove_added_loss, model, private.add_loss(model, function))
