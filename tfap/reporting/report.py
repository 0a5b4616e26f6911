"""Measures models and files beside each other: `tfap.report`."""

import functools
import numbers
import os
import pathlib

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.exporting import formats, runtime
from tfap.exporting.sizes import count_weights, disk_size, exported_size
from tfap.graph import flops
from tfap.keras_compat.inputs import listed, random_arrays
from tfap.reporting import latency
from tfap.reporting.table import ModelReport, Report
from tfap.utils.accuracy import accuracy, check_labels

_CHUNK = 256  # samples that are scored at once


def report(model, baseline=None, data=None, metric=None, *, batch_sizes=(1, 64), seconds=3.0, threads=None):
    """Says what pruning brought: size, operations, measured time and accuracy, beside a baseline.

    Args:
        model: a plain live model of either Keras, the path of an exported one (SavedModel folder, `.keras`,
            `.tflite` or `.onnx` file), or a dict of name to any of these, a row each.
        baseline: what the others are compared with: a model or path, or a name in the dict `model`.
        data: test samples, `(x, y)` as arrays or a batched tf.data.Dataset of such pairs; with several
            inputs `x` is a list or a dict. `y` holds integer labels or is one-hot.
        metric: function of `(y, outputs)`, NumPy arrays, that gives a number. None is the accuracy: the
            share of samples whose largest output is that of the label.
        batch_sizes: samples of one timed call; `()` measures no time.
        seconds: how long to measure each batch size, for all models together; at least 20 rounds.
        threads: that files run on; None leaves it to their runtimes. Live models run on TensorFlow's.

    Returns:
        A `Report`. It prints as a table with a verdict, has `to_dict()` and `to_csv(path)`, and gives a
        row by its name. What is not known of a file, such as a SavedModel's FLOPs, is None and prints
        as "-". Weights are all that a model has, biases and moving averages included. Bytes are those of
        the file or folder, of a live model those of the SavedModel that `tfap.export` writes. FLOPs are
        those of `tfap.flops`; times those of `tfap.measure_latency`, on random samples without `data`.

    Raises:
        TypeError, ValueError, FileNotFoundError: before anything is measured: no such file; a model that
            still has pruning wrappers; models whose inputs differ; data that do not fit.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> found = report(model, batch_sizes=())
    >>> found["model"].weights, found["model"].flops
    (58, 96)
    """
    models, baseline = _named(model, baseline)
    _check_settings(batch_sizes, seconds, metric, data)
    subjects = [_Subject(name, thing, threads) for name, thing in models.items()]
    samples = None
    if data is not None:
        samples = _Samples(*_read(data, [entry.name for entry in subjects[0].runtime.inputs]), metric)
    elif batch_sizes:
        samples = _Samples(random_arrays(subjects[0].runtime.inputs, _CHUNK))
    for subject in subjects if samples else ():
        samples.check(subject)
    times = {size: _latency(subjects, samples, size, baseline, seconds) for size in batch_sizes}
    rows = [_row(subject, samples, times) for subject in subjects]
    return Report(rows, baseline, _name_of(metric), _notes(subjects))


def _row(subject, samples, times):
    weights, size = subject.weights(), subject.size()
    return ModelReport(
        subject.name,
        subject.runtime.format,
        weights=weights and weights.total,
        nonzero=weights and weights.nonzero,
        bytes=size.raw,
        gzipped_bytes=size.gzipped,
        flops=subject.flops()[0],
        latency={batch: taken[subject.name] for batch, taken in times.items()},
        score=samples.score(subject) if samples else None,
    )


def _latency(subjects, samples, size, baseline, seconds):
    calls = {
        subject.name: functools.partial(subject.runtime, *samples.batch(subject, size))
        for subject in subjects
    }
    return latency.measure(calls, baseline, seconds=seconds)


def _notes(subjects):
    flops_notes = {subject.name: subject.flops()[1] for subject in subjects}
    notes = [f"'{name}': {note}" for name, note in flops_notes.items() if note]
    formats = dict.fromkeys(subject.runtime.format for subject in subjects)
    if len(formats) > 1:
        notes.append(f"The models run in different runtimes, which differ in speed: {', '.join(formats)}.")
    return notes


# -- arguments ------------------------------------------------------------------------------------


def _named(model, baseline):
    """Dict of name to model or path, and the name of the baseline."""
    models = dict(model) if isinstance(model, dict) else {_default_name(model): model}
    if not models:
        raise ValueError("report() needs a model: the dict is empty.")
    if baseline is None or (isinstance(baseline, str) and baseline in models):
        return models, baseline
    if "baseline" in models:
        raise ValueError("A model is named 'baseline' already: give it another name, or baseline='baseline'.")
    return {"baseline": baseline, **models}, "baseline"


def _default_name(model):
    return pathlib.Path(model).name if isinstance(model, str | os.PathLike) else "model"


def _name_of(metric):
    return "accuracy" if metric is None else getattr(metric, "__name__", "metric")


