"""How the outputs of a model on some samples differ from those it had at first."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfap.exporting import runtime
from tfap.keras_compat.types import Model
from tfap.utils.accuracy import accuracy, check_labels

_CHUNK = 256  # samples per call


class OutputChange:
    """Measures a model on samples, again and again while its weights change.

    Args:
        model: The built model. It is compiled once, and not copied.
        inputs: List of arrays, one per input.
        labels: Labels as arrays, or None if there are none.
        metric: Function of `(labels, outputs)`, as in `tfap.report`. None for the accuracy.

    Attributes:
        samples: Integer. The number of samples.
        score: Float. The metric at first. None without labels.

    Raises:
        ValueError: If the inputs or labels do not fit the model.
    """

    def __init__(
        self,
        model: Model,
        inputs: list[np.ndarray],
        labels: Any = None,
        metric: Callable[[Any, Any], float] | None = None,
    ) -> None:
        self._run = runtime.of_model(model)
        self._inputs = [entry.checked(array, 1) for entry, array in zip(_any_batch(self._run.inputs), inputs)]
        self._labels, self._metric = labels, metric or accuracy
        self.samples = len(self._inputs[0])
        if labels is not None and metric is None:
            few = self._run.padded(*(array[:1] for array in self._inputs))
            check_labels(model.name, labels[:1], few[0] if len(few) == 1 else few)
        self._first = self._outputs()
        self._spread = [_squares(output - output.mean(axis=0)) for output in self._first]
        self.score = self._score(self._first)

    def measure(self) -> tuple[float, float | None]:
        """Runs the model as it is now.

        Returns:
            The squared change of its outputs relative to their variance, the mean over several outputs; and
            the metric, or None without labels.
        """
        outputs = self._outputs()
        changes = [
            _squares(output - first) / spread if spread else float(_squares(output - first) > 0)
            for output, first, spread in zip(outputs, self._first, self._spread)
        ]
        return float(np.mean(changes)), self._score(outputs)

    def _outputs(self):
        starts = range(0, self.samples, _CHUNK)
        chunks = [
            self._run.padded(*(array[start : start + _CHUNK] for array in self._inputs)) for start in starts
        ]
        return [np.concatenate(parts).astype(np.float64) for parts in zip(*chunks)]

    def _score(self, outputs):
        if self._labels is None:
            return None
        return float(self._metric(self._labels, outputs[0] if len(outputs) == 1 else outputs))


def _any_batch(inputs):
    return [dataclasses.replace(entry, shape=(None, *entry.shape[1:])) for entry in inputs]


def _squares(values):
    return float(np.square(values).sum())
