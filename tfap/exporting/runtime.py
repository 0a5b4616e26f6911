"""One interface to all runtimes: a model is a function of NumPy arrays."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfap import keras_compat
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class Input:
    """Describes an input of a model.

    Attributes:
        name: String. Name of the input.
        shape: Tuple of integers, with None for undefined dimensions.
        dtype: NumPy dtype.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype

    def checked(self, array: npt.ArrayLike) -> np.ndarray:
        """Converts an array to the dtype of the input, and checks its shape.

        Args:
            array: Array, of any batch size if the first dimension is undefined.

        Returns:
            A NumPy array.

        Raises:
            ValueError: If the shape does not fit the input.
        """
        array = np.asarray(array, self.dtype)
        fits = len(array.shape) == len(self.shape) and all(
            expected in (None, size) for size, expected in zip(array.shape, self.shape)
        )
        if not fits:
            raise ValueError(
                f"The input '{self.name}' received an array of shape {array.shape}; expected {self.shape}, "
                f"where None is any size."
            )
        return array


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Runs a Keras model or an exported file as a function of NumPy arrays.

    Attributes:
        format: String. "saved_model", "keras", "tflite" or "onnx".
        inputs: List of `Input`s, in the model's order.
    """

    format: str
    inputs: list[Input]
    _run: Callable[[list[np.ndarray]], Sequence[Any]] = dataclasses.field(repr=False)

    def __call__(self, *arrays: npt.ArrayLike) -> list[np.ndarray]:
        """Runs the model.

        Args:
            *arrays: One array per input, of any batch size.

        Returns:
            List of NumPy arrays, one per output, in the model's order.

        Raises:
            ValueError: If the number or the shapes of the arrays do not fit the inputs.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(entry.name for entry in self.inputs)
            raise ValueError(f"Received {len(arrays)} arrays; expected {len(self.inputs)}: {names}.")
        checked = [entry.checked(array) for entry, array in zip(self.inputs, arrays)]
        return [np.asarray(output) for output in self._run(checked)]


def of_model(model: Model) -> Runtime:
    """Wraps a Keras model as a `Runtime`, compiled once for all batch sizes.

    Args:
        model: A built model of either Keras. It is not copied, so later changes of its weights take effect.

    Returns:
        A `Runtime`.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> run = of_model(model)
    >>> run([[1.0, 2.0], [3.0, 4.0]])
    [array([[3.], [7.]], dtype=float32)]
    """
    structure, function = keras_compat.call_signature(model), keras_compat.inference(model)
    return of_function("keras", [structure], function)


def of_function(format: str, arguments: Sequence[Any], function: Callable[..., Any]) -> Runtime:
    """Wraps a TensorFlow function of positional arguments as a `Runtime`.

    Args:
        format: String. Name of the format that the function was loaded from.
        arguments: List of structures of `tf.TensorSpec`s, one per argument.
        function: Function that returns a structure of tensors.

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


def imported(module: str, extra: str | None) -> Any:
    """Imports an optional module.

    Args:
        module: String. Dotted name of the module.
        extra: String. Extra of tfap that installs the module.

    Returns:
        The module.

    Raises:
        ImportError: If the module is not installed. The message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{package} is not installed: pip install 'tfap[{extra}]'") from error
