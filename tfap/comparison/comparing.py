"""The entry: trains by every method, at every sparsity, from every seed."""

import collections.abc
import contextlib
import numbers

from tfap.comparison import methods as ways
from tfap.comparison import workers as processes
from tfap.comparison.experiments import Experiment
from tfap.comparison.results import Comparison
from tfap.comparison.runs import DENSE, Run, Store
from tfap.utils import checks


def compare(
    build_model,
    fit,
    evaluate,
    methods=("activation_count", "magnitude"),
    sparsities=(0.5, 0.8, 0.9),
    seeds=3,
    pruning_schedule=None,
    directory=None,
    workers=None,
):
    """Trains a model by several pruning methods, and without pruning, and says which is better.

    Every method is trained at every sparsity from every seed; "dense", without pruning, from every seed.
    Before `build_model` and before `fit` all seeds are set (both Kerases', NumPy's and Python's), so that
    runs of one seed begin with the same weights and see the same batches: differences are paired. Rows
    do not depend on the order of runs or on which process did them, if the functions keep nothing from
    one call to the next. Any of the three functions that has a parameter `run` also gets a `Run`, with
    method, sparsity, seed and a name for files.

    Args:
        build_model: function that returns a built model of either Keras, compiled if `fit` or `evaluate`
            need that. It is pruned untrained.
        fit: function of `(model, callbacks)` that trains the model with these callbacks.
        evaluate: function of a plain model that returns a number or a dict of name to number; the first
            is the main metric.
        methods: list of criteria or their names; or dict of name to one of these, to a dict of arguments of
            `tfap.prune`, or to a `tfap.comparison.Method`. "tfmot" is tfmot's own pruning by magnitude of
            the same layers, for models of tf_keras.
        sparsities: in (0, 1), what each method is asked for.
        seeds: how many, or a list of whole numbers.
        pruning_schedule: function from a sparsity to a `PruningSchedule`, which the arguments of a method
            may override; None spreads the pruning over the fit, as `tfap.prune` does with a float.
        directory: where every finished run is kept, so that a second call does only what is missing, also
            after a kill. None keeps nothing. A method that is on file with other settings is an error;
            that a function does something else than before cannot be seen.
        workers: number of processes, each with one thread and without a GPU; None is one a core that may be
            used. 1 runs everything in this process, with its own threads and GPU.

    Returns:
        A `Comparison`: it prints as a table, has `rows`, `to_csv(path)` and figures.

    Raises:
        TypeError, ValueError: before anything is trained, an argument that cannot be used.
        RuntimeError: a run failed; it names the run. What was finished is kept in the directory.

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
    sparsities, seeds = _sparsities(sparsities), _seeds(seeds)
    experiment = Experiment(build_model, fit, evaluate, ways.named(methods, sparsities, pruning_schedule))
    workers = processes.cores() if workers is None else checks.whole("workers", workers)
    wanted = [
        Run(method, sparsity, seed)
        for method in experiment.methods
        for sparsity in ([0.0] if method == DENSE else sparsities)
        for seed in seeds
    ]
    task = _Task(experiment, Store(directory))
    rows = {run: task.on_file(run) for run in wanted}
    missing = [run for run, row in rows.items() if row is None]
    if workers > 1 and missing:
        processes.check_picklable(
            build_model=build_model, fit=fit, evaluate=evaluate, methods=experiment.methods
        )
    rows |= {row.run: row for row in _finished(task, missing, workers)}
    return Comparison(rows.values())


class _Task:
    """Performs runs and keeps what comes out."""

    def __init__(self, experiment, store):
        self._experiment, self._store = experiment, store

    def on_file(self, run):
        """The row of a run that was finished before, or None."""
        return self._store.read(run, self._settings(run))

    def __call__(self, run):
        row = self._experiment.perform(run)
        self._store.write(row, self._settings(run))
        return row

    def _settings(self, run):
        return ways.settings_text(self._experiment.methods[run.method], run.sparsity)


def _finished(task, missing, workers):
    """Yields rows as they are done."""
    if not missing:
        return

    def perform(run):
        try:
            return task(run)
        except Exception as error:
            raise RuntimeError(f"The run {run} failed: {error}") from error

    found = processes.results(task if workers > 1 else perform, missing, workers)
    with contextlib.closing(found):  # ends the other processes, also while somebody holds the exception
        for row in processes.with_progress(found, len(missing)):
            if isinstance(row, processes.Failure):
                raise RuntimeError(f"The run {row.run} failed in its process:\n{row.text}")
            yield row


def _sparsities(sparsities):
    found = [sparsities] if isinstance(sparsities, numbers.Real) else sparsities
    found = list(found) if isinstance(found, collections.abc.Iterable) else []
    if not found or not all(isinstance(value, numbers.Real) and 0 < value < 1 for value in found):
        raise ValueError(f"sparsities must be numbers in (0, 1), such as 0.9: received {sparsities!r}.")
    return _once("sparsities", [float(value) for value in found])


def _seeds(seeds):
    if isinstance(seeds, numbers.Integral):
        return list(range(checks.whole("seeds", seeds)))
    found = [checks.whole("A seed", seed, least=0) for seed in seeds]
    if not found:
        raise ValueError("There are no seeds.")
    return _once("seeds", found)


def _once(name, values):
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must differ from each other: received {values}.")
    return values
