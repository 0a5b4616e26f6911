"""Measurement of models and exported files side by side."""

import functools
import numbers
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.exporting import formats, runtime
from tfap.exporting.sizes import count_weights, disk_size, exported_size
from tfap.graph import flops
from tfap.keras_compat.inputs import random_arrays
from tfap.keras_compat.types import Data, Model
from tfap.reporting import latency
from tfap.reporting.labeled import read_labeled
from tfap.reporting.layers import layer_figures
from tfap.reporting.table import ModelReport, Report, check_metric_name
from tfap.utils.accuracy import accuracy, check_labels

_CHUNK = 256  # samples per batch when a model is scored


def report(
    model: Model | str | os.PathLike[str] | dict[str, Model | str | os.PathLike[str]],
    baseline: Model | str | os.PathLike[str] | None = None,
    data: Data | None = None,
    metric: Callable[[Any, Any], float] | None = None,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    seconds: float = 3.0,
    threads: int | None = None,
) -> Report:
    """Measures what pruning saves: size, FLOPs, latency and accuracy, compared with a baseline.

    Args:
        model: A built model of either Keras without pruning wrappers, the path of an exported one (a
            SavedModel folder, or a `.keras`, `.tflite` or `.onnx` file), or a dict of name to any of these,
            for one row each.
        baseline: The model to compare the others with: a model, a path, or a name in `model`.
        data: Test samples `(x, y)` as arrays, or a batched `tf.data.Dataset` of such pairs. `x` is a list or
            a dict if the model has several inputs. `y` has integer or one-hot labels. For several outputs, it
            is a list or a dict of arrays, as for `fit`.
        metric: Function of `(y, outputs)`, which are NumPy arrays, that returns a number. `outputs` is a list
            for several outputs. None for the accuracy: the fraction of samples whose largest output is at the
            label. For several outputs, None is the loss that the models are compiled with, named "loss".
        batch_sizes: Tuple of integers >= 1. Samples per timed call. `()` for no latency.
        seconds: Float >= 0. Time budget per batch size, for all models together. The minimum of 20 rounds
            takes precedence.
        threads: Integer >= 1. Threads of LiteRT and ONNX Runtime. None for their defaults. Keras models use
            the setting of their backend.

    Returns:
        A `tfap.reporting.table.Report`, which prints as a table with a verdict, converts with `to_dict()` and
        `to_csv(path)`, and returns a row by its name. Unknown figures are None, and print as "-".

        - Weights include biases and moving averages.
        - Bytes are those of the file or folder. For a Keras model they are those of the SavedModel that
          `tfap.export` writes.
        - FLOPs are those of `tfap.flops`.
        - Latencies are those of `tfap.measure_latency`, on random samples if `data` is None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, a model has pruning wrappers, the inputs of the models differ, or
            `data` does not fit them. It is raised before anything is measured.
        FileNotFoundError: If a file does not exist.

    Example:

    >>> import keras, tfap
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> report = tfap.report(model, batch_sizes=())
    >>> report["model"].weights, report["model"].flops
    (58, 96)
    """
    sources, baseline_name = _sources(model, baseline)
    _check_settings(batch_sizes, seconds, metric, data)
    models = [_MeasuredModel(name, source, threads) for name, source in sources.items()]
    samples = None
    if data is not None:
        inputs, labels = read_labeled(data, [entry.name for entry in models[0].runtime.inputs])
        samples = _Samples(inputs, labels, metric)
    elif batch_sizes:
        samples = _Samples(random_arrays(models[0].runtime.inputs, _CHUNK))
    if samples is not None:
        for measured in models:
            samples.check(measured)
            _check_fixed_batch_size(measured, batch_sizes)
        if metric is None:
            samples.choose_metric(models)
    latencies = {size: _latencies(models, samples, size, baseline_name, seconds) for size in batch_sizes}
    rows = [_row(measured, samples, latencies) for measured in models]
    metric_name = "loss" if samples is not None and samples.use_loss else _name_of(metric)
    labeled = None if samples is None or samples.are_random else len(samples)
    return Report(rows, baseline_name, metric_name, _notes(models), labeled)


def _row(model, samples, latencies):
    weights, (size, _) = model.weights(), model.size_and_note
    return ModelReport(
        model.name,
        model.runtime.format,
        weights=weights and weights.total,
        nonzero=weights and weights.nonzero,
        bytes=size and size.raw,
        gzipped_bytes=size and size.gzipped,
        flops=model.flops()[0],
        latency={batch_size: of_model[model.name] for batch_size, of_model in latencies.items()},
        score=samples.score(model) if samples is not None else None,
        layers=layer_figures(model.keras_model) if model.keras_model else (),
    )


