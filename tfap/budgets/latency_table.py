"""Measured times of single layers by shape, kept in a folder."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Sequence
from typing import Any

from tfap import keras_compat
from tfap.budgets.meters import Files, call_of
from tfap.exporting.formats import load_runtime
from tfap.keras_compat.types import Model
from tfap.reporting import latency
from tfap.utils import files
from tfap.utils.progress import Progress

CACHE_VARIABLE = "TFAP_CACHE"
_PACKAGES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime", "saved_model": "tensorflow"}
_SECONDS = 0.15


class LatencyTable:
    """Times of layers in one runtime on this CPU. Each is measured once, and then read from a file.

    A file is written when its time is known, so an interrupted run loses one measurement at most.

    Args:
        runtime: String. "tflite", "onnx" or "saved_model".
        batch_size: Integer. Samples per call.
        threads: Integer. Threads of the runtime. None for its default.
        folder: Path of the folder. None is the environment variable TFAP_CACHE or, without it, `tfap` in the
            user's folder of caches.
        measure: Function of a Keras model that returns the milliseconds of one call. None measures.

    Attributes:
        folder: `pathlib.Path` of the times of this runtime, CPU, batch size and number of threads.
    """

    def __init__(
        self,
        runtime: str,
        batch_size: int = 1,
        threads: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        measure: Callable[[Model], float] | None = None,
    ) -> None:
        self._runtime, self._batch_size, self._threads = runtime, batch_size, threads
        self._measure = measure or self._measured
        self._machine = {
            "runtime": runtime,
            "version": importlib.metadata.version(_PACKAGES[runtime]),
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "batch_size": batch_size,
            "threads": threads,
        }
        root = pathlib.Path(folder) if folder is not None else cache_folder()
        self.folder = root / "latency" / f"{runtime}-{_digest(self._machine)}"
        self._known: dict[str, float] = {}

    def times(self, layers: Sequence[tuple[dict[str, Any], Callable[[], Model]]]) -> list[float]:
        """Returns the milliseconds of some layers, and measures those that are not known.

        Args:
            layers: List of `(description, make)`: a dict that says all that decides the time, and a function
                that makes a Keras model of this layer alone.

        Returns:
            List of floats. NaN for a layer that cannot be exported alone.
        """
        missing: dict[str, tuple[dict[str, Any], Callable[[], Model]]] = {}
        for description, make in layers:
            key = _digest(description)
            if self._read(key) is None:
                missing[key] = (description, make)
        with Progress(f"Measuring layers in {self._runtime}", len(missing)) as progress:
            for key, (description, make) in missing.items():
                self._write(key, description, self._time(make))
                progress.advance()
        return [self._known[_digest(description)] for description, _ in layers]

    def _time(self, make):
        try:
            return float(self._measure(make()))
        except (ValueError, RuntimeError):  # the runtime has no such layer alone, at this size
            return float("nan")

    def _measured(self, model):
        with Files(self._runtime) as folder:
            runtime = load_runtime(folder.write(model), self._threads)
            call = call_of(runtime, self._batch_size)
            return latency.measure({"layer": call}, seconds=_SECONDS)["layer"].median * 1e3

    def _read(self, key):
        if key not in self._known:
            try:
                self._known[key] = float(json.loads((self.folder / f"{key}.json").read_text())["ms"])
            except (OSError, ValueError, KeyError, TypeError):  # missing, or from an interrupted disk
                return None
        return self._known[key]

    def _write(self, key, description, milliseconds):
        self._known[key] = milliseconds
        self.folder.mkdir(parents=True, exist_ok=True)
        entry = {"ms": milliseconds, "layer": description, **self._machine}
        content = json.dumps(entry, indent=1, sort_keys=True).encode()
        files.replace(self.folder / f"{key}.json", lambda file: file.write(content))


def cache_folder() -> pathlib.Path:
    """Returns the folder where tfap keeps measured times: TFAP_CACHE, or `tfap` in the user's caches."""
    if os.environ.get(CACHE_VARIABLE):
        return pathlib.Path(os.environ[CACHE_VARIABLE])
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches) / "tfap"


def cpu_name() -> str:
    """Returns the name of the CPU's model, or of its architecture if that is all that is known."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def alone(layer: Any, changes: dict[str, Any], shape: tuple[int, ...]) -> Model:
    """Makes a model of one layer.

    Args:
        layer: A layer of either Keras.
        changes: Dict of entries of its config to replace.
        shape: Tuple of integers. The input shape without the batch.
    """
    keras = keras_compat.keras_of(layer)
    return keras.Sequential([keras.Input(shape), keras_compat.from_config(layer, changes)])


def _digest(description):
    content = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:24]
