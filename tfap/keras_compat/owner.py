"""Keras 3 and tf_keras (Keras 2): which one owns an object."""

import warnings

import keras
import tensorflow as tf

with warnings.catch_warnings():  # importing tf_keras imports SciPy, which adds a warnings filter
    import tf_keras


class Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """Base class of callbacks that run in the `fit()` of either Keras."""

    # Without it, tf_keras copies the logs of every batch to the host before it calls a callback.
    _supports_tf_logs = True


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """Base class of regularizers for layers of either Keras."""


def is_layer(thing):
    return isinstance(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_layer_class(thing):
    return isinstance(thing, type) and issubclass(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_keras3(layer):
    return isinstance(layer, keras.layers.Layer)


def is_keras_class(cls):
    """Whether a class belongs to one of the two Kerases and not to a user."""
    return cls.__module__.split(".")[0] in ("keras", "tf_keras")


def kind_of(layer):
    """Returns the class name of a layer or operation of Keras; None for a user's class, also a subclass."""
    return type(layer).__name__ if is_keras_class(type(layer)) else None


def function_name(thing):
    """The name of a function in a graph, such as `Relu6` or, in tf_keras, `relu6`; None for a layer.

    It is empty for a function of the user's, and for one that is not in TensorFlow's public API.
    """
    if not is_layer(thing):
        return kind_of(thing) or ""
    if kind_of(thing) not in ("TFOpLambda", "SlicingOpLambda"):
        return None
    *modules, name = (thing.symbol or "").removeprefix("compat.v1.").split(".")
    return name if modules in ([], ["math"], ["nn"], ["__operators__"]) else ""


def function_of(thing):
    """The Python function that a function in a graph calls."""
    return thing.function if is_layer(thing) else thing.call


def is_model(thing):
    return isinstance(thing, keras.Model | tf_keras.Model)


def is_sequential(model):
    return isinstance(model, keras.Sequential | tf_keras.Sequential)


def is_variable(thing):
    """Whether a thing is a variable of either Keras."""
    # Not by keras.Variable: in older releases, the variables of layers are not instances of it.
    return isinstance(thing, tf.Variable) or (hasattr(thing, "assign") and hasattr(thing, "value"))


def weights_of(layer):
    """Returns the weights of a layer or model, without the vocabularies that tf_keras lists among them."""
    return [weight for weight in getattr(layer, "weights", ()) if is_variable(weight)]


def attribute_of(layer, variable):
    """Returns the name under which a layer holds a variable, such as `kernel` or `cells.0.kernel`."""
    names = [name for name, held in _variables_in(layer, set()) if held is variable]
    if not names:
        return f"weights.{[id(weight) for weight in layer.weights].index(id(variable))}"
    return min(names, key=lambda name: (name.count("_"), name.count("."), name))


def _variables_in(owner, visited):
    """Yields `(name, variable)` of what a layer or list holds, inner layers included, each layer once."""
    if id(owner) in visited:
        return
    visited.add(id(owner))
    items = enumerate(owner) if isinstance(owner, list | tuple) else vars(owner).items()
    for name, value in list(items):
        if is_variable(value):
            yield str(name), value
        elif is_layer(value) or isinstance(value, list | tuple):
            yield from ((f"{name}.{inner}", held) for inner, held in _variables_in(value, visited))


def tensorflow_variable(variable):
    """Returns the variable that a tf.GradientTape watches."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def keras_of(layer):
    """Returns the module, `keras` or `tf_keras`, that owns a layer or model.

    Raises:
        ValueError: If Keras 3 owns it and does not run on the TensorFlow backend.
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
    """Clears what both Kerases keep of earlier models, such as names and memory, and sets all seeds."""
    for module in (tf_keras, keras):  # Keras 3 also collects garbage, which takes half a second
        module.backend.clear_session()
    set_seeds(seed)


def set_seeds(seed):
    """Sets the random seeds of both Kerases, TensorFlow, NumPy, and Python."""
    for module in (keras, tf_keras):
        module.utils.set_random_seed(seed)
