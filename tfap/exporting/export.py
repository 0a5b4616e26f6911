"""Files for deployment: written by Keras's exporter and TensorFlow's converters, then run and compared."""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.exporting import runtime
from tfap.exporting.formats import FORMATS, load_runtime
from tfap.exporting.silence import quiet
from tfap.keras_compat import equality
from tfap.keras_compat.inputs import listed, random_arrays

_PARTS_OF_A_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}

_ABSOLUTE_TOLERANCE = 1e-6

_SAMPLES = 4
_FREE_SIZE = 32  # of axes other than the batch that can have any size


def export(model, path, format="saved_model", *, quantize=None, data=None, verify=True):
    """Writes a model for deployment; nothing of tfap is in the file, and it takes any batch size.

    The file is loaded in its runtime and its outputs are compared with the model's before it appears at
    `path`; when anything fails, what was at `path` before is still there. Nothing is printed.

    Args:
        model: a plain built model of either Keras, such as `strip_pruning` or `compact` returns.
        path: a folder (SavedModel) or a file ending in `.keras`, `.tflite` or `.onnx`. An earlier export
            there is replaced.
        format: "saved_model": Keras's inference export, for `tf.saved_model.load(path).serve(x)`;
            "keras": a `.keras` file; "tflite": a file for LiteRT (TensorFlow Lite), without TensorFlow
            ops, with inputs and outputs in the model's order; "onnx": a file for ONNX Runtime.
        quantize: only with "tflite": "dynamic_range" stores the weights of large layers as int8, which
            changes outputs by more than rounding.
        data: the arrays to compare outputs on, one or a list or dict of one for each input. Default: random
            ones, normal for floats, 0 and 1 for integers.
        verify: False writes without running the file, so without its runtime installed.

    Outputs must agree within 1e-6 plus 1e-4 of the output's largest value (2e-2 and 1e-1 if a layer
    computes in float16 or bfloat16); integers and booleans exactly. Of a quantized file only the shapes
    and dtypes are compared, and that finite outputs stay finite.

    Returns:
        `path` as a `pathlib.Path`, for `tfap.load_runtime` or others.

    Raises:
        ValueError: an unknown format or `quantize`, a path that does not end as the format's files do or
            that holds something else, a model that is not built, still has pruning wrappers, or cannot be
            converted; `data` that does not fit the model.
        ImportError: a package is missing; the message has the pip command.
        RuntimeError: the file does not run, or gives other outputs than the model.

    >>> import keras, tempfile
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = export(model, f"{folder}/model.tflite", format="tflite")
    ...     outputs = load_runtime(file)(np.zeros((5, 3)))
    >>> [output.shape for output in outputs]
    [(5, 2)]
    """
    path = pathlib.Path(path)
    _check(model, path, format, quantize)
    if verify:
        FORMATS[format].require()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
        quiet(),
    ):
        expected = _Expected(model, data) if verify else None
        written = pathlib.Path(folder, path.name)
        try:
            FORMATS[format].write(model, written, quantize)
        except Exception as error:
            raise ValueError(
                f"The model '{model.name}' cannot be converted to format='{format}': {error}"
            ) from error
        if verify:
            expected.compare(written, exactly=quantize is None)
        _replace(path, written)
    return path


def _check(model, path, format, quantize):
    if format not in FORMATS:
        raise ValueError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    _check_quantization(format, quantize)
    if not keras_compat.is_model(model):
        raise TypeError(
            f"tfap.export takes a Keras model: received an object of type {type(model).__name__}."
        )
    _check_path(path, format)
    if any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def _check_quantization(format, quantize):
    takers = {each for each, entry in FORMATS.items() if quantize in entry.quantizations}
    if quantize is None or format in takers:
        return
    if not takers:
        known = ", ".join(repr(name) for entry in FORMATS.values() for name in entry.quantizations)
        raise ValueError(f"Unknown quantize={quantize!r}. Known: None, {known}.")
    raise ValueError(
        f"quantize={quantize!r} is for format='{', '.join(sorted(takers))}' only: received format='{format}'."
    )


