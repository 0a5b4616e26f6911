"""The table of file formats: how to write, run and read a model in each of them.

To add a format, write a `Format` with three functions and add it to `FORMATS`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from tfap import keras_compat
from tfap.exporting import onnx, runtime, tflite
from tfap.exporting.calibration import CALIBRATED, Settings
from tfap.exporting.runtime import Runtime
from tfap.keras_compat.lazy import tensorflow as tf
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class Format:
    """Describes a file format.

    Attributes:
        write: Function of `(model, path, settings, batch_size)` that writes the file. A `batch_size` of None
            is any.
        load: Function of `(path, threads)` that returns a `Runtime`.
        weights: Function of the path that returns the list of arrays in the file, or None if it cannot read
            them.
        suffix: String. Suffix of the file name, or "" for a folder.
        quantizations: Tuple of strings. Valid values of `quantize` besides None.
        backends: Tuple of strings. Backends of Keras on which `write` works. For others, a process with
            TensorFlow writes the file.
        tensorflow_first: Boolean. Whether that process is tried first on the others too. The LiteRT converter
            fuses biases and activations into the operations of TensorFlow's layers, and not into JAX's.
        quantized_inputs: Tuple of those values of `quantize` with which inputs and outputs can be integers.
        sparse: Boolean. Whether kernels can be sparse.
        modules: Tuple of strings. Optional modules that running the file needs.
        extra: String. Extra of tfap that installs the modules.
    """

    write: Callable[[Model, pathlib.Path, Settings, int | None], None]
    load: Callable[[pathlib.Path, int | None], Runtime]
    weights: Callable[[pathlib.Path], Sequence[np.ndarray] | None]
    suffix: str = ""
    quantizations: tuple[str, ...] = ()
    quantized_inputs: tuple[str, ...] = ()
    sparse: bool = False
    modules: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("tensorflow", "jax")
    tensorflow_first: bool = False
    extra: str | None = None

    @property
    def needs_tensorflow(self) -> bool:
        """Whether writing the file needs TensorFlow."""
        return "torch" not in self.backends

    def require(self) -> None:
        """Checks that the modules that run the file are installed.

        Raises:
            ImportError: If one is not installed. The message has the pip command.
        """
        for module in self.modules:
            runtime.imported(module, self.extra)


def load_runtime(model: Model | str | os.PathLike[str], threads: int | None = None) -> Runtime:
    """Loads a Keras model or an exported file as a function of NumPy arrays.

    Args:
        model: A built model of either Keras, or the path of an exported one: a SavedModel folder with the
            endpoint `serve`, as `tfap.export` and both Kerases write it, or a `.keras`, `.tflite` or `.onnx`
            file.
        threads: Integer >= 1. Threads per operation in LiteRT and ONNX Runtime. None for the default of the
            runtime. It has no effect on the other formats, because TensorFlow has one setting per process
            (`tf.config.threading`).

    Returns:
        A `tfap.exporting.runtime.Runtime`: a function of one NumPy array per input, of any batch size, that
        returns the list of outputs. Its attribute `inputs` has their names, shapes and dtypes. A file of a
        fixed batch size takes multiples of it. A `.tflite` file with quantized inputs or outputs takes and
        returns real values, and `inputs` has its scales.

    Raises:
        TypeError: If `model` is neither a Keras model nor a path.
        FileNotFoundError: If nothing exists at the path.
        ValueError: If the path has an unknown format.
        ImportError: If the runtime is not installed. The message has the pip command.

    Example:

    >>> import keras, numpy, tempfile, tfap
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = tfap.export(model, f"{folder}/model.tflite", format="tflite")
    ...     outputs = tfap.load_runtime(path)(numpy.zeros((5, 3)))
    >>> [output.shape for output in outputs]
    [(5, 2)]
    """
    if keras_compat.is_model(model):
        return runtime.of_model(model)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"Expected a Keras model or a path: received {model!r}.")
    path = pathlib.Path(model)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at '{path}'.")
    format = _format_of(path)
    format.require()
    return format.load(path, threads)


def weights_in(path: str | os.PathLike[str]) -> Sequence[np.ndarray] | None:
    """Reads the weights of an exported model.

    Args:
        path: Path of a SavedModel folder, or of a `.tflite` or `.onnx` file.

    Returns:
        List of NumPy arrays. None for other formats, and for an `.onnx` file if onnx is not installed.
    """
    path = pathlib.Path(path)
    by_suffix = {format.suffix: format for format in FORMATS.values()}
    format = by_suffix.get("" if path.is_dir() else path.suffix)
    return format.weights(path) if format else None


def _format_of(path):
    is_saved_model = (path / "saved_model.pb").exists()
    for format in FORMATS.values():
        if is_saved_model if not format.suffix else path.suffix == format.suffix and path.is_file():
            return format
    raise ValueError(
        f"'{path}' has an unknown format. Expected a SavedModel folder, or a .keras, .tflite or .onnx file."
    )


def _write_saved_model(model, path, settings, batch_size):
    keras_compat.write_saved_model(model, path, batch_size)


def _load_saved_model(path, threads):
    loaded = tf.saved_model.load(str(path))
    if not hasattr(loaded, "serve"):
        raise ValueError(f"The SavedModel '{path}' has no endpoint 'serve'. Write it with tfap.export.")
    arguments, _ = loaded.serve.concrete_functions[0].structured_input_signature
    inputs = [
        runtime.Input(spec.name or f"input_{index}", tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))
        for index, spec in enumerate(tf.nest.flatten(arguments))
    ]

    def run(arrays):  # holds `loaded`, which owns the variables
        return tf.nest.flatten(loaded.serve(*tf.nest.pack_sequence_as(arguments, arrays)))

    return runtime.Runtime("saved_model", inputs, run)


def _saved_model_weights(path):
    variables = getattr(tf.saved_model.load(str(path)), "variables", None)
    return None if variables is None else [variable.numpy() for variable in variables]


def _write_keras(model, path, settings, batch_size):
    model.save(path)


def _load_keras(path, threads):
    return runtime.of_model(keras_compat.load_model(path))


def _no_weights(path):
    return None  # a .keras file loads as a model, which has `get_weights`


FORMATS: dict[str, Format] = {
    "saved_model": Format(_write_saved_model, _load_saved_model, _saved_model_weights),
    "keras": Format(
        _write_keras, _load_keras, _no_weights, ".keras", backends=("tensorflow", "jax", "torch")
    ),
    "tflite": Format(
        tflite.write,
        tflite.load,
        tflite.weights,
        ".tflite",
        quantizations=("dynamic_range", "float16", *CALIBRATED),
        quantized_inputs=CALIBRATED,
        sparse=True,
        modules=("ai_edge_litert.interpreter",),
        tensorflow_first=True,
        extra="tflite",
    ),
    "onnx": Format(
        onnx.write,
        onnx.load,
        onnx.weights,
        ".onnx",
        backends=("tensorflow",),
        quantizations=("int8",),
        modules=("onnxruntime",),
        extra="onnx",
    ),
}