def _latencies(models, samples, batch_size, baseline, seconds):
    calls = {
        model.name: functools.partial(model.runtime, *samples.batch(model, batch_size)) for model in models
    }
    return latency.measure(calls, baseline, seconds=seconds)


def _notes(models):
    found = [(model.name, note) for model in models for note in (model.flops()[1], model.size_and_note[1])]
    notes = [f"'{name}': {note}" for name, note in found if note]
    formats = dict.fromkeys(model.runtime.format for model in models)
    if len(formats) > 1:
        notes.append(f"The models run in different runtimes, which differ in speed: {', '.join(formats)}.")
    return notes


# -- arguments ------------------------------------------------------------------------------------


def _sources(model, baseline):
    """Returns `{name: model or path}`, and the name of the baseline."""
    sources = dict(model) if isinstance(model, dict) else {_default_name(model): model}
    if not sources:
        raise ValueError("report() needs a model: the dict is empty.")
    if baseline is None or (isinstance(baseline, str) and baseline in sources):
        return sources, baseline
    if "baseline" in sources:
        raise ValueError(
            "The name 'baseline' is already that of a model: rename the model, or pass baseline='baseline' "
            "to compare with it."
        )
    return {"baseline": baseline, **sources}, "baseline"


def _default_name(model):
    return pathlib.Path(model).name if isinstance(model, str | os.PathLike) else "model"


def _name_of(metric):
    return "accuracy" if metric is None else getattr(metric, "__name__", "metric")


def _check_settings(batch_sizes, seconds, metric, data):
    sizes = batch_sizes if isinstance(batch_sizes, list | tuple) else [None]
    if not all(isinstance(size, numbers.Integral) and size >= 1 for size in sizes):
        raise ValueError(f"batch_sizes must be a tuple of integers >= 1: received {batch_sizes!r}.")
    if not isinstance(seconds, numbers.Real) or seconds < 0:
        raise ValueError(f"seconds must be a number >= 0: received {seconds!r}.")
    if metric is not None and not callable(metric):
        raise TypeError(f"metric must be a function of (y, outputs): received {metric!r}.")
    if metric is not None and data is None:
        raise ValueError("A metric needs data: pass data=(x, y).")
    check_metric_name(_name_of(metric), batch_sizes)


def _check_fixed_batch_size(model, batch_sizes):
    fixed = model.runtime.batch_size
    if fixed is not None and any(size % fixed for size in batch_sizes):
        raise ValueError(
            f"'{model.name}' takes batches of a fixed size, {fixed}: received batch_sizes={batch_sizes!r}, "
            f"expected multiples of it, such as batch_sizes=({fixed},)."
        )


# -- models ---------------------------------------------------------------------------------------


class _MeasuredModel:
    """Holds a model or file by name. `keras_model` is None for a file without a Keras model."""

    def __init__(self, name, source, threads):
        self.name, self.path = name, None
        if keras_compat.is_model(source):
            self.keras_model = source
        elif isinstance(source, str | os.PathLike):
            self.path = pathlib.Path(source)
            if not self.path.exists():
                raise FileNotFoundError(f"'{name}': there is no file or folder '{source}'.")
            self.keras_model = keras_compat.load_model(source) if self.path.suffix == ".keras" else None
        else:
            raise TypeError(f"'{name}' must be a Keras model or a path: received {source!r}.")
        self.runtime = self._load_runtime(threads)

    def _load_runtime(self, threads):
        if self.keras_model is None:
            return formats.load_runtime(self.path, threads)
        if any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(self.keras_model)):
            raise ValueError(f"'{self.name}' still has pruning wrappers: call strip_pruning() first.")
        return runtime.of_model(self.keras_model)

    @functools.cached_property
    def size_and_note(self):
        """The `DiskSize`, and a note about it; each None if there is none."""
        if self.path:
            return disk_size(self.path), None
        try:
            return exported_size(self.keras_model), None
        except (ImportError, ValueError) as error:
            if keras_compat.backend_name(self.keras_model) == "tensorflow":
                raise
            return None, f"no size on disk, which is that of its SavedModel. {error}"

    def weights(self):
        """Returns a `WeightCount`, or None if the weights cannot be read."""
        arrays = self.keras_model.get_weights() if self.keras_model else formats.weights_in(self.path)
        return None if arrays is None else count_weights(arrays)

    def flops(self):
        """Returns the FLOPs and a note about them, each None if there is none."""
        if self.keras_model is None:
            return None, None
        try:
            missing = flops.uncounted(self.keras_model)
            note = f"FLOPs without those of {', '.join(missing)}." if missing else None
            return flops.flops(self.keras_model), note
        except ValueError as error:
            return None, f"no FLOPs. {error}"


