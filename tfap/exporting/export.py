"""Export of models to files for deployment, which are checked against the model."""

import dataclasses
import os
import pathlib
import shutil
import tempfile
import warnings
from typing import Literal

import numpy as np

from tfap import keras_compat
from tfap.exporting import conversion, runtime, sparse_tflite
from tfap.exporting.calibration import CALIBRATED, QUANTIZED_INPUTS, Settings
from tfap.exporting.formats import FORMATS, load_runtime
from tfap.exporting.silence import quiet
from tfap.keras_compat import equality
from tfap.keras_compat.inputs import listed, random_arrays
from tfap.keras_compat.types import Arrays, Model

_PARTS_OF_A_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}

_ABSOLUTE_TOLERANCE = 1e-6

_SAMPLES = 4
_UNDEFINED_SIZE = 32  # of undefined dimensions other than the batch


def export(
    model: Model,
    path: str | os.PathLike[str],
    format: Literal["saved_model", "keras", "tflite", "onnx"] = "saved_model",
    *,
    quantize: Literal["dynamic_range", "float16", "int8", "int16x8"] | None = None,
    dtype: Literal["float32"] | None = None,
    data: Arrays | None = None,
    verify: bool = True,
    inputs: Literal["float", "int8", "int16"] = "float",
    sparse: bool = False,
) -> pathlib.Path:
    """Exports a model to a file for deployment.

    The file does not depend on tfap, and accepts any batch size. If the model can only be converted for a
    fixed batch size, the file has that of its inputs, such as `keras.Input(batch_shape=(1, 28))`. Before the
    file appears at `path`, tfap runs it in its runtime and compares its outputs with those of the model. If
    anything fails, `path` is unchanged. Nothing is printed.

    All formats but "keras" need TensorFlow. What the backend of a Keras 3 model cannot write, another process
    writes, in which Keras runs on TensorFlow: "onnx" from JAX, and all but "keras" from PyTorch. The layers
    of the model must then compute in `keras.ops`, and be registered and in a module that can be imported.

    Floats must agree within 1e-6 plus 1e-4 times the largest value of the output. In models with float16 or
    bfloat16 layers the factor is 2e-2 or 1e-1. Integers and booleans must be equal. For a quantized file,
    tfap compares only shapes and dtypes, and checks that finite outputs are still finite.
    `tfap.export_report` says how far its outputs are from the model's, and whether all zeros are kept.

    Args:
        model: A built model of either Keras without pruning wrappers, such as the result of
            `tfap.strip_pruning` or `tfap.compact`.
        path: Path of a folder (SavedModel), or of a file with the suffix `.keras`, `.tflite` or `.onnx`. An
            earlier export there is replaced.
        format: String. "saved_model" is for `tf.saved_model.load`, with the endpoint `serve`. "keras" is a
            Keras archive. "tflite" is for LiteRT (TensorFlow Lite), without TensorFlow ops, with inputs and
            outputs in the model's order. "onnx" is for ONNX Runtime.
        quantize: String, or None for no quantization. Outputs change by more than float tolerance.
            "dynamic_range" stores the weights of large layers as int8, "float16" all weights as float16,
            both only for "tflite". "int8" also computes in int8, with ranges of activations from `data`, for
            "tflite" and "onnx". "int16x8" has int8 weights and int16 activations, for "tflite".
        dtype: "float32" exports a copy of the model in which all layers compute in float32, with the same
            weights, because LiteRT does not run layers in float16 or bfloat16. None keeps the precision.
        data: Samples to compare outputs on: an array, or a list or dict with an array per input. None for
            random samples: standard normal floats, and integers 0 and 1. With "int8" and "int16x8" required:
            typical inputs, a few hundred, from which the ranges of activations are taken.
        verify: Boolean. Whether to run the file. False does not need its runtime.
        inputs: String. "float", or the integers of quantized inputs and outputs in a "tflite" file: "int8"
            with `quantize="int8"`, "int16" with "int16x8". `tfap.load_runtime` takes real values for them.
        sparse: Boolean. Whether to leave out the zeros of kernels where that makes the file smaller. Only for
            "tflite". LiteRT restores them when it loads the file. Warns if no kernel gets smaller.

    Returns:
        `path` as a `pathlib.Path`, for `tfap.load_runtime` and others.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the format, `quantize`, `dtype` or `inputs` is unknown or does not fit the format, if
            the path has the wrong suffix or holds something else, if the model is unbuilt, has pruning
            wrappers or cannot be converted, if `data` is missing or does not fit the model, or if an output
            is empty or NaN, so that it cannot be compared.
        ImportError: If a required package is not installed. The message has the pip command.
        OSError: If the file cannot be written.
        RuntimeError: If the file does not run, or its outputs differ from those of the model.

    Example:

    >>> import keras, numpy, tempfile, tfap
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = tfap.export(model, f"{folder}/model.tflite", format="tflite")
    ...     outputs = tfap.load_runtime(path)(numpy.zeros((5, 3)))
    >>> [output.shape for output in outputs]
    [(5, 2)]
    """
    path = pathlib.Path(path)
    _check(model, path, format, quantize, dtype)
    _check_storage(format, quantize, inputs, sparse)
    if FORMATS[format].needs_tensorflow:
        keras_compat.require("tensorflow")
    if verify:
        FORMATS[format].require()
    settings = Settings(quantize, _samples(model, quantize, data), inputs, sparse)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
        quiet(),
    ):
        if dtype is not None:
            model = _in_precision(model, dtype, data, verify)
        expected = _Expected(model, data) if verify else None
        exported = pathlib.Path(folder, path.name)
        _write(model, exported, format, settings)
        if expected is not None:
            expected.compare(exported, exactly=quantize is None)
        is_sparse = sparse and sparse_tflite.has_sparse_kernels(exported.read_bytes())
        _move(exported, path)
    if sparse and not is_sparse:
        warnings.warn(
            f"No kernel in '{path}' is sparse: none would be smaller, or LiteRT would not run it.",
            stacklevel=2,
        )
    return path


