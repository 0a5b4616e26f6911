"""The table of file formats: how a model is written, run and read in each.

A new format is a `Format` with three functions and an entry in `FORMATS`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import tensorflow as tf

from tfap import keras_compat
from tfap.exporting import onnx, runtime, tflite


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        write: Function of `(model, path, quantize)` that writes the file.
        load: Function of `(path, threads)` that returns a `runtime.Runtime`.
        weights: Function of the path that returns the arrays in the file, or None if they cannot be read.
        suffix: Ending of the file name; "" for a folder.
        quantizations: Values of `quantize` that it takes besides None.
        modules: Optional modules that running the file needs.
        extra: The extra of tfap that installs them.
    """

    write: Callable
    load: Callable
    weights: Callable
    suffix: str = ""
    quantizations: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    extra: str | None = None

    def require(self):
        """Raises an ImportError with the pip command unless everything that runs the file is installed."""
        for module in self.modules:
            runtime.imported(module, self.extra)


def load_runtime(model, threads=None):
    """Loads a model, live or exported, as a function of NumPy arrays.

    Args:
        model: A built model of either Keras, or the path of an exported one: a SavedModel folder with the
            endpoint `serve`, as `tfap.export` and both Kerases write it, or a `.keras`, `.tflite` or `.onnx`
            file.
        threads: Integer. Threads per operation in LiteRT and ONNX Runtime; None is the runtime's default.
            TensorFlow, which runs the other formats, has one setting for the whole process
            (`tf.config.threading`), so `threads` has no effect there.

    Returns:
        A `Runtime`: a function of one NumPy array per input, of any batch size, that returns the list of
        outputs. Its `inputs` tell their names, shapes and dtypes.

    Raises:
        TypeError: If `model` is neither a model nor a path.
        FileNotFoundError: If there is nothing at the path.
        ValueError: If the path has an unknown format.
        ImportError: If the runtime is not installed; the message has the pip command.

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


def weights_in(path):
    """Reads the constants of an exported model.

    Args:
        path: A SavedModel folder, or a `.tflite` or `.onnx` file.

    Returns:
        List of NumPy arrays; None for other formats, and for an `.onnx` file if onnx is not installed.
    """
    path = pathlib.Path(path)
    known = {format.suffix: format for format in FORMATS.values()}
    format = known.get("" if path.is_dir() else path.suffix)
    return format.weights(path) if format else None


def _format_of(path):
    is_saved_model = (path / "saved_model.pb").exists()
    for format in FORMATS.values():
        if is_saved_model if not format.suffix else path.suffix == format.suffix and path.is_file():
            return format
    raise ValueError(
        f"'{path}' has an unknown format. Expected a SavedModel folder, or a .keras, .tflite or .onnx file."
    )


def _write_saved_model(model, path, quantize):
    keras_compat.write_saved_model(model, path)


def _load_saved_model(path, threads):
    loaded = tf.saved_model.load(str(path))
    if not hasattr(loaded, "serve"):
        raise ValueError(f"The SavedModel '{path}' has no endpoint 'serve'. Write it with tfap.export.")
    arguments, _ = loaded.serve.concrete_functions[0].structured_input_signature
    # `loaded` owns the variables and must live as long as the function.
    return runtime.of_function("saved_model", list(arguments), lambda *given: loaded.serve(*given))


def _saved_model_weights(path):
    variables = getattr(tf.saved_model.load(str(path)), "variables", None)
    return None if variables is None else [variable.numpy() for variable in variables]


def _write_keras(model, path, quantize):
    model.save(path)


def _load_keras(path, threads):
    return runtime.of_model(keras_compat.load_model(path))


def _no_weights(path):
    return None  # a .keras file is loaded as a model, which has them


FORMATS = {
    "saved_model": Format(_write_saved_model, _load_saved_model, _saved_model_weights),
    "keras": Format(_write_keras, _load_keras, _no_weights, ".keras"),
    "tflite": Format(
        tflite.write,
        tflite.load,
        tflite.weights,
        ".tflite",
        quantizations=("dynamic_range",),
        modules=("ai_edge_litert.interpreter",),
        extra="tflite",
    ),
    "onnx": Format(onnx.write, onnx.load, onnx.weights, ".onnx", modules=("onnxruntime",), extra="onnx"),
}
