"""Files for deployment: written by Keras's exporter and TensorFlow's converters, then run and compared."""

import contextlib
import io
import logging
import os
import pathlib
import sys
import tempfile
import threading
import warnings

import numpy as np
import tensorflow as tf

from tfap import certificates, keras_compat, runtimes, samples

_ENDINGS = {"keras": ".keras", "tflite": ".tflite", "onnx": ".onnx"}
_QUANTIZATIONS = (None, "dynamic_range")
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
        `path` as a `pathlib.Path`, for `tfap.runtimes.load` or others.

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
    ...     outputs = runtimes.load(file)(np.zeros((5, 3)))
    >>> [output.shape for output in outputs]
    [(5, 2)]
    """
    path = pathlib.Path(path)
    _check(model, path, format, quantize)
    if verify:
        runtimes.require(format)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
        _quiet(),
    ):
        expected = _Expected(model, data) if verify else None
        written = pathlib.Path(folder, path.name)
        FORMATS[format](model, written, quantize)
        if verify:
            expected.compare(written, exactly=quantize is None)
        _replace(path, written)
    return path


def _check(model, path, format, quantize):
    if format not in FORMATS:
        raise ValueError(f"Unknown format '{format}'. Known: {', '.join(FORMATS)}.")
    if quantize not in _QUANTIZATIONS:
        raise ValueError(f"Unknown quantize={quantize!r}. Known: None, 'dynamic_range'.")
    if quantize and format != "tflite":
        raise ValueError(f"quantize={quantize!r} is for format='tflite' only: received format='{format}'.")
    if not keras_compat.is_model(model):
        raise TypeError(
            f"tfap.export takes a Keras model: received an object of type {type(model).__name__}."
        )
    _check_path(path, format)
    if any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def _check_path(path, format):
    ending = _ENDINGS.get(format)
    if ending and path.suffix != ending:
        raise ValueError(f"The path of format='{format}' must end in {ending}: received '{path}'.")
    if format == "saved_model" and path.suffix in (*_ENDINGS.values(), ".h5"):
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


# -- writing ---------------------------------------------------------------------------------------


def _write_saved_model(model, path, quantize):
    keras_compat.write_saved_model(model, path)


def _write_keras(model, path, quantize):
    model.save(path)


def _write_tflite(model, path, quantize):
    # Keras 3's "litert" exporter takes the same way, but allows TensorFlow's ops, which LiteRT cannot run.
    with tempfile.TemporaryDirectory() as folder:
        keras_compat.write_saved_model(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if quantize == "dynamic_range":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        with _conversion(model, "tflite"):
            content = converter.convert()
    names = [spec.name for spec in tf.nest.flatten(keras_compat.call_signature(model))]
    path.write_bytes(_in_model_order(content, names))


def _in_model_order(content, inputs):
    """The converter sorts inputs and outputs by name; a phone's code feeds them by position."""
    from tensorflow.lite.python import schema_py_generated as schema

    content = bytearray(content)
    file = schema.Model.GetRootAs(content, 0)
    graph, signature = file.Subgraphs(0), file.SignatureDefs(0)
    _reorder(graph.InputsAsNumpy(), signature.InputsLength(), signature.Inputs, lambda names: inputs)
    _reorder(graph.OutputsAsNumpy(), signature.OutputsLength(), signature.Outputs, _output_order)
    return content


def _reorder(tensors, length, entry, order):
    """Writes the tensors' indices, which lie in the file's bytes, in the order of the signature's names."""
    entries = [entry(index) for index in range(length)]
    index_of = {entry.Name().decode(): entry.TensorIndex() for entry in entries}
    if len(index_of) > 1:
        tensors[:] = [index_of[name] for name in order(list(index_of))]


def _output_order(names):
    numbered = [f"output_{index}" for index in range(len(names))]
    return numbered if set(numbered) == set(names) else sorted(names)  # a dict goes by its keys


def _write_onnx(model, path, quantize):
    # Not Keras 3's "onnx" exporter: it leaves patches in NumPy and tf2onnx behind.
    onnx, tf2onnx = (runtimes.imported(module, "onnx") for module in ("onnx", "tf2onnx.convert"))
    function, signature = keras_compat.inference(model), [keras_compat.call_signature(model)]
    with contextlib.suppress(Exception), _inner_functions_inlined():  # if not, tf2onnx traces it as it is
        function.get_concrete_function()
    with _conversion(model, "onnx"):
        content, _ = tf2onnx.from_function(
            function, signature, custom_op_handlers={"Erfc": (_write_erfc, [])}
        )
        onnx.checker.check_model(content)  # tf2onnx leaves what it cannot convert as it is
    onnx.save(content, path)


@contextlib.contextmanager
def _inner_functions_inlined():
    """For tf2onnx, which cannot convert compiled functions such as Keras makes of grouped convolutions."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _write_erfc(graph, node, name, arguments):
    """`1 - Erf(x)`: ONNX has no Erfc, with which TensorFlow writes the exact GELU."""
    from onnx import helper

    kind, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, dtypes=[kind], shapes=[shape])
    one = graph.make_const(f"{name}/one", np.ones((), helper.tensor_dtype_to_np_dtype(kind)))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, dtypes=[kind], shapes=[shape])


@contextlib.contextmanager
def _conversion(model, format):
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"The model '{model.name}' cannot be converted to format='{format}': {error}"
        ) from error


FORMATS = {
    "saved_model": _write_saved_model,
    "keras": _write_keras,
    "tflite": _write_tflite,
    "onnx": _write_onnx,
}


# -- comparing -------------------------------------------------------------------------------------


class _Expected:
    """What a model answers to some data, and what its files must answer."""

    def __init__(self, model, data):
        self.model = model
        runtime = runtimes.of_model(model)
        self.data = (
            samples.random_arrays(runtime.inputs, _SAMPLES, _FREE_SIZE)
            if data is None
            else samples.listed(data, [entry.name for entry in runtime.inputs])
        )
        with _on_cpu():
            self.outputs = runtime(*self.data)

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
                return runtimes.load(path)(*self.data)
        except Exception as error:
            raise RuntimeError(
                f"The exported file of '{self.model.name}' does not run, so it was deleted: {error}\n"
                f"verify=False writes it without running it."
            ) from error

    def _compare_values(self, index, given, expected):
        tolerance = _tolerance(self.model, expected)
        difference = certificates.largest_difference(given, expected)
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
    relative = certificates.rounding(model)
    finite = expected[np.isfinite(expected)].astype("float64")
    return _ABSOLUTE_TOLERANCE + relative * np.abs(finite).max(initial=0)


# -- silence ---------------------------------------------------------------------------------------

_silencing = threading.Lock()  # two at once would restore each other's silence


@contextlib.contextmanager
def _quiet():
    """Hides what exporters print, log and warn, in C++ too, and puts their changes of global state back.

    Output of other threads is hidden for as long.
    """
    environment, log_level = dict(os.environ), logging.root.manager.disable
    with _silencing, _silent_descriptors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            logging.disable(log_level)
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


@contextlib.contextmanager
def _silent_descriptors():
    """Sends the process's own stdout and stderr, which C++ writes to, to nowhere."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with contextlib.ExitStack() as stack:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):  # a process without streams
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, descriptor)
                os.dup2(nowhere, descriptor)
        yield
