"""Models on the command line: files of either Keras, and exported ones."""

import importlib
import json
import pathlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from tfap.command_line.command import UserError

KERAS_FILES = ".keras, .h5, or a SavedModel folder that tf_keras has written"
FILES = ".keras, .h5, .tflite, .onnx, or a SavedModel folder"


def load(path: str, compiled: bool = False) -> Any:
    """Loads a Keras model, without tfap's pruning wrappers, which it takes off.

    Args:
        path: String. Path of a `.keras` or `.h5` file, or of a SavedModel folder of tf_keras.
        compiled: Boolean. Whether the model must be compiled, as the file says how.

    Returns:
        A model of the Keras that wrote the file.

    Raises:
        UserError: If there is no such file, or it does not hold a Keras model or not how to compile it.
    """
    file = _existing(path)
    if file.suffix in (".tflite", ".onnx"):
        raise UserError(f"'{path}' holds no Keras model: expected {KERAS_FILES}")
    if file.is_dir() and not (file / "keras_metadata.pb").exists():
        raise UserError(
            f"'{path}' is a folder without a Keras model: expected {KERAS_FILES}; "
            "tfap report measures any SavedModel"
        )
    model = _stripped(_loaded(file, compiled))
    if compiled and not _is_compiled(model):
        raise UserError(f"'{path}' does not say how to train the model: call compile() before you save it")
    return model


def source(path: str) -> Any:
    """Returns what `tfap.report` measures: a model for files with a Keras model, and the path for others.

    Raises:
        UserError: If there is no such file, or it is none of a model.
    """
    file = _existing(path)
    if file.suffix in (".keras", ".h5", ".hdf5"):
        return load(path)
    if file.is_dir() and not (file / "saved_model.pb").exists():
        raise UserError(f"'{path}' is a folder, but no SavedModel: expected {FILES}")
    if file.is_file() and file.suffix not in (".tflite", ".onnx"):
        raise UserError(f"'{path}' is no model: expected {FILES}")
    _check_exported(file)
    return file


def named(paths: Sequence[str]) -> dict[str, str]:
    """Names models by their files, and by as much of their paths as tells them apart.

    Returns:
        Dict of name to path.

    Raises:
        UserError: If a path is given twice.

    Example:

    >>> named(["a/model.keras", "b/model.keras", "c.tflite"])
    {'a/model.keras': 'a/model.keras', 'b/model.keras': 'b/model.keras', 'c.tflite': 'c.tflite'}
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"'{twice}' is given twice")
    short = [pathlib.Path(path).name for path in paths]
    return {(name if short.count(name) == 1 else path): path for name, path in zip(short, paths)}


def activations(keras_models: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Measures the activations of models on samples, without those that cannot be measured.

    Args:
        keras_models: Dict of name to model.
        x: Inputs.

    Returns:
        Dict of name to the result of `tfap.measure_activations`.
    """
    from tfap.activations.measure import measure_activations

    counts = {}
    for name, model in keras_models.items():
        try:
            counts[name] = measure_activations(model, x)
        except (TypeError, ValueError):  # a model that tfap cannot analyze
            continue
    return {name: found for name, found in counts.items() if found}


def _existing(path):
    """Returns the path of what is there. From then on, Keras is needed, which takes seconds to import."""
    file = pathlib.Path(path)
    if not file.exists():
        raise UserError(f"there is no file or folder '{path}'")
    importlib.import_module("tfap.loading")
    return file


def _check_exported(file):
    from tfap.exporting.formats import load_runtime

    try:
        load_runtime(file)
    except ImportError:  # its message has the pip command
        raise
    except Exception as error:
        raise UserError(f"'{file}' cannot be run: {error}") from error


def _loaded(file, compiled):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an optimizer whose state does not fit: training begins anew
            return _keras_of(file).models.load_model(file, compile=compiled)
    except UserError:
        raise
    except Exception as error:
        advice = ""
        if "safe_mode" in str(error) or "Lambda" in str(error):
            advice = "it holds Python code, which the command does not run: load it in Python. "
        elif "register_keras_serializable" in str(error) or "Unknown layer" in str(error):
            advice = "it has layers of your own, which the command does not know: use tfap in Python. "
        first = " ".join(str(error).split())[:300]
        raise UserError(f"'{file}' cannot be loaded: {advice}{first}") from error


def _keras_of(file):
    """Returns the Keras that wrote a file."""
    from tfap.keras_compat import lazy

    version = "2" if file.is_dir() else _version_in(file)
    return lazy.imported("tf_keras" if version.startswith("2") else "keras")


def _version_in(file):
    if file.suffix == ".keras":
        try:
            with zipfile.ZipFile(file) as archive:
                return json.loads(archive.read("metadata.json"))["keras_version"]
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{file}' is no .keras file, or not whole: {error}") from error
    if file.suffix in (".h5", ".hdf5"):
        return _version_in_h5(file)
    raise UserError(f"'{file}' holds no Keras model: expected {KERAS_FILES}")


def _version_in_h5(file):
    import h5py

    try:
        with h5py.File(file) as archive:
            if "model_config" not in archive.attrs:
                raise UserError(f"'{file}' holds weights, but no model: save it with model.save()")
            version = archive.attrs.get("keras_version", "2")
    except OSError as error:
        raise UserError(f"'{file}' is no .h5 file, or not whole: {error}") from error
    return version.decode() if isinstance(version, bytes) else str(version)


def _is_compiled(model):
    from tfap import keras_compat

    return keras_compat.is_compiled(model)


def _stripped(model):
    from tfap import keras_compat
    from tfap.pruning.prune import strip_pruning

    wrapped = any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(model))
    return strip_pruning(model) if wrapped else model
