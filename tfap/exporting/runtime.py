"""One interface to all runtimes: a model is a function of NumPy arrays."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfap import keras_compat
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Maps real values to the integers of a quantized tensor: `real = scale * (integer - zero_point)`.

    Attributes:
        scale: Float > 0.
        zero_point: Integer. The integer of the real value 0.
        dtype: NumPy dtype of the integers.
    """

    scale: float
    zero_point: int
    dtype: np.dtype

    def quantize(self, array: np.ndarray) -> np.ndarray:
        """Converts real values to integers, rounded and clipped to the range of the dtype.

        Args:
            array: Array of floats.

        Returns:
            Array of `dtype`.

        Example:

        >>> Quantization(0.5, -1, np.dtype("int8")).quantize(np.array([0.0, 1.1, 1000.0]))
        array([ -1,   1, 127], dtype=int8)
        """
        limits = np.iinfo(self.dtype)
        integers = np.round(np.asarray(array, "float64") / self.scale) + self.zero_point
        return np.clip(integers, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, array: np.ndarray) -> np.ndarray:
        """Converts integers to real values.

        Args:
            array: Array of integers.

        Returns:
            Array of float32.

        Example:

        >>> Quantization(0.5, -1, np.dtype("int8")).dequantize(np.array([-1, 1], "int8"))
        array([0., 1.], dtype=float32)
        """
        return (self.scale * (array.astype("float64") - self.zero_point)).astype("float32")


@dataclasses.dataclass(frozen=True)
class Input:
    """Describes an input of a model.

    Attributes:
        name: String. Name of the input.
        shape: Tuple of integers, with None for undefined dimensions.
        dtype: NumPy dtype. float32 if the input is quantized, because it takes real values.
        quantization: `Quantization` of the values in the file. None if the input is not quantized.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype
    quantization: Quantization | None = None

    def checked(self, array: npt.ArrayLike, batch_size: int | None = None) -> np.ndarray:
        """Converts an array to the dtype of the input, and checks its shape.

        Args:
            array: Array, of any batch size if the first dimension is undefined.
            batch_size: Integer. The array may have a multiple of this size. None for no multiples.

        Returns:
            A NumPy array.

        Raises:
            ValueError: If the shape does not fit the input, or the values do not fit its dtype.
        """
        array = self.converted(array)
        expected = self.shape if batch_size is None else (None, *self.shape[1:])
        fits = len(array.shape) == len(expected) and all(
            limit in (None, size) for size, limit in zip(array.shape, expected)
        )
        if not fits:
            raise ValueError(
                f"The input '{self.name}' received an array of shape {array.shape}; expected {self.shape}, "
                f"where None is any size."
            )
        if batch_size is not None and (len(array) == 0 or len(array) % batch_size):
            raise ValueError(
                f"The input '{self.name}' received {len(array)} samples; expected a multiple of its fixed "
                f"batch size, {batch_size}: add samples, and drop their outputs."
            )
        return array

    def converted(self, array: npt.ArrayLike) -> np.ndarray:
        """Converts an array to the dtype of the input without changing its values.

        Args:
            array: Array.

        Returns:
            A NumPy array. Floats are rounded to the precision of a float dtype.

        Raises:
            ValueError: If the dtype is an integer type that cannot hold the values, or if the input is
                quantized and the values are integers, which may be quantized already.
        """
        array = np.asarray(array)
        if self.quantization is not None and array.dtype.kind in "iub":
            raise ValueError(
                f"The input '{self.name}' is quantized: received integers ({array.dtype}), which may be "
                f"quantized already; expected real values, as the original model takes. Pass "
                f"x.astype('float32'), or for quantized integers ({self.quantization.dtype}) "
                f"{self.quantization.scale:g} * (x.astype('float32') - {self.quantization.zero_point})."
            )
        with np.errstate(invalid="ignore"):  # of NaN, which is not equal below
            converted = array.astype(self.dtype, copy=False)
        if self.dtype.kind in "iub" and array.dtype.kind in "iuf" and not np.array_equal(converted, array):
            raise ValueError(
                f"The input '{self.name}' takes {self.dtype}: received {array.dtype} values that it cannot "
                f"hold. Scale and round them as for the training of the model."
            )
        return converted


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Runs a Keras model or an exported file as a function of NumPy arrays.

    Quantized inputs and outputs are converted: the arrays hold real values.

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
            *arrays: One array per input, of any batch size, or of a multiple of `batch_size`.

        Returns:
            List of NumPy arrays, one per output, in the model's order.

        Raises:
            ValueError: If the number, the shapes or the values of the arrays do not fit the inputs.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(entry.name for entry in self.inputs)
            raise ValueError(f"Received {len(arrays)} arrays; expected {len(self.inputs)}: {names}.")
        size = self.batch_size
        checked = [entry.checked(array, size) for entry, array in zip(self.inputs, arrays)]
        if size is None or len(checked[0]) == size:
            return self._outputs(checked)
        pieces = [
            self._outputs([array[start : start + size] for array in checked])
            for start in range(0, len(checked[0]), size)
        ]
        return [_joined(outputs, size) for outputs in zip(*pieces)]

    @property
    def batch_size(self) -> int | None:
        """Integer. The fixed batch size of the inputs. None if they take any. Multiples run in pieces."""
        sizes = {entry.shape[0] if entry.shape else None for entry in self.inputs} - {None}
        return sizes.pop() if len(sizes) == 1 else None

    def padded(self, *arrays: npt.ArrayLike) -> list[np.ndarray]:
        """Runs the model on any number of samples, also if its batch size is fixed.

        Args:
            *arrays: One array per input. Their first samples fill the last batch.

        Returns:
            List of NumPy arrays, one per output, without the outputs of the samples that fill the batch.
        """
        size, count = self.batch_size, len(np.asarray(arrays[0]))
        if size is None or count == 0 or count % size == 0:
            return self(*arrays)
        filled = np.arange(-(-count // size) * size) % count
        return [output[:count] for output in self(*(np.asarray(array)[filled] for array in arrays))]

    def _outputs(self, arrays):
        return [np.asarray(output) for output in self._run(arrays)]


def _joined(outputs, size):
    if outputs[0].ndim == 0:
        raise ValueError(
            f"An output has no batch dimension, so batches of the fixed size {size} cannot be joined: pass "
            f"{size} samples."
        )
    return np.concatenate(outputs)


def of_model(model: Model) -> Runtime:
    """Wraps a Keras model as a `Runtime`, compiled once for all batch sizes.

    If the model cannot be compiled for all of them, it is compiled for its fixed batch size.

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
    specs = keras_compat.inputs_of(model)
    function, batch_size = keras_compat.inference(model)
    inputs = [
        Input(spec.name or f"input_{index}", (batch_size, *spec.shape[1:]), spec.dtype)
        for index, spec in enumerate(specs)
    ]
    return Runtime("keras", inputs, function)


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
