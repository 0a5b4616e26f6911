"""One way to run a model: live, or from any of the files that `tfap.export` writes."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfap import keras_compat

# Format -> what running it needs, as (modules, the extra of tfap that installs them).
_NEEDS = {
    "saved_model": ((), None),
    "keras": ((), None),
    "tflite": (("ai_edge_litert.interpreter",), "tflite"),
    "onnx": (("onnxruntime",), "onnx"),
}
_ONNX_TYPES = {"float": "float32", "double": "float64", "string": "object"}  # others are named as in NumPy


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model: its name, its shape with None for every free axis, its NumPy dtype."""

    name: str
    shape: tuple
    dtype: np.dtype

    def checked(self, array):
        array = np.asarray(array, self.dtype)
        fits = len(array.shape) == len(self.shape) and all(
            expected in (None, size) for size, expected in zip(array.shape, self.shape)
        )
        if not fits:
            raise ValueError(
                f"The input '{self.name}' is an array of shape {array.shape}; expected is {self.shape}, "
                f"None for any size."
            )
        return array


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A model that takes and gives NumPy arrays, whatever runs it.

    Attributes:
        format: "saved_model", "keras", "tflite" or "onnx".
        inputs: an `Input` (`name`, `shape`, `dtype`) for each, in the model's order.
    """

    format: str
    inputs: list[Input]
    _run: Callable = dataclasses.field(repr=False)

    def __call__(self, *arrays):
        """The list of outputs, in the model's order, for one array per input; of any batch size."""
        if len(arrays) != len(self.inputs):
            names = ", ".join(entry.name for entry in self.inputs)
            raise ValueError(f"{len(arrays)} arrays were given; expected are {len(self.inputs)}: {names}.")
        checked = [entry.checked(array) for entry, array in zip(self.inputs, arrays)]
        return [np.asarray(output) for output in self._run(checked)]


def load(path, threads=None):
    """Loads an exported model in the runtime of its format.

    Args:
        path: a SavedModel folder with the endpoint `serve`, as `tfap.export` and both Kerases write it, or a
            `.keras`, `.tflite` or `.onnx` file. Either Keras's `.keras` files load.
        threads: how many threads LiteRT or ONNX Runtime compute one operation with; None is their own choice.
            TensorFlow, which runs the other formats, has one setting for the whole process
            (`tf.config.threading`), so `threads` does not matter there.

    Returns:
        A `Runtime`: call it on one array per input.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: `path` is of no known format.
        ImportError: the runtime is not installed; the message has the pip command.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at '{path}'.")
    format = _format_of(path)
    require(format)
    return _LOADERS[format](path, threads)


def of_model(model):
    """A live Keras model of either Keras as a `Runtime`, compiled once for all batch sizes.

    Args:
        model: a built model. It stays linked: new weights give new outputs.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> run = of_model(model)
    >>> run([[1.0, 2.0], [3.0, 4.0]])
    [array([[3.], [7.]], dtype=float32)]
    """
    structure, function = keras_compat.call_signature(model), keras_compat.inference(model)
    return _of_function("keras", [structure], function)


def require(format):
    """Raises an ImportError with the pip command if what runs `format` is not installed."""
    modules, extra = _NEEDS[format]
    for module in modules:
        imported(module, extra)


def imported(module, extra):
    """An optional module, which the extra `extra` of tfap installs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{package} is not installed: pip install 'tfap[{extra}]'") from error


def _format_of(path):
    if path.is_dir() and (path / "saved_model.pb").exists():
        return "saved_model"
    format = path.suffix[1:]
    if path.is_dir() or format not in ("keras", "tflite", "onnx"):
        raise ValueError(
            f"'{path}' is of no known format. Expected: a SavedModel folder, a .keras, .tflite or .onnx file."
        )
    return format


def _of_function(format, arguments, function):
    """The Runtime of a TensorFlow function of positional arguments that are structures of specs."""
    specs = tf.nest.flatten(arguments)
    inputs = [
        Input(spec.name or f"input_{index}", tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype))
        for index, spec in enumerate(specs)
    ]

    def run(arrays):
        return tf.nest.flatten(function(*tf.nest.pack_sequence_as(arguments, arrays)))

    return Runtime(format, inputs, run)


def _load_saved_model(path, threads):
    loaded = tf.saved_model.load(str(path))
    if not hasattr(loaded, "serve"):
        raise ValueError(f"The SavedModel '{path}' has no endpoint 'serve'. Write it with tfap.export.")
    arguments, _ = loaded.serve.concrete_functions[0].structured_input_signature
    # `loaded` owns the variables and must live as long as the function.
    return _of_function("saved_model", list(arguments), lambda *given: loaded.serve(*given))


def _load_keras(path, threads):
    return of_model(keras_compat.load_model(path))


def _load_tflite(path, threads):
    interpreter = imported("ai_edge_litert.interpreter", "tflite").Interpreter(str(path), num_threads=threads)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    names = _tflite_names(interpreter)
    shapes = [None] * len(inputs)

    def run(arrays):
        if shapes != [array.shape for array in arrays]:
            shapes[:] = [array.shape for array in arrays]
            for detail, shape in zip(inputs, shapes):
                interpreter.resize_tensor_input(detail["index"], shape)
            interpreter.allocate_tensors()
        for detail, array in zip(inputs, arrays):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(detail["index"]) for detail in outputs]

    entries = [
        Input(
            names.get(detail["index"], detail["name"]),
            tuple(None if size < 0 else int(size) for size in detail["shape_signature"]),
            np.dtype(detail["dtype"]),
        )
        for detail in inputs
    ]
    return Runtime("tflite", entries, run)


def _tflite_names(interpreter):
    """Tensor index -> the input's name in the signature: tensors themselves have names of TensorFlow's."""
    if not interpreter.get_signature_list():
        return {}
    details = interpreter.get_signature_runner().get_input_details()
    return {detail["index"]: name for name, detail in details.items()}


def _load_onnx(path, threads):
    ort = imported("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = []
    for entry in session.get_inputs():
        shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        inputs.append(Input(entry.name, shape, np.dtype(_ONNX_TYPES.get(kind, kind))))

    def run(arrays):
        return session.run(None, {entry.name: array for entry, array in zip(inputs, arrays)})

    return Runtime("onnx", inputs, run)


_LOADERS = {
    "saved_model": _load_saved_model,
    "keras": _load_keras,
    "tflite": _load_tflite,
    "onnx": _load_onnx,
}