def _check_path(path, format):
    ending = FORMATS[format].suffix
    if ending and path.suffix != ending:
        raise ValueError(f"The path of format='{format}' must end in {ending}: received '{path}'.")
    if format == "saved_model" and path.suffix in (
        *filter(None, (entry.suffix for entry in FORMATS.values())),
        ".h5",
    ):
        known = "keras" if path.suffix == ".h5" else path.suffix[1:]
        raise ValueError(
            f"A SavedModel is a folder: received '{path}'. Pass format='{known}' and a path that ends in "
            f".{known} for a file."
        )
    if path.is_dir() and (ending or not {entry.name for entry in path.iterdir()} <= _PARTS_OF_A_SAVED_MODEL):
        raise ValueError(f"'{path}' is a folder that holds other things than a SavedModel: choose another.")
    if path.is_file() and not ending:
        raise ValueError(f"A SavedModel is a folder, and '{path}' is a file: choose another path.")


def _replace(path, written):
    """Moves what was written to its place; `written` lies in a folder that will be deleted."""
    if not path.is_dir():
        written.replace(path)
        return
    old = path.rename(written.with_name("replaced"))  # a folder with files cannot be written over
    try:
        written.rename(path)
    except BaseException:
        old.rename(path)
        raise


# -- comparing -------------------------------------------------------------------------------------


class _Expected:
    """What a model answers to some data, and what its files must answer."""

    def __init__(self, model, data):
        self.model = model
        running = runtime.of_model(model)
        self.data = (
            random_arrays(running.inputs, _SAMPLES, _FREE_SIZE)
            if data is None
            else listed(data, [entry.name for entry in running.inputs])
        )
        with _on_cpu():
            self.outputs = running(*self.data)

    def compare(self, path, exactly):
        """Raises a RuntimeError if the file's outputs differ; without `exactly`, if their kinds do."""
        outputs = self._outputs_of(path)
        if len(outputs) != len(self.outputs):
            self._fail(f"it has {len(outputs)} outputs instead of {len(self.outputs)}")
        for index, (given, expected) in enumerate(zip(outputs, self.outputs)):
            if (given.shape, given.dtype) != (expected.shape, expected.dtype):
                self._fail(
                    f"output {index} is {given.dtype} of shape {given.shape} instead of {expected.dtype} of "
                    f"shape {expected.shape}"
                )
            if exactly:
                self._compare_values(index, given, expected)
            elif np.isfinite(expected).all() and not np.isfinite(given).all():
                self._fail(f"output {index} is not finite, while the model's is")

    def _outputs_of(self, path):
        try:
            with keras_compat.custom_object_scope(_own_classes(self.model)), _on_cpu():
                return load_runtime(path)(*self.data)
        except Exception as error:
            raise RuntimeError(
                f"The exported file of '{self.model.name}' does not run, so it was deleted: {error}\n"
                f"verify=False writes it without running it."
            ) from error

    def _compare_values(self, index, given, expected):
        tolerance = _tolerance(self.model, expected)
        difference = equality.largest_difference(given, expected)
        if not difference <= tolerance:
            self._fail(f"output {index} differs by {difference:.3g}; allowed is {tolerance:.3g}")

    def _fail(self, why):
        raise RuntimeError(
            f"The exported file does not do what the model '{self.model.name}' does: {why}. It was deleted. "
            f"If the model's outputs are random or depend on its earlier calls, pass verify=False."
        )


def _own_classes(model):
    """The user's layer classes, which need not be registered to be compared."""
    layers = keras_compat.all_layers(model)
    return {type(layer).__name__: type(layer) for layer in layers if keras_compat.kind_of(layer) is None}


def _on_cpu():
    return tf.device("CPU:0")  # where LiteRT and ONNX Runtime compute; GPUs round otherwise (TF32)


def _tolerance(model, expected):
    if not tf.as_dtype(expected.dtype).is_floating:
        return 0
    relative = equality.rounding(model)
    finite = expected[np.isfinite(expected)].astype("float64")
    return _ABSOLUTE_TOLERANCE + relative * np.abs(finite).max(initial=0)


# -- silence ---------------------------------------------------------------------------------------