def _samples(model, quantize, data):
    """Returns the arrays from which the ranges of activations are taken, in the model's order, or None."""
    if quantize not in CALIBRATED:
        return None
    if data is None:
        raise ValueError(
            f"quantize={quantize!r} takes the ranges of activations from data: received none. Pass data= "
            "with a few hundred typical inputs, such as x_train[:300]."
        )
    entries = runtime.of_model(model).inputs
    arrays = listed(data, [entry.name for entry in entries])
    if len(arrays) != len(entries):
        raise ValueError(
            f"The model '{model.name}' has {len(entries)} inputs: received data with {len(arrays)} arrays."
        )
    entries = [dataclasses.replace(entry, shape=(None, *entry.shape[1:])) for entry in entries]
    converted = [entry.checked(array) for entry, array in zip(entries, arrays)]
    counts = {len(array) for array in converted}
    if len(counts) != 1 or not counts - {0}:
        raise ValueError(
            f"data has {sorted(counts)} samples per input, expected the same number, at least 1."
        )
    return converted


def _write(model, path, format, settings):
    """Writes the file in this process or in one with TensorFlow: in the other one if the first cannot."""
    backend, chosen = keras_compat.backend_name(model), FORMATS[format]
    if backend == "tensorflow" or not chosen.needs_tensorflow:
        return write_here(model, path, format, settings)
    ways = [write_here] if backend in chosen.backends else []
    ways.insert(0 if chosen.tensorflow_first else len(ways), conversion.write)
    errors = {}
    for way in ways:
        try:
            return way(model, path, format, settings)
        except ValueError as error:
            errors[way] = error
    failure = errors[conversion.write]
    text = f"The model '{model.name}' cannot be converted to format='{format}'"
    text = str(failure) if text in str(failure) else f"{text}: {failure}"
    raise ValueError(text) from errors.get(write_here, failure)


def write_here(model: Model, path: pathlib.Path, format: str, settings: Settings) -> None:
    """Writes the file for any batch size or, if that fails, for the fixed one of the model's inputs."""
    fixed = keras_compat.fixed_batch_size(model)
    failure: Exception | None = None
    batch_sizes = list(dict.fromkeys([None, fixed]))
    if format == "tflite" and fixed is not None and _rolled(model):
        batch_sizes = [fixed]  # for any other, the conversion takes as long and always fails
    for batch_size in batch_sizes:
        try:
            FORMATS[format].write(model, path, settings, batch_size)
            return
        except (ImportError, OSError):  # a missing package, a full disk: not a fault of the model
            raise
        except Exception as error:
            failure = error
        if path.is_dir():
            shutil.rmtree(path)
    advice = _advice(model) if format == "tflite" else ""
    raise ValueError(
        f"The model '{model.name}' cannot be converted to format='{format}'{advice}: {failure}"
    ) from failure


