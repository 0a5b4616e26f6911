"""The statistics that BatchNormalization layers normalize with, computed exactly over data.

In training, a BatchNormalization normalizes with the mean and variance of the batch, and notes a moving
average of them, with which it normalizes in inference. The moving average lags behind by many steps.
"""

import contextlib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import logging

from tfap import keras_compat
from tfap.activations.batches import EMPTY
from tfap.activations.stepwise import StepwiseRun, Stop
from tfap.graph.calls import Graph, unwrap
from tfap.keras_compat import eager
from tfap.keras_compat.types import Model

_FEW = 100  # values per channel: the standard error of a variance is then about sqrt(2 / 100) = 14%
_CHUNK = 2**16  # values that are converted to float64 at a time


class Moments:
    """Mean and variance of values per channel, summed over batches in float64.

    Batches are combined as by Chan, Golub and LeVeque, so that a large mean costs no precision.

    Args:
        axes: Tuple of integers. The axes that index the channels.

    Attributes:
        count: Integer. Number of values per channel.

    Example:

    >>> moments = Moments((-1,))
    >>> moments.add(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> moments.add(np.array([[5.0, 8.0]]))
    >>> moments.count, moments.mean, moments.variance
    (3, array([3., 6.]), array([2.66666667, 2.        ]))

    References:
        - [Chan, Golub and LeVeque, 1983](https://doi.org/10.1080/00031305.1983.10483115)
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        self._axes = axes
        self.count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0

    def plus(self, other: "Moments") -> "Moments":
        """Returns the moments of the values of both."""
        total = Moments(self._axes)
        for part in (self, other):
            total._combine(part.count, part._mean, part._squares)
        return total

    def add(self, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Adds a batch.

        Args:
            values: Float array with the batch on the first axis.
            mask: Boolean array of the shape of `values` without the last axis. False leaves a position out.
        """
        axes = [axis % values.ndim for axis in self._axes]
        moved = np.moveaxis(values, axes, range(-len(axes), 0))
        shape = moved.shape[values.ndim - len(axes) :]
        rows = moved.reshape(-1, int(np.prod(shape)))
        if mask is not None:  # channels are on the last axis
            rows = rows[np.broadcast_to(np.asarray(mask, bool)[..., None], values.shape)[..., 0].ravel()]
        step = max(1, _CHUNK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            self._add_rows(rows[start : start + step].astype(np.float64), shape)

    def _add_rows(self, rows, shape):
        mean = rows.mean(axis=0)
        rows -= mean
        squares = np.einsum("rc,rc->c", rows, rows)
        self._combine(len(rows), mean.reshape(shape), squares.reshape(shape))

    def _combine(self, count, mean, squares):
        total = self.count + count
        if not count:
            return
        difference = mean - self._mean
        self._mean = self._mean + difference * (count / total)
        self._squares = self._squares + squares + difference**2 * (self.count * count / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """float64 array with one entry per channel."""
        return np.asarray(self._mean)

    @property
    def variance(self) -> np.ndarray:
        """float64 array with one entry per channel. The biased variance, as Keras computes it."""
        return np.asarray(self._squares) / max(1, self.count)


Statistics = Mapping[int, tuple[np.ndarray, np.ndarray]]  # id of a layer -> (mean, variance)


def normalizations(model: Model, include_frozen: bool = False) -> dict[str, Any]:
    """Finds the BatchNormalization layers whose statistics training updates.

    Args:
        model: A built Sequential or Functional model.
        include_frozen: Whether to also list those that are frozen: with `trainable=False`, or, in tf_keras,
            only called with `training=False`.

    Returns:
        Dict of path to layer, in graph order. Those inside another layer have its path and their name.
    """
    graph = Graph(model)
    found: dict[str, Any] = {}
    for path, outer in graph.layers():
        inner = [] if not keras_compat.is_layer(outer) else keras_compat.all_layers(outer)
        for layer in (outer, *inner):
            if eager.is_batch_normalization(layer) and layer.built:
                frozen = not layer.trainable or graph.never_trains(path)
                always = all(call.training is True for call in graph.calls_of[path])
                uses_batch = always and not keras_compat.is_keras3(layer)  # never the moving statistics
                if not uses_batch and (include_frozen or not frozen):
                    own = layer is outer or layer is unwrap(outer)
                    found.setdefault(path if own else f"{path}/{layer.name}", layer)
    return found


def statistics(
    model: Model, batches: Iterable[Any], layers: Mapping[str, Any], repeatable: bool = True
) -> Statistics:
    """Computes the mean and variance of what BatchNormalization layers consume, in inference mode.

    Layers are computed in graph order, each with new statistics in the layers before it. The statistics of a
    shared layer are those over all its calls. If one of its calls depends on another one, the calls before
    normalize with the statistics up to there meanwhile.

    Args:
        model: The model. It is as before afterwards.
        batches: Iterable of model inputs.
        layers: Dict of path to layer, as `normalizations` returns it.
        repeatable: Whether `batches` can be read more than once.

    Returns:
        Dict of the id of a layer to its mean and variance.

    Raises:
        ValueError: If there are no batches, they do not fit the model, or a layer gets less than two values
            per channel, or one that is NaN or infinite.
    """
    run = StepwiseRun(model, batches, functools.partial(_holds, layers.values()), repeatable)
    meters = [_Meter(path, layer, run) for path, layer in layers.items()]
    with keras_compat.unchanged(model), contextlib.ExitStack() as stack:
        for meter in meters:
            stack.enter_context(meter.measuring())
        while (waiting := [meter for meter in meters if not meter.is_set]) and run.make_pass():
            reached = [meter for meter in waiting if meter.records]
            if not reached:
                break
            for meter in [meter for meter in reached if meter.is_complete()] or reached[:1]:
                meter.set_statistics()
        if not run.batches:
            raise ValueError(EMPTY)
        for meter in waiting:
            logging.warning("'%s' keeps its statistics: nothing calls it in inference.", meter.path)
        if any(meter.records for meter in meters):  # some calls depend on others of the same layer
            run.make_pass()
        return {id(meter.layer): meter.result() for meter in meters if meter.is_set}


def _holds(layers, call):
    ids = set(map(id, layers))
    inner = keras_compat.all_layers(call.layer) if keras_compat.is_layer(call.layer) else ()
    return any(id(layer) in ids for layer in (call.layer, *inner))


class _Meter:
    """Measures what one BatchNormalization consumes, and stops its calls until it has its statistics.

    Attributes:
        path: String. Path of the layer.
        layer: The layer.
        is_set: Whether the layer has its statistics, and computes.
        records: Dict of `(batch, call)` to `(execution, Moments)`. A call made again replaces its own.
    """

    def __init__(self, path, layer, run):
        self.path, self.layer, self._run = path, layer, run
        self._calls = sum(_holds([layer], call) for call in run.goals)
        self.is_set, self.records = False, {}
        axis = layer.axis
        self._axes = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
        self._result = None

    @contextlib.contextmanager
    def measuring(self):
        """Measures in the layer's `call` within this context."""

        def make_call(call):
            def measuring_call(inputs, *args, **kwargs):
                run = self._run
                if self.is_set and self.records:
                    self._record(inputs, kwargs.get("mask"))
                elif not self.is_set and run.spoiled_by in (None, self):
                    self._record(inputs, kwargs.get("mask"))
                    if unwrap(run.position[1].layer) is self.layer:
                        raise Stop
                    run.spoiled_by = (
                        self  # a layer that calls this one may do so again, as for each time step
                    )
                return call(inputs, *args, **kwargs)

            return measuring_call

        with eager.call_replaced(self.layer, make_call):
            yield

    def _record(self, inputs, mask):
        if getattr(self.layer, "fused", False):  # tf_keras then ignores the mask in training
            mask = None
        execution, moments = self.records.get(self._run.position, (None, None))
        if execution != self._run.executions:
            moments = Moments(self._axes)
            self.records[self._run.position] = self._run.executions, moments
        moments.add(keras_compat.to_numpy(inputs), None if mask is None else np.asarray(mask))

    def is_complete(self):
        """Returns whether every call was reached in every batch."""
        return len(self.records) >= self._run.batches * self._calls

    def set_statistics(self):
        """Lets the layer normalize with what was measured."""
        self._result = self._sum()
        write(self.layer, *self._result)
        self.is_set = True
        if self.is_complete():
            self.records = {}

    def result(self):
        """Returns the mean and variance over all calls."""
        return self._sum() if self.records else self._result

    def _sum(self):
        total = functools.reduce(Moments.plus, (moments for _, moments in self.records.values()))
        if total.count < 2:
            raise ValueError(
                f"The data has {total.count} value(s) per channel of '{self.path}', from which no variance "
                "can be computed: pass more samples."
            )
        if not (np.isfinite(total.mean).all() and np.isfinite(total.variance).all()):
            raise ValueError(
                f"What '{self.path}' consumes is NaN or infinite on the data: check the data and the weights "
                "of the layers before it."
            )
        if total.count < _FEW:
            logging.warning(
                "The statistics of '%s' come from %d values per channel: expect an error of about %.0f%% in "
                "its variances, or pass more samples.",
                self.path,
                total.count,
                100 * np.sqrt(2 / total.count),
            )
        return total.mean, total.variance


def write(layer: Any, mean: np.ndarray, variance: np.ndarray) -> None:
    """Writes the statistics of a BatchNormalization."""
    for variable, values in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        variable.assign(values.reshape(variable.shape).astype("float32"))
