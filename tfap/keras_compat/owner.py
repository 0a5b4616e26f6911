"""The two Keras worlds: which one owns an object."""

import warnings

import keras
import tensorflow as tf

with warnings.catch_warnings():  # importing tf_keras imports SciPy, which adds a filter of its own
    import tf_keras


class Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """Base of callbacks that run in the `fit` of either Keras."""

    # tf_keras otherwise copies every batch's logs to the host before it calls us.
    _supports_tf_logs = True


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """Base of regularizers that layers of either Keras take."""


def is_layer(thing):
    return isinstance(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_layer_class(thing):
    return isinstance(thing, type) and issubclass(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_keras3(layer):
    return isinstance(layer, keras.layers.Layer)


def is_keras_class(cls):
    """Whether a class is one of either Keras's own, not a user's."""
    return cls.__module__.split(".")[0] in ("keras", "tf_keras")


def kind_of(layer):
    """The class name of a Keras's own layer or operation; None for a class of the user's, subclasses too."""
    return type(layer).__name__ if is_keras_class(type(layer)) else None


def is_model(thing):
    return isinstance(thing, keras.Model | tf_keras.Model)


def is_sequential(model):
    return isinstance(model, keras.Sequential | tf_keras.Sequential)


def is_variable(thing):
    """Of either Keras. keras.Variable is not asked: in older releases those of layers are none."""
    return isinstance(thing, tf.Variable) or (hasattr(thing, "assign") and hasattr(thing, "value"))


def weights_of(layer):
    """A layer's or model's weights; tf_keras lists the vocabularies of text layers among them."""
    return [weight for weight in getattr(layer, "weights", ()) if is_variable(weight)]


def tensorflow_variable(variable):
    """The variable that a tf.GradientTape watches."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def keras_of(layer):
    """The module, `keras` or `tf_keras`, that owns a layer or model.

    Raises:
        ValueError: `layer` is of Keras 3 and its backend is not TensorFlow.
    """
    if isinstance(layer, tf_keras.layers.Layer):
        return tf_keras
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"tfap prunes Keras 3 models on the TensorFlow backend; the backend is "
            f"'{keras.config.backend()}'. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    return keras


def start_afresh(seed):
    """Forgets what both Kerases keep of earlier models, such as names and memory, and sets all seeds."""
    for world in (tf_keras, keras):  # Keras 3 collects garbage too, which takes half a second
        world.backend.clear_session()
    set_seeds(seed)


def set_seeds(seed):
    """Sets the seeds of both Kerases, TensorFlow, NumPy and Python."""
    for world in (keras, tf_keras):
        world.utils.set_random_seed(seed)
