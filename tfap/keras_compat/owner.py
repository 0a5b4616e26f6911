"""Keras 3 and tf_keras (Keras 2): which one owns an object."""

import contextlib

import keras
import numpy as np

from tfap.keras_compat import lazy

ops, tree = keras.ops, keras.tree  # of Keras 3; `tree` also for structures of plain data
_LAYER, _MODEL, _SEQUENTIAL = "tf_keras.layers.Layer", "tf_keras.Model", "tf_keras.Sequential"


class Callback(keras.callbacks.Callback):
    """Base class of callbacks that run in the `fit()` of either Keras."""

    # Without it, tf_keras copies the logs of every batch to the host before it calls a callback.
    _supports_tf_logs = True


class Regularizer(keras.regularizers.Regularizer):
    """Base class of regularizers for layers of either Keras."""


def _inherit_from_both(tf_keras):
    """Makes both classes, and their subclasses, those of tf_keras too."""
    Callback.__bases__ = keras.callbacks.Callback, tf_keras.callbacks.Callback
    Regularizer.__bases__ = keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer


lazy.when_loaded("tf_keras", _inherit_from_both)


def is_layer(thing):
    return isinstance(thing, keras.layers.Layer) or lazy.is_instance(thing, _LAYER)


def is_layer_class(thing):
    return isinstance(thing, type) and (
        issubclass(thing, keras.layers.Layer) or lazy.is_subclass(thing, _LAYER)
    )


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
    return name if modules in ([], ["linalg"], ["math"], ["nn"], ["__operators__"]) else ""


def function_of(thing):
    """The Python function that a function in a graph calls."""
    return thing.function if is_layer(thing) else thing.call


def is_model(thing):
    return isinstance(thing, keras.Model) or lazy.is_instance(thing, _MODEL)


def is_sequential(model):
    return isinstance(model, keras.Sequential) or lazy.is_instance(model, _SEQUENTIAL)


def is_variable(thing):
    """Whether a thing is a variable of either Keras."""
    # Not by keras.Variable: in older releases, the variables of layers are not instances of it.
    return hasattr(thing, "assign") and hasattr(thing, "value")


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
    return variable if lazy.is_instance(variable, "tensorflow.Variable") else variable.value


def keras_of(layer):
    """Returns the module, `keras` or `tf_keras`, that owns a layer, model or operation."""
    return lazy.imported("tf_keras") if lazy.is_instance(layer, _LAYER) else keras


def backend_name(layer):
    """Returns the backend that a layer or model runs on: "tensorflow", "jax" or "torch"."""
    return "tensorflow" if lazy.is_instance(layer, _LAYER) else keras.config.backend()


def tree_of(layer):
    """Returns the module with `flatten`, `map_structure` and `pack_sequence_as` for a layer or model."""
    return lazy.imported("tensorflow").nest if lazy.is_instance(layer, _LAYER) else keras.tree


def to_numpy(value):
    """Converts a tensor or variable of either Keras, on any backend and device, to a NumPy array."""
    if isinstance(value, np.ndarray) or lazy.is_instance(value, "tensorflow.Tensor", "tensorflow.Variable"):
        return np.asarray(value)
    return keras.ops.convert_to_numpy(value)


@contextlib.contextmanager
def device(name):
    """Returns a context in which TensorFlow and JAX compute on a device, such as "cpu:0"."""
    with contextlib.ExitStack() as stack:
        if keras.config.backend() == "jax":
            with contextlib.suppress(RuntimeError):  # JAX may be limited to GPUs
                stack.enter_context(keras.device(name))
        if lazy.loaded("tensorflow"):
            stack.enter_context(lazy.tensorflow.device(name))
        yield


def is_infinite(data):
    """Whether data is a `tf.data.Dataset` without end."""
    if not lazy.is_instance(data, "tensorflow.data.Dataset"):
        return False
    return bool(data.cardinality() == lazy.tensorflow.data.INFINITE_CARDINALITY)


def is_array(thing):
    """Whether a thing is a NumPy array or number, or a tensor of any backend that has values."""
    if lazy.is_instance(thing, "tensorflow.Tensor"):
        return hasattr(thing, "numpy")
    return isinstance(thing, np.ndarray | np.generic) or (
        keras.config.backend() != "tensorflow" and keras.ops.is_tensor(thing)
    )


def float_tensor(layer, values):
    """Converts values to a tensor that a layer or function takes, in float64 or, with JAX, float32."""
    if lazy.is_instance(layer, _LAYER):
        return lazy.tensorflow.constant(values, "float64")
    return keras.ops.convert_to_tensor(values, "float32" if keras.config.backend() == "jax" else "float64")


def start_afresh(seed):
    """Clears what both Kerases keep of earlier models, such as names and memory, and sets all seeds."""
    for module in reversed(_kerases()):  # Keras 3 also collects garbage, which takes half a second
        module.backend.clear_session()
    set_seeds(seed)


def set_seeds(seed):
    """Sets the random seeds of both Kerases, of their backends, NumPy, and Python."""
    for module in _kerases():
        module.utils.set_random_seed(seed)


def _kerases():
    """Returns Keras 3 and tf_keras; without tf_keras in a process that has no use for TensorFlow."""
    for_tensorflow = keras.config.backend() == "tensorflow" and lazy.is_installed("tf_keras")
    return [keras, lazy.imported("tf_keras")] if lazy.loaded("tf_keras") or for_tensorflow else [keras]
