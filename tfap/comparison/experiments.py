"""What every run of a comparison does: seed, build, prune, fit, strip, evaluate, compact."""

import dataclasses
import inspect
import math
import time

from tfap import keras_compat
from tfap.compaction.compact import compact
from tfap.comparison.runs import Row, check_metric_names
from tfap.exporting.sizes import count_weights
from tfap.graph import flops
from tfap.utils.accuracy import metrics_of


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The user's three functions and the methods by name; see `tfap.compare`.

    Raises:
        TypeError: one of the three is no function, or takes other arguments.
    """

    build_model: object
    fit: object
    evaluate: object
    methods: dict

    def __post_init__(self):
        for name, arguments in (("build_model", ()), ("fit", (None, [])), ("evaluate", (None,))):
            _check_function(name, getattr(self, name), arguments)

    def perform(self, run):
        """The `Row` of a `Run`."""
        method = self.methods[run.method]
        keras_compat.start_afresh(run.seed)
        model = _call(self.build_model, run)
        if not keras_compat.is_model(model):
            raise TypeError(f"build_model must return a Keras model: {model!r}.")
        model = method.prune(model, run.sparsity)
        # Wrapping draws random numbers: without this, methods would see the batches in different orders.
        keras_compat.set_seeds(run.seed)
        begin = time.perf_counter()
        _call(self.fit, run, model, method.callbacks())
        seconds = time.perf_counter() - begin
        plain = method.strip(model)
        metrics = _numbers(_call(self.evaluate, run, plain))
        return Row(**vars(run), metrics=metrics, **_sizes(plain), fit_seconds=seconds)


# -- the user's functions --------------------------------------------------------------------------


def _call(function, run, *arguments):
    """Calls it, with `run=run` if it has a parameter of that name."""
    return function(*arguments, **({"run": run} if _wants_run(function) else {}))


def _wants_run(function):
    signature = _signature(function)
    return signature is not None and "run" in signature.parameters


def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:  # written in C
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
        raise TypeError(f"{name} is called as {name}{call}; {name}{signature} cannot be: {error}.") from error


def _numbers(found):
    metrics = metrics_of(found)
    check_metric_names(metrics)
    return metrics


# -- what is left ----------------------------------------------------------------------------------


def _sizes(plain):
    compacted = compact(plain)
    return {
        "zeros": _share_of_zeros(plain.get_weights()),
        "weights": _weights(plain),
        "weights_compacted": _weights(compacted),
        "flops_compacted": _flops(compacted),
    }


def _share_of_zeros(arrays):
    kernels = [array for array in arrays if array.ndim > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    return zeros / sum(kernel.size for kernel in kernels) if kernels else math.nan


def _weights(model):
    return count_weights(model.get_weights()).total


def _flops(model):
    try:
        return flops.flops(model)
    except ValueError:  # they depend on sizes that the model leaves open
        return None
