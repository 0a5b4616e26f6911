"""Compares pruning methods: one run for every method, sparsity, and seed."""

from __future__ import annotations

import collections.abc
import contextlib
import numbers
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tfap.comparison import methods as pruning_methods
from tfap.comparison import workers as worker_processes
from tfap.comparison.experiments import Experiment
from tfap.comparison.methods import Methods
from tfap.comparison.results import Comparison
from tfap.comparison.runs import DENSE, Row, Run, Store
from tfap.keras_compat.types import Data, Model
from tfap.utils import checks

if TYPE_CHECKING:
    from tfap.schedules import PruningSchedule


def compare(
    build_model: Callable[..., Model],
    fit: Callable[..., Any],
    evaluate: Callable[..., Any],
    methods: Methods = ("activation_count", "magnitude"),
    sparsities: float | Iterable[float] = (0.5, 0.8, 0.9),
    seeds: int | Iterable[int] = 3,
    pruning_schedule: Callable[[float], PruningSchedule] | None = None,
    directory: str | os.PathLike | None = None,
    workers: int | None = None,
    gradient_data: Data = None,
    gradient_steps: int | None = None,
    reconstruction_data: Data = None,
) -> Comparison:
    """Trains a model with several pruning methods and compares the results, paired by seed.

    Every method is trained at every sparsity with every seed. The method "dense", without pruning, is trained
    with every seed.

    All random seeds (both Kerases, NumPy, Python) are set before `build_model` and before `fit`. So runs with
    the same seed have the same initial weights and see the same batches. Results do not depend on the order
    of the runs or on the process, if the functions keep no state between calls.

    If one of the three functions has a parameter `run`, it receives a `Run` with `method`, `sparsity`,
    `seed`, and a `name` for files.

    Args:
        build_model: Function that returns a built model of either Keras, compiled if `fit` or `evaluate`
            needs that. It is pruned before the training.
        fit: Function of `(model, callbacks)` that trains the model with these callbacks.
        evaluate: Function of a model without wrappers that returns a number, or a dict of name to number
            whose first entry is the main metric.
        methods: List of criteria or their names. Or a dict of name to a criterion, its name, a dict of
            arguments of `tfap.prune`, or a `tfap.comparison.Method`. The name "tfmot" is tfmot's magnitude
            pruning of the same layers, for tf_keras only.
        sparsities: List of floats in (0, 1), or one.
        seeds: Integer >= 1, the number of seeds. Or a list of integers >= 0.
        pruning_schedule: Function from a sparsity to a `PruningSchedule`. The arguments of a method may
            override it. None spreads the pruning over the fit, as `tfap.prune` does with a float.
        directory: Directory in which to store every finished run. A second call trains only missing runs,
            also after an interruption. tfap cannot detect changes to functions. None stores nothing.
        workers: Integer >= 1. Number of processes, each with one thread and no GPU. With 1, this process runs
            everything, with all its threads and its GPU. None means one process per available core.
        gradient_data: Data for criteria that need gradients, as in `tfap.UpdatePruningStep`. Finished runs
            do not record it.
        gradient_steps: As in `tfap.UpdatePruningStep`.
        reconstruction_data: Inputs for `tfap.Reconstruction`, as in `tfap.UpdatePruningStep`.

    Returns:
        A `Comparison` with `rows`, `to_csv(path)`, and figures. It prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, or the directory has runs with other settings of a method.
        RuntimeError: If a run fails. The error names the run. Finished runs stay in the directory.

    Example:

    >>> import keras, numpy as np, tfap
    >>> x, y = np.random.rand(64, 4), np.random.rand(64)
    >>> def build_model():
    ...     layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    ...     model = keras.Sequential(layers)
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> def fit(model, callbacks):
    ...     model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    >>> def evaluate(model):
    ...     return model.evaluate(x, y, verbose=0)
    >>> compared = tfap.compare(build_model, fit, evaluate, ["magnitude"], [0.5], seeds=1, workers=1)
    >>> [(row.method, row.sparsity, row.zeros) for row in compared.rows]  # 16 of 40 weights
    [('dense', 0.0, 0.0), ('magnitude', 0.5, 0.4)]
    """
    sparsity_list, seed_list = _sparsity_list(sparsities), _seed_list(seeds)
    given = {"gradient_data": gradient_data, "gradient_steps": gradient_steps}
    data = {**given, "reconstruction_data": reconstruction_data}
    methods_by_name = pruning_methods.named(methods, sparsity_list, pruning_schedule, data)
    experiment = Experiment(build_model, fit, evaluate, methods_by_name)
    workers = worker_processes.cores() if workers is None else checks.integer("workers", workers)
    task = _Task(experiment, Store(directory))
    rows = {run: task.stored_row(run) for run in _runs(methods_by_name, sparsity_list, seed_list)}
    missing = [run for run, row in rows.items() if row is None]
    if workers > 1 and missing:
        worker_processes.check_picklable(
            build_model=build_model, fit=fit, evaluate=evaluate, methods=methods_by_name
        )
    rows |= {row.run: row for row in _trained_rows(task, missing, workers)}
    return Comparison(rows.values())


def _runs(methods, sparsities, seeds) -> list[Run]:
    return [
        Run(method, sparsity, seed)
        for method in methods
        for sparsity in ([0.0] if method == DENSE else sparsities)
        for seed in seeds
    ]


class _Task:
    """Performs runs and stores their rows."""

    def __init__(self, experiment, store):
        self._experiment, self._store = experiment, store

    def stored_row(self, run) -> Any:
        """The row of a run that finished earlier, or None."""
        return self._store.read(run, self._settings(run))

    def __call__(self, run) -> Row:
        row = self._experiment.perform(run)
        self._store.write(row, self._settings(run))
        return row

    def _settings(self, run):
        return pruning_methods.settings_text(self._experiment.methods[run.method], run.sparsity)


def _trained_rows(task, missing, workers):
    """Yields the rows of missing runs as they finish."""
    if not missing:
        return

    def perform(run):
        try:
            return task(run)
        except Exception as error:
            raise RuntimeError(f"The run {run} failed: {error}") from error

    results = worker_processes.results(task if workers > 1 else perform, missing, workers)
    with contextlib.closing(results):  # ends the processes even if the caller holds the exception
        for result in worker_processes.with_progress(results, len(missing)):
            if isinstance(result, worker_processes.Failure):
                raise RuntimeError(f"The run {result.run} failed in its process:\n{result.text}")
            yield result


def _sparsity_list(sparsities):
    values = [sparsities] if isinstance(sparsities, numbers.Real) else sparsities
    values = list(values) if isinstance(values, collections.abc.Iterable) else []
    if not values or not all(isinstance(value, numbers.Real) and 0 < value < 1 for value in values):
        raise ValueError(f"sparsities must be numbers in (0, 1), such as 0.9: received {sparsities!r}.")
    return _unique("sparsities", [float(value) for value in values])


def _seed_list(seeds):
    if isinstance(seeds, numbers.Integral):
        return list(range(checks.integer("seeds", seeds)))
    values = [checks.integer("A seed", seed, least=0) for seed in seeds]
    if not values:
        raise ValueError("There are no seeds: pass at least one.")
    return _unique("seeds", values)


def _unique(name, values):
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must differ from each other: received {values}.")
    return values