def _rolled(model):
    """Returns the names of recurrent layers that are not unrolled."""
    layers = keras_compat.all_layers(model)
    return [layer.name for layer in layers if getattr(layer, "unroll", True) is False]


def _advice(model):
    """Returns what makes a model convertible to TFLite, if it is known."""
    advice = []
    if rolled := _rolled(model):
        advice.append(
            f"for the recurrent layers {_names(rolled)}, pass unroll=True, or a fixed batch with "
            "keras.Input(batch_shape=(1, ...))"
        )
    if half := [layer.name for layer in keras_compat.half_layers(model)]:
        advice.append(f"for the layers {_names(half)} in float16 or bfloat16, pass dtype='float32'")
    return f" ({'; '.join(advice)})" if advice else ""


def _names(names):
    return ", ".join(map(repr, names[:3])) + (" ..." if len(names) > 3 else "")


def _in_precision(model, dtype, data, verify):
    """Returns a copy of the model in another precision, whose outputs differ only by rounding."""
    copy = keras_compat.with_policy(model, dtype)
    if verify:
        given, new = _Expected(model, data), _Expected(copy, data)
        for index, (output, expected) in enumerate(zip(new.outputs, given.outputs)):
            tolerance = _tolerance(model, expected)
            difference = equality.largest_difference(output, expected)
            if not difference <= tolerance:
                raise RuntimeError(
                    f"Output {index} of the copy of '{model.name}' in {dtype} differs from the model's by "
                    f"{difference:.3g}; allowed is {tolerance:.3g}. If the outputs are random or depend on "
                    "earlier calls, pass verify=False."
                )
    return copy


def _check(model, path, format, quantize, dtype):
    if format not in FORMATS:
        raise ValueError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    _check_quantization(format, quantize)
    if dtype not in (None, "float32"):
        raise ValueError(f"Unknown dtype={dtype!r}. Known: None, 'float32'.")
    if not keras_compat.is_model(model):
        raise TypeError(
            f"tfap.export takes a Keras model: received an object of type {type(model).__name__}."
        )
    _check_path(path, format)
    if any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def _check_quantization(format, quantize):
    supporting = {name for name, entry in FORMATS.items() if quantize in entry.quantizations}
    if quantize is None or format in supporting:
        return
    if not supporting:
        names = dict.fromkeys(name for entry in FORMATS.values() for name in entry.quantizations)
        known = ", ".join(map(repr, names))
        raise ValueError(f"Unknown quantize={quantize!r}. Known: None, {known}.")
    raise ValueError(
        f"quantize={quantize!r} is for format='{', '.join(sorted(supporting))}' only: received "
        f"format='{format}'."
    )


def _check_storage(format, quantize, inputs, sparse):
    """Checks the arguments that choose how inputs and kernels are stored."""
    if inputs not in ("float", *QUANTIZED_INPUTS.values()):
        raise ValueError(f"Unknown inputs={inputs!r}. Known: 'float', 'int8', 'int16'.")
    if inputs != "float" and quantize not in FORMATS[format].quantized_inputs:
        raise ValueError(
            f"inputs={inputs!r} is for format='tflite' with quantize='int8' or 'int16x8': received "
            f"format='{format}', quantize={quantize!r}."
        )
    if inputs != "float" and inputs != QUANTIZED_INPUTS[quantize]:
        raise ValueError(
            f"With quantize={quantize!r}, inputs are 'float' or {QUANTIZED_INPUTS[quantize]!r}: received "
            f"inputs={inputs!r}."
        )
    if sparse and not FORMATS[format].sparse:
        raise ValueError(f"sparse=True is for format='tflite' only: received format='{format}'.")


def _check_path(path, format):
    suffix = FORMATS[format].suffix
    if suffix and path.suffix != suffix:
        raise ValueError(f"The path of format='{format}' must end in {suffix}: received '{path}'.")
    file_suffixes = {entry.suffix for entry in FORMATS.values() if entry.suffix} | {".h5"}
    if format == "saved_model" and path.suffix in file_suffixes:
        file_format = "keras" if path.suffix == ".h5" else path.suffix[1:]
        raise ValueError(
            f"A SavedModel is a folder: received '{path}'. Pass format='{file_format}' and a path that ends "
            f"in .{file_format} for a file."
        )
    if path.is_dir() and (suffix or not {entry.name for entry in path.iterdir()} <= _PARTS_OF_A_SAVED_MODEL):
        raise ValueError(f"'{path}' is a folder that is not an earlier export: choose another path.")
    if path.is_file() and not suffix:
        raise ValueError(f"A SavedModel is a folder, but '{path}' is a file: choose another path.")


