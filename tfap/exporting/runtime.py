"""One way to run a model, whatever runs it: NumPy arrays in, NumPy arrays out."""

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfap import keras_compat


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Attributes:
        name: Name of the input.
        shape: Tuple of sizes, None for undefined dimensions.
        dtype: NumPy dtype.
    """

    name: str
    shape: tuple
    dtype: np.dtype

    def checked(self, array):
        """The array in this input's dtype.

        Raises:
            ValueError: If its shape does not fit.
        """
        array = np.asarray(array, self.dtype)
        fits = len(array.shape) == len(self.shape) and all(
            expected in (None, size) for size, expected in zip(array.shape, self.shape)
        )
        if not fits:
            raise ValueError(
                f"The input '{self.name}' is an array of shape {array.shape}; expected {self.shape}, where "
                f"None is any size."
            )
        return array


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A model, live or exported, as a function of NumPy arrays.

    Attributes:
        format: "saved_model", "keras", "tflite" or "onnx".
        inputs: List of `Input`s in the model's order.
    """

    format: str
    inputs: list[Input]
    _run: Callable = dataclasses.field(repr=False)

    def __call__(self, *arrays):
        """Runs the model.

        Args:
            *arrays: One array per input, of any batch size.

        Returns:
            The list of outputs, in the model's order.

        Raises:
            ValueError: If the number or the shapes of the arrays do not fit the inputs.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(entry.name for entry in self.inputs)
            raise ValueError(f"Received {len(arrays)} arrays; expected {len(self.inputs)}: {names}.")
        checked = [entry.checked(array) for entry, array in zip(self.inputs, arrays)]
        return [np.asarray(output) for output in self._run(checked)]


def of_model(model):
    """Wraps a live Keras model as a `Runtime`, compiled once for all batch sizes.

    Args:
        model: A built model of either Keras. It stays linked: new weights give new outputs.

    Returns:
        A `Runtime`.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> run = of_model(model)
    >>> run([[1.0, 2.0], [3.0, 4.0]])
    [array([[3.], [7.]], dtype=float32)]
    """
    structure, function = keras_compat.call_signature(model), keras_compat.inference(model)
    return of_function("keras", [structure], function)


def of_function(format, arguments, function):
    """Wraps a TensorFlow function of positional arguments.

    Args:
        format: Name of the format that it comes from.
        arguments: List of structures of `tf.TensorSpec`s, one per argument.
        function: The function.

    Returns:
        A `Runtime`.
    """
    specs = tf.nest.flatten(arguments)
    inputs = [
        Input(spec.name or f"input_{index}", tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))
        for index, spec in enumerate(specs)
    ]

    def run(arrays):
        return tf.nest.flatten(function(*tf.nest.pack_sequence_as(arguments, arrays)))

    return Runtime(format, inputs, run)


def imported(module, extra):
    """Imports an optional module.

    Args:
        module: Dotted name of the module.
        extra: The extra of tfap that installs it.

    Raises:
        ImportError: If it is not installed; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{package} is not installed: pip install 'tfap[{extra}]'") from error
