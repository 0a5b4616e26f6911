"""What a model is called on, its compiled inference, and its files."""

import dataclasses
import functools
import inspect
import json
import re
import zipfile

import numpy as np

from tfap.keras_compat import lazy, private
from tfap.keras_compat.graphs import is_built, is_graph_model
from tfap.keras_compat.inputs import listed
from tfap.keras_compat.owner import backend_name, is_keras3, keras_of, to_numpy, tree_of


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Describes one input of a model.

    Attributes:
        shape: Tuple of integers, with None for undefined dimensions.
        dtype: NumPy dtype; that of objects for strings.
        name: String. Name of the input, without characters that SavedModels do not allow. None if unknown.
    """

    shape: tuple
    dtype: np.dtype
    name: str | None = None


def call_signature(model, batch_size=None):
    """The structure that a model is called on, with an `InputSpec` for every input.

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
    return tree_of(model).map_structure(lambda tensor: _spec_of(tensor, batch_size), structure)


def fixed_batch_size(model):
    """The batch size that the inputs of a Sequential or Functional model are defined with, or None.

    A Sequential model without an Input has that of the first batch it was called on, so a model of a fixed
    batch size may run with any.
    """
    structure = _input_structure(model) if is_graph_model(model) else None
    tensors = tree_of(model).flatten(structure)
    sizes = {tensor.shape[0] for tensor in tensors if tensor is not None} - {None}
    return sizes.pop() if len(sizes) == 1 else None


def inputs_of(model):
    """An `InputSpec` for each input, in order."""
    return tree_of(model).flatten(call_signature(model))


def packed_inputs(model, arrays):
    """Arrays, one for each input, in the structure that a model is called on."""
    return tree_of(model).pack_sequence_as(_input_structure(model), arrays)


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
    return InputSpec((batch_size, *tensor.shape[1:]), _numpy_dtype(tensor.dtype), name)


def _numpy_dtype(dtype):
    dtype = getattr(dtype, "as_numpy_dtype", dtype)
    return np.dtype(object if dtype == "string" else dtype)


def _input_structure(model):
    if is_graph_model(model):
        if not is_built(model):
            return None
        return private.input_structure(model)
    if is_keras3(model):
        shape = (model.get_build_config() or {}).get("input_shape")
        flat = isinstance(shape, list | tuple) and all(isinstance(n, int | None) for n in shape)
        return InputSpec(tuple(shape), _numpy_dtype(model.input_dtype)) if flat else None
    arguments, keywords = model.save_spec() or ((), {})
    return arguments[0] if len(arguments) == 1 and not keywords else None


# -- inference ---------------------------------------------------------------------------------------


def inference(model):
    """Compiles a model for inference, for all batch sizes or, if that fails, for that of its inputs.

    Args:
        model: A built model of either Keras. It is not copied, so later changes of its weights take effect.

    Returns:
        `(function, batch size)`. The function takes a list of arrays, one per input, and returns a list of
        NumPy arrays, one per output. The batch size is None if it may be any.
    """
    compiled = {"tensorflow": _tensorflow_inference, "jax": _jax_inference, "torch": _torch_inference}
    run, batch_size = compiled[backend_name(model)](model)
    tree = tree_of(model)
    return lambda arrays: list(map(to_numpy, tree.flatten(run(packed_inputs(model, arrays))))), batch_size


def _tensorflow_inference(model):
    function, fixed = tensorflow_function(model), fixed_batch_size(model)
    if fixed is not None:
        try:
            function.get_concrete_function()
        except Exception:  # of the user's layers
            return tensorflow_function(model, fixed), fixed
    return function, None


def _jax_inference(model):
    import jax

    if any(spec.dtype == object for spec in inputs_of(model)):  # JAX has no strings
        return _in_inference(model), None

    def call(trainable, untrained, inputs):
        return model.stateless_call(trainable, untrained, inputs, **_not_training(model))[0]

    compiled = jax.jit(call)

    def run(inputs):
        return compiled(_values(model.trainable_variables), _values(model.non_trainable_variables), inputs)

    return run, _required_batch_size(model, run)


def _values(variables):
    return [variable.value for variable in variables]


def _torch_inference(model):
    import torch

    run = torch.no_grad()(_in_inference(model))
    return run, _required_batch_size(model, run)


def _required_batch_size(model, run):
    """Returns the batch size of a model's inputs if it does not run with another one."""
    fixed = fixed_batch_size(model)
    if fixed is None or any(None in spec.shape[1:] for spec in inputs_of(model)):
        return fixed
    try:
        run(
            packed_inputs(
                model, [np.zeros((fixed + 1, *spec.shape[1:]), spec.dtype) for spec in inputs_of(model)]
            )
        )
    except Exception:  # of the user's layers
        return fixed
    return None


def _in_inference(model):
    """The model as a function in inference mode: layers such as RandomFlip train where nothing is said.

    A partial, since TensorFlow warns of retracing where many functions have the same code.
    """
    return functools.partial(model.__call__, **_not_training(model))


def _not_training(model):
    return {"training": False} if "training" in inspect.signature(model.call).parameters else {}


# -- TensorFlow --------------------------------------------------------------------------------------


def tensor_specs(model, batch_size=None):
    """The structure that a model is called on, with a `tf.TensorSpec` for every input."""
    tf = lazy.tensorflow
    return tree_of(model).map_structure(
        lambda spec: tf.TensorSpec(spec.shape, tf.as_dtype(spec.dtype), spec.name),
        call_signature(model, batch_size),
    )


def tensorflow_function(model, batch_size=None):
    """The model's outputs as a `tf.function` of `tensor_specs(model, batch_size)`."""
    autograph = not is_keras3(model)  # as each Keras does for its own exports
    signature = [tensor_specs(model, batch_size)]
    return lazy.tensorflow.function(_in_inference(model), input_signature=signature, autograph=autograph)


def write_saved_model(model, path, batch_size=None):
    """Writes a SavedModel with the endpoint `serve`, a function of `tensor_specs(model, batch_size)`."""
    lazy.imported("tensorflow")
    archive = keras_of(model).export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", _in_inference(model), [tensor_specs(model, batch_size)])
    archive.write_out(str(path))


# -- files -------------------------------------------------------------------------------------------


def load_model(path, safe_mode=True):
    """The model of a `.keras` file, not compiled, in the Keras that wrote it.

    Args:
        path: Path of the file.
        safe_mode: Whether to load no code, as that of a Lambda layer.

    Raises:
        ValueError: the file is another one, or not whole, or holds code.
    """
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is no .keras file, or not whole: {error}") from error
    module = lazy.imported("tf_keras" if version.startswith("2.") else "keras")
    return module.models.load_model(path, compile=False, safe_mode=safe_mode)