def _move(exported, path):
    """Moves the export out of its temporary folder, and what it replaces into that folder."""
    if not path.is_dir():
        exported.replace(path)
        return
    replaced = path.rename(exported.with_name("replaced"))  # a nonempty folder cannot be overwritten
    try:
        exported.rename(path)
    except BaseException:
        replaced.rename(path)
        raise


# -- comparing -------------------------------------------------------------------------------------


class _Expected:
    """Holds a model's outputs for some data, which its exported file must reproduce."""

    def __init__(self, model, data):
        self.model = model
        model_runtime = runtime.of_model(model)
        self.data = (
            random_arrays(model_runtime.inputs, _SAMPLES, _UNDEFINED_SIZE)
            if data is None
            else listed(data, [entry.name for entry in model_runtime.inputs])
        )
        with _on_cpu():
            self.outputs = model_runtime.padded(*self.data)
        self._check_comparable()

    def _check_comparable(self):
        """Raises a ValueError if the model has no outputs, or an output has no value to compare."""
        reasons = [] if self.outputs else ["it has none"]
        for index, output in enumerate(self.outputs):
            if not output.size:
                reasons.append(f"output {index} is empty, {output.shape}")
            elif _is_float(output) and np.isnan(output).all():
                reasons.append(f"output {index} is NaN in all {output.size} values")
        if reasons:
            raise ValueError(
                f"The outputs of '{self.model.name}' cannot be compared with those of a file: {reasons[0]}. "
                "Pass data= for which every output has values, or verify=False."
            )

    def compare(self, path, exactly):
        """Raises a RuntimeError if the outputs differ. Without `exactly`, values only have to be finite."""
        outputs = self._outputs_of(path)
        if len(outputs) != len(self.outputs):
            self._fail(f"it has {len(outputs)} outputs instead of {len(self.outputs)}")
        for index, (output, expected) in enumerate(zip(outputs, self.outputs)):
            if (output.shape, output.dtype) != (expected.shape, expected.dtype):
                self._fail(
                    f"output {index} is {output.dtype} of shape {output.shape} instead of {expected.dtype} "
                    f"of shape {expected.shape}"
                )
            if exactly:
                self._compare_values(index, output, expected)
            elif np.isfinite(expected).all() and not np.isfinite(output).all():
                self._fail(f"output {index} is not finite, but the model's is")

    def _outputs_of(self, path):
        try:
            with keras_compat.custom_object_scope(_custom_classes(self.model)), _on_cpu():
                return load_runtime(path).padded(*self.data)
        except Exception as error:
            raise RuntimeError(
                f"The exported file of '{self.model.name}' does not run, so it was deleted: {error}\n"
                f"Pass verify=False to write it without running it."
            ) from error

    def _compare_values(self, index, output, expected):
        tolerance = _tolerance(self.model, expected)
        difference = equality.largest_difference(output, expected)
        if not difference <= tolerance:
            self._fail(f"output {index} differs by {difference:.3g}; allowed is {tolerance:.3g}")

    def _fail(self, reason):
        raise RuntimeError(
            f"The exported file does not reproduce the outputs of the model '{self.model.name}': {reason}. "
            f"It was deleted. If the outputs are random or depend on earlier calls, pass verify=False."
        )


def _custom_classes(model):
    """Returns the user's layer classes by name, so that the file loads even if they are not registered."""
    layers = keras_compat.all_layers(model)
    return {type(layer).__name__: type(layer) for layer in layers if keras_compat.kind_of(layer) is None}


def _on_cpu():
    """As LiteRT and ONNX Runtime, because GPUs round differently (TF32)."""
    return keras_compat.device("cpu:0")


def _is_float(array):
    return "float" in array.dtype.name


def _tolerance(model, expected):
    if not _is_float(expected):
        return 0
    relative = equality.rounding(model)
    finite = expected[np.isfinite(expected)].astype("float64")
    return _ABSOLUTE_TOLERANCE + relative * np.abs(finite).max(initial=0)
