"""Files that only TensorFlow writes, from models on other backends: in a process where Keras runs on it."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

import numpy as np

from tfap import keras_compat
from tfap.exporting.calibration import Settings
from tfap.keras_compat.types import Model

_MODEL, _TASK, _SAMPLES, _ERROR = "model.keras", "task.json", "samples.npz", "error.json"
_COMMAND = "import sys; from tfap.exporting import conversion; conversion.main(sys.argv[1])"
# What the other process may raise; others are a fault of the model.
_ERRORS = {"ImportError": ImportError, "OSError": OSError}


def write(model: Model, path: pathlib.Path, format: str, settings: Settings) -> None:
    """Writes a file in another process, which loads the model on the TensorFlow backend.

    Args:
        model: A built Keras 3 model.
        path: Path of the file.
        format: String. Name of the format.
        settings: The `Settings` of the file.

    Raises:
        ImportError: If a package is not installed. The message has the pip command.
        OSError: If the file cannot be written.
        ValueError: If the model cannot be loaded or run on TensorFlow, or cannot be converted.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = pathlib.Path(folder)
        model.save(files / _MODEL)
        task = {
            "path": str(path.resolve()),
            "format": format,
            "settings": {"quantize": settings.quantize, "inputs": settings.inputs, "sparse": settings.sparse},
            "imports": _imports(model),
        }
        (files / _TASK).write_text(json.dumps(task))
        if settings.samples is not None:
            np.savez(files / _SAMPLES, *settings.samples)
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, folder],
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
        error = {"type": "", "text": done.stderr.strip()[-500:]}  # it was killed, for example
        if (files / _ERROR).exists():
            error = json.loads((files / _ERROR).read_text())
    if error["type"] in _ERRORS:
        raise _ERRORS[error["type"]](error["text"])
    raise ValueError(f"{error['text']}\n{_advice(model)}")


# Without the GPU, whose memory this process holds.
_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def _imports(model):
    """Lists `(name, module, name in the module)` of the classes and functions of the user's in a model."""
    found = keras_compat.own_objects(model).items()
    return [(name, thing.__module__, thing.__qualname__) for name, thing in found if _is_importable(thing)]


def _is_importable(thing):
    return thing.__module__ != "__main__" and "<" not in thing.__qualname__


def _advice(model):
    backend = keras_compat.backend_name(model)
    advice = (
        f"On the '{backend}' backend, this file is written by another process that loads the model on "
        "TensorFlow. Your own layers must compute in keras.ops, and their classes must be registered with "
        "@keras.saving.register_keras_serializable()"
    )
    left = [name for name, thing in keras_compat.own_objects(model).items() if not _is_importable(thing)]
    if not left:
        return f"{advice}."
    return f"{advice} and in a module that can be imported, which these are not: {', '.join(left)}."


# -- in the other process --------------------------------------------------------------------------


def main(folder: str) -> None:
    """Does the task in a folder. If that fails, it leaves the error there and exits."""
    files = pathlib.Path(folder)
    task = json.loads((files / _TASK).read_text())
    try:
        _perform(files, task)
    except Exception as error:
        kind = next((name for name, cls in _ERRORS.items() if isinstance(error, cls)), "")
        text = str(error) or traceback.format_exc()
        (files / _ERROR).write_text(json.dumps({"type": kind, "text": text}))
        sys.exit(1)


def _perform(files, task):
    write_here = importlib.import_module("tfap.exporting.export").write_here
    objects = {name: _found(module, path) for name, module, path in task["imports"]}
    with keras_compat.custom_object_scope(objects):
        model = keras_compat.load_model(files / _MODEL, safe_mode=False)  # written by `write`
    samples = list(np.load(files / _SAMPLES).values()) if (files / _SAMPLES).exists() else None
    settings = Settings(samples=samples, **task["settings"])
    write_here(model, pathlib.Path(task["path"]), task["format"], settings)


def _found(module, path):
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found
