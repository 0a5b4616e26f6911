"""Performs one run: seed, build, prune, fit, strip, evaluate, and compact."""

import dataclasses
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

from tfap import keras_compat
from tfap.compaction.compact import compact
from tfap.comparison.runs import Row, Run, check_metric_names
from tfap.exporting.sizes import count_weights
from tfap.graph import flops
from tfap.keras_compat.types import Model
from tfap.utils.accuracy import metrics_of


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The user's three functions and the methods to compare.

    Attributes:
        build_model: As in `tfap.compare`.
        fit: As in `tfap.compare`.
        evaluate: As in `tfap.compare`.
        methods: Dict of name to method.

    Raises:
        TypeError: If one of the three is not a function, or does not accept the arguments.
    """

    build_model: Callable[..., Model]
    fit: Callable[..., Any]
    evaluate: Callable[..., Any]
    methods: dict[str, Any]

    def __post_init__(self) -> None:
        for name, arguments in (("build_model", ()), ("fit", (None, [])), ("evaluate", (None,))):
            _check_function(name, getattr(self, name), arguments)

    def perform(self, run: Run) -> Row:
        """Performs a `Run` and returns its `Row`."""
        method = self.methods[run.method]
        keras_compat.start_afresh(run.seed)
        model = _call(self.build_model, run)
        if not keras_compat.is_model(model):
            raise TypeError(f"build_model must return a Keras model: received {model!r}.")
        model = method.prune(model, run.sparsity)
        # Wrapping consumes random numbers: without this, methods would see the batches in different orders.
        keras_compat.set_seeds(run.seed)
        begin = time.perf_counter()
        _call(self.fit, run, model, method.callbacks())
        seconds = time.perf_counter() - begin
        stripped = method.strip(model)
        metrics = metrics_of(_call(self.evaluate, run, stripped))
        check_metric_names(metrics)
        return Row(**vars(run), metrics=metrics, **_sizes(stripped), fit_seconds=seconds)


# -- the user's functions --------------------------------------------------------------------------


def _call(function, run, *arguments):
    """Calls a function, with `run=run` if it has a parameter `run`."""
    return function(*arguments, **({"run": run} if _has_run_parameter(function) else {}))


def _has_run_parameter(function):
    signature = _signature(function)
    return signature is not None and "run" in signature.parameters


def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:  # a function written in C
        return None


def _check_function(name, function, arguments):
    if not callable(function):
        raise TypeError(f"{name} must be a function: received {function!r}.")
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*arguments, **({"run": None} if "run" in signature.parameters else {}))
    except TypeError as error:
        call = {"build_model": "()", "fit": "(model, callbacks)", "evaluate": "(model)"}[name]
        raise TypeError(
            f"{name} is called as {name}{call}, which {name}{signature} does not accept: {error}."
        ) from error


# -- sizes -----------------------------------------------------------------------------------------


def _sizes(stripped):
    compacted = compact(stripped)
    return {
        "zeros": _zero_fraction(stripped.get_weights()),
        "weights": _weight_count(stripped),
        "weights_compacted": _weight_count(compacted),
        "flops_compacted": _flops(compacted),
    }


def _zero_fraction(arrays):
    kernels = [array for array in arrays if array.ndim > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    return zeros / sum(kernel.size for kernel in kernels) if kernels else math.nan


def _weight_count(model):
    return count_weights(model.get_weights()).total


def _flops(model):
    try:
        return flops.flops(model)
    except ValueError:  # they depend on undefined dimensions
        return None