# -- samples --------------------------------------------------------------------------------------


class _Samples:
    """Holds the inputs of all models, and their labels."""

    def __init__(self, inputs, labels=None, metric=None):
        self._inputs, self._labels, self._metric = inputs, labels, metric or accuracy
        self.use_loss = False

    def __len__(self):
        return len(self._inputs[0])

    @property
    def are_random(self):
        return self._labels is None

    def batch(self, model, size):
        """Returns the inputs of the first `size` samples, starting over if there are fewer."""
        return self._rows(model, np.arange(size) % len(self._inputs[0]))

    def check(self, model):
        """Raises a ValueError if the samples do not fit a model."""
        expected = [entry.shape for entry in model.runtime.inputs]
        received = [array.shape for array in self._inputs]
        if len(expected) != len(received) or not all(map(_fits, received, expected)):
            raise ValueError(f"'{model.name}' expects inputs of shapes {expected}: received {received}.")
        if self.are_random:
            return
        for array, entry in zip(self._inputs, model.runtime.inputs):
            try:
                entry.converted(array)
            except ValueError as error:
                raise ValueError(f"'{model.name}' cannot take data: {error}") from error
        sizes = [len(array) for array in self._inputs]
        labels = [len(array) for array in keras_compat.tree.flatten(self._labels)]
        if sizes[0] == 0 or set(sizes) != set(labels):
            raise ValueError(
                "data must have as many labels as samples, and at least one: received "
                f"{sizes} samples and {', '.join(map(str, labels))} labels."
            )

    def choose_metric(self, models):
        """Chooses the accuracy, or for models with several outputs the loss that they are compiled with.

        Raises:
            ValueError: If the metric is not defined for a model.
        """
        if self.are_random:
            return
        outputs = {model: self._outputs(model, np.arange(1)) for model in models}
        self.use_loss = any(isinstance(given, list) for given in outputs.values())
        for model, given in outputs.items():
            if not self.use_loss:
                check_labels(model.name, self._labels[:1], given)
            elif model.keras_model is None or not keras_compat.is_compiled(model.keras_model):
                number = len(given) if isinstance(given, list) else 1
                raise ValueError(
                    f"'{model.name}' has {number} outputs and is not a compiled Keras model, so its loss is "
                    "not known: pass a metric of (y, list of outputs)."
                )
            else:
                self._loss(model, np.arange(1))  # an error here comes before the measurements

    def score(self, model):
        """Returns the metric over all samples, or None if there are no labels."""
        if self.are_random:
            return None
        rows = np.arange(len(self._inputs[0]))
        if self.use_loss:
            return self._loss(model, rows)
        chunks = [self._outputs(model, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        outputs = keras_compat.tree.map_structure(lambda *parts: np.concatenate(parts), *chunks)
        return float(self._metric(self._labels, outputs))

    def _loss(self, model, rows):
        """Returns the loss that a model is compiled with."""
        x = keras_compat.packed_inputs(model.keras_model, self._rows(model, rows))
        y = keras_compat.tree.map_structure(lambda array: array[rows], self._labels)
        return float(model.keras_model.evaluate(x, y, verbose=0, return_dict=True)["loss"])

    def _rows(self, model, rows):
        """Returns the inputs at some indices, in the dtypes of a model."""
        pairs = [(array[rows], entry) for array, entry in zip(self._inputs, model.runtime.inputs)]
        if self.are_random:  # made for the dtypes of the first model
            return [array.astype(entry.dtype) for array, entry in pairs]
        return [entry.converted(array) for array, entry in pairs]

    def _outputs(self, model, rows):
        outputs = model.runtime.padded(*self._rows(model, rows))
        return outputs[0] if len(outputs) == 1 else outputs


def _fits(shape, expected):
    sizes = zip(shape[1:], expected[1:])
    return len(shape) == len(expected) and all(limit in (None, size) for size, limit in sizes)
