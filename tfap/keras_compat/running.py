"""What a model is called on, and its files."""

import functools
import inspect
import json
import re
import zipfile

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tfap.keras_compat import private
from tfap.keras_compat.graphs import is_built, is_graph_model
from tfap.keras_compat.inputs import listed
from tfap.keras_compat.owner import is_keras3, keras_of


def call_signature(model, batch_size=None):
    """The structure that a model is called on, with a `tf.TensorSpec` for every input.

    Args:
        model: A built model of either Keras.
        batch_size: Integer. Batch size of the specs; None for any.

    Raises:
        ValueError: the model has not been built, or takes more than one argument.
    """
    structure = _input_structure(model)
    if structure is None:
        raise ValueError(
            f"The inputs of the model '{model.name}' are not known. Expected a model that is built and is "
            f"called on one argument (which may hold several inputs): call it on data first."
        )
    return tf.nest.map_structure(lambda tensor: _spec_of(tensor, batch_size), structure)


def fixed_batch_size(model):
    """The batch size that the inputs of a Sequential or Functional model are defined with, or None.

    A Sequential model without an Input has that of the first batch it was called on, so a model of a fixed
    batch size may run with any.
    """
    structure = _input_structure(model) if is_graph_model(model) else None
    sizes = {tensor.shape[0] for tensor in tf.nest.flatten(structure) if tensor is not None} - {None}
    return sizes.pop() if len(sizes) == 1 else None


def inputs_of(model):
    """A `tf.TensorSpec` for each input, in order."""
    return tf.nest.flatten(call_signature(model))


def packed_inputs(model, arrays):
    """Arrays, one for each input, in the structure that a model is called on."""
    return tf.nest.pack_sequence_as(_input_structure(model), arrays)


def input_arrays(model, data):
    """A model's inputs as a list of arrays in its order; `data` is one array, or a list or dict of them.

    Raises:
        TypeError: If `data` is something else.
    """
    arrays = [np.asarray(array) for array in listed(data, [spec.name for spec in inputs_of(model)])]
    if any(array.ndim == 0 for array in arrays):
        raise TypeError(
            f"data must be an array, a list or dict of arrays, or (x, y): received {type(data).__name__}."
        )
    return arrays


def _spec_of(tensor, batch_size):
    layer = private.producer_of(tensor) or tensor  # the input layer, whose name the user knows
    name = layer.name and re.sub(r"[^\w.-]", "_", layer.name)  # as SavedModels name their inputs
    return tf.TensorSpec((batch_size, *tensor.shape[1:]), tensor.dtype, name)


def _input_structure(model):
    if is_graph_model(model):
        if not is_built(model):
            return None
        return private.input_structure(model)
    if is_keras3(model):
        shape = (model.get_build_config() or {}).get("input_shape")
        flat = isinstance(shape, list | tuple) and all(isinstance(n, int | None) for n in shape)
        return tf.TensorSpec(shape, model.input_dtype) if flat else None
    arguments, keywords = model.save_spec() or ((), {})
    return arguments[0] if len(arguments) == 1 and not keywords else None


def inference(model, batch_size=None):
    """The model's outputs as a `tf.function` of `call_signature(model, batch_size)`."""
    autograph = not is_keras3(model)  # as each Keras does for its own exports
    signature = [call_signature(model, batch_size)]
    return tf.function(_in_inference(model), input_signature=signature, autograph=autograph)


def _in_inference(model):
    """The model as a function in inference mode: layers such as RandomFlip train where nothing is said.

    A partial, since TensorFlow warns of retracing where many functions have the same code.
    """
    takes_training = "training" in inspect.signature(model.call).parameters
    return functools.partial(model.__call__, **({"training": False} if takes_training else {}))


def write_saved_model(model, path, batch_size=None):
    """Writes a SavedModel with the endpoint `serve`, a function of `call_signature(model, batch_size)`."""
    archive = keras_of(model).export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", _in_inference(model), [call_signature(model, batch_size)])
    archive.write_out(str(path))


def load_model(path):
    """The model of a `.keras` file, not compiled, in the Keras that wrote it. Loads no code.

    Raises:
        ValueError: the file is another one, or not whole, or holds code.
    """
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is no .keras file, or not whole: {error}") from error
    world = tf_keras if version.startswith("2.") else keras
    return world.models.load_model(path, compile=False, safe_mode=True)