def _check_settings(batch_sizes, seconds, metric, data):
    sizes = batch_sizes if isinstance(batch_sizes, list | tuple) else [None]
    if not all(isinstance(size, numbers.Integral) and size >= 1 for size in sizes):
        raise ValueError(f"batch_sizes must be a tuple of whole numbers above 0: received {batch_sizes!r}.")
    if not isinstance(seconds, numbers.Real) or seconds < 0:
        raise ValueError(f"seconds must be a number of at least 0: received {seconds!r}.")
    if metric is not None and not callable(metric):
        raise TypeError(f"metric must be a function of (y, outputs): received {metric!r}.")
    if metric is not None and data is None:
        raise ValueError("A metric needs data: give report(..., data=(x, y)).")


# -- what is compared -----------------------------------------------------------------------------


class _Subject:
    """A model or file under its name; `model` is None where a file holds no Keras model."""

    def __init__(self, name, thing, threads):
        self.name, self.path = name, None
        if keras_compat.is_model(thing):
            self.model = thing
        elif isinstance(thing, str | os.PathLike):
            self.path = pathlib.Path(thing)
            if not self.path.exists():
                raise FileNotFoundError(f"'{name}': there is no file or folder '{thing}'.")
            self.model = keras_compat.load_model(thing) if self.path.suffix == ".keras" else None
        else:
            raise TypeError(f"'{name}' must be a Keras model or a path: received {thing!r}.")
        self.runtime = self._runtime(threads)

    def _runtime(self, threads):
        if self.model is None:
            return formats.load_runtime(self.path, threads)
        if any(keras_compat.is_any_wrapper(layer) for layer in keras_compat.all_layers(self.model)):
            raise ValueError(f"'{self.name}' still has pruning wrappers: call strip_pruning() first.")
        return runtime.of_model(self.model)

    def size(self):
        return disk_size(self.path) if self.path else exported_size(self.model)

    def weights(self):
        """`WeightCount`, or None where they cannot be read."""
        arrays = self.model.get_weights() if self.model else formats.weights_in(self.path)
        return None if arrays is None else count_weights(arrays)

    def flops(self):
        """`(operations, note)`, None for either if there is none."""
        if self.model is None:
            return None, None
        try:
            missing = flops.uncounted(self.model)
            note = f"FLOPs without those of {', '.join(missing)}." if missing else None
            return flops.flops(self.model), note
        except ValueError as error:
            return None, f"no FLOPs. {error}"


# -- samples --------------------------------------------------------------------------------------


def _read(data, names):
    """`(list of input arrays, in the order of the inputs' names; labels)`."""
    if isinstance(data, tf.data.Dataset):
        data = _gathered(data)
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise TypeError(f"data must be (x, y) or a tf.data.Dataset of such pairs: received {type(data)}.")
    return [np.asarray(array) for array in listed(data[0], names)], np.asarray(data[1])


def _gathered(dataset):
    """The arrays of a batched dataset, joined."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise TypeError(f"data must be a dataset of pairs (x, y): its elements are {spec}.")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("data never ends: give a dataset without repeat().")
    if any(part.shape.rank == 0 for part in tf.nest.flatten(spec)):
        raise ValueError(f"data must come in batches, dataset.batch(64): its elements are {spec}.")
    batches = list(dataset.as_numpy_iterator())
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches) if batches else ([], [])


class _Samples:
    """Inputs for every subject, and their labels."""

    def __init__(self, inputs, labels=None, metric=None):
        self._inputs, self._labels, self._metric = inputs, labels, metric or accuracy

    def _of(self, subject, rows):
        """The inputs at these indices in the types that a subject reads."""
        return [array[rows].astype(entry.dtype) for array, entry in zip(self._inputs, subject.runtime.inputs)]

    def batch(self, subject, size):
        """So many samples, the first ones again where there are not enough."""
        return self._of(subject, np.arange(size) % len(self._inputs[0]))

    def _outputs(self, subject, rows):
        outputs = subject.runtime(*self._of(subject, rows))
        return outputs[0] if len(outputs) == 1 else outputs

    def check(self, subject):
        """Raises ValueError if they do not fit a subject."""
        wanted = [entry.shape for entry in subject.runtime.inputs]
        given = [array.shape for array in self._inputs]
        if len(wanted) != len(given) or not all(map(_fits, given, wanted)):
            raise ValueError(f"'{subject.name}' reads inputs of shapes {wanted}: received {given}.")
        if self._labels is None:
            return
        sizes = [len(array) for array in self._inputs]
        if sizes[0] == 0 or set(sizes) != {len(self._labels)}:
            raise ValueError(f"data has {sizes} samples and {len(self._labels)} labels.")
        if self._metric is accuracy:
            check_labels(subject.name, self._labels[:1], self._outputs(subject, np.arange(1)))

    def score(self, subject):
        """The metric of all samples, None without labels."""
        if self._labels is None:
            return None
        rows = np.arange(len(self._labels))
        chunks = [self._outputs(subject, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        return float(self._metric(self._labels, tf.nest.map_structure(lambda *c: np.concatenate(c), *chunks)))


def _fits(given, wanted):
    sizes = zip(given[1:], wanted[1:])
    return len(given) == len(wanted) and all(size in (None, have) for have, size in sizes)
