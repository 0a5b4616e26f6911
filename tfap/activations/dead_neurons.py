"""Dead-neuron rates: a report from activation counts, and a callback that measures them during `fit`."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import Batches, check_repeatable
from tfap.activations.measure import ActivationMeter
from tfap.graph.counts import ActivationCounts
from tfap.graph.parts import parts_of
from tfap.keras_compat import Callback
from tfap.keras_compat.types import Data
from tfap.utils import checks, tables
from tfap.utils.summaries import Summaries

_COUNTS = "{layer path: ActivationCounts}, as tfap.measure_activations returns it"
_METRICS = ("dead_neuron_rate", "static_dead_neuron_rate", "dynamic_dead_neuron_rate")


@dataclasses.dataclass(frozen=True)
class DeadNeurons:
    """Holds the dead-neuron rate of a layer or a model, and its two parts.

    Attributes:
        units: Integer. Number of units that the rates average over: neurons, channels, or positions of
            channels.
        rate: Float in [0, 1]. Fraction of dead units, averaged over inputs: `static + dynamic`.
        static: Float in [0, 1]. Fraction of units that are dead on every input.
        dynamic: Float in [0, 1]. The part of `rate` that is due to units dead on some inputs only.
    """

    units: int
    rate: float
    static: float
    dynamic: float


@dataclasses.dataclass(frozen=True)
class DeadNeuronReport:
    """Holds the dead-neuron rates of a model and its layers. Prints as a table.

    Attributes:
        layers: Dict of layer path to `DeadNeurons`, in graph order.
        net: `DeadNeurons` of the model. Each layer is weighted by its units. Layers whose neurons fire in the
            same place share their units, which count once.
    """

    layers: dict[str, DeadNeurons]
    net: DeadNeurons

    def to_dict(self) -> dict[str, Any]:
        """Converts the report to plain data.

        Returns:
            A dict of "layers" and "net". "layers" is a dict of layer path to rates, "net" the rates of the
            model. Rates are dicts of attribute name to number.
        """
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        table = tables.table_of(["layer"], ["units", "dead", "static", "dynamic"])
        for path, dead_neurons in self.layers.items():
            table.add_row(path, *_cells(dead_neurons))
        table.add_section()
        table.add_row("all", *_cells(self.net))
        return tables.as_text(table)

    __repr__ = __str__


def dead_neuron_report(counts: Mapping[str, ActivationCounts]) -> DeadNeuronReport:
    """Computes the dead-neuron rate of a model and of its layers, with its static and dynamic parts.

    A ReLU neuron is dead on an input if it outputs 0. The dead-neuron rate is the fraction of dead neurons,
    averaged over inputs. Neurons that are dead on every input form its static part, and the others its
    dynamic part.

    Args:
        counts: Dict of layer path to `ActivationCounts`, as `tfap.measure_activations` returns it, or a part
            of it. Differences of two counts are valid too. Do not pass the counts of a whole training run: a
            neuron that died late has fired before, so it would count as dynamic. With another threshold than
            0, a neuron counts as dead on an input if its activation does not exceed the threshold.

    Returns:
        A `tfap.activations.dead_neurons.DeadNeuronReport`, which prints as a table.

    Raises:
        TypeError: If `counts` is not a dict of layer path to `ActivationCounts`.
        ValueError: If `counts` is empty, the counts of a layer cover no activations, or the thresholds of
            layers differ.

    Example:

    >>> dead_neuron_report({"hidden": ActivationCounts(np.array([8, 2, 0, 0]), seen=8)}).net
    DeadNeurons(units=4, rate=0.6875, static=0.5, dynamic=0.1875)

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2212.06145)
    """
    _check_counts(counts)
    layers = {path: _dead_neurons(layer_counts) for path, layer_counts in counts.items()}
    distinct = {id(layer_counts): layers[path] for path, layer_counts in counts.items()}
    return DeadNeuronReport(layers, _average(list(distinct.values())))


def _check_counts(counts):
    if not isinstance(counts, dict):
        raise TypeError(f"counts must be {_COUNTS}: received an object of type {type(counts).__name__}.")
    for value in counts.values():
        if not isinstance(value, ActivationCounts):
            raise TypeError(f"counts must be {_COUNTS}: received values of type {type(value).__name__}.")
    if not counts:
        raise ValueError("counts is empty: expected the counts of at least one layer.")
    for path, layer_counts in counts.items():
        if not layer_counts.seen:
            raise ValueError(
                f"counts has no activations of the layer '{path}': measure it on at least one batch."
            )
    thresholds = sorted({layer_counts.threshold for layer_counts in counts.values()})
    if len(thresholds) > 1:
        raise ValueError(
            f"counts has the thresholds {thresholds}, whose rates cannot be averaged: measure all layers "
            "with the same threshold."
        )


def _dead_neurons(counts):
    return DeadNeurons(
        len(counts.counts),
        counts.dead_neuron_rate,
        counts.static_dead_neuron_rate,
        counts.dynamic_dead_neuron_rate,
    )


def _average(layers):
    units = [layer.units for layer in layers]
    rates = np.average([(layer.rate, layer.static, layer.dynamic) for layer in layers], axis=0, weights=units)
    return DeadNeurons(sum(units), *map(float, rates))


def _cells(dead_neurons):
    rates = (dead_neurons.rate, dead_neurons.static, dead_neurons.dynamic)
    return [f"{dead_neurons.units:,}", *(f"{rate:.1%}" for rate in rates)]


class DeadNeuronMonitor(Callback):
    """Measures the dead-neuron rate at the end of epochs during `fit`, with or without pruning.

    It adds `dead_neuron_rate`, `static_dead_neuron_rate` and `dynamic_dead_neuron_rate` of the model to the
    logs of every epoch. `History`, the progress bar and callbacks after it in the list read them there.
    `tfap.dead_neuron_report` defines the rates.

    The monitor counts on `data`, with the weights at the end of the epoch, in inference mode. It changes
    neither training nor the counts of pruning wrappers. In a subclassed model that holds one Sequential or
    Functional model, it measures that one; `data` are then its inputs. Place the monitor after
    `tfap.UpdatePruningStep()` to measure after a prune at the end of the epoch.

    Args:
        data: Data to count on, as in `tfap.measure_activations`. It must be re-iterable, so a generator is
            not valid.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        positions: Boolean. Whether every position of a channel is a unit, instead of every channel.
        steps: Integer >= 1. Maximum number of batches. None for all batches.
        log_dir: Path of a folder for TensorBoard summaries of the model (`dead_neurons/rate`) and of every
            layer (`dead_neurons/<layer path>/rate`), each also with `/static` and `/dynamic`. None for no
            summaries.
        every: Integer >= 1. Measures after every n-th epoch. The logs of the other epochs hold NaN.

    Attributes:
        reports: Dict of epoch, counted from 0, to `tfap.activations.dead_neurons.DeadNeuronReport`. A later
            fit that starts at epoch 0 replaces earlier reports.

    Raises:
        TypeError: If an argument has the wrong type; for `data`, at the start of `fit`.
        ValueError: If an argument is out of its range, or `data` is an iterator. At the start of `fit`, or
            after the first epoch of an unbuilt model, if `tfap.measure_activations` does not support the
            model or the data, or if the model has no neurons to count.

    Example:

    >>> import keras, numpy, tfap
    >>> hidden = keras.layers.Dense(8, "relu", bias_initializer=keras.initializers.Constant(-9.0))
    >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.ones((32, 4)), numpy.ones((32, 1))
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[tfap.DeadNeuronMonitor(x)])
    >>> history.history["static_dead_neuron_rate"]
    [1.0, 1.0]

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2212.06145)
    """

    def __init__(
        self,
        data: Data,
        batch_size: int = 32,
        positions: bool = False,
        steps: int | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        checks.integer("every", every)
        checks.integer("batch_size", batch_size)
        check_repeatable("data", data, "epoch")
        self._data_arguments = {"data": data, "batch_size": batch_size, "steps": steps}
        self._positions = positions
        self._log_dir = log_dir
        self._every = every
        self._writer: Any = None
        self._meter: ActivationMeter | None = None
        self.reports: dict[int, DeadNeuronReport] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares the measurement. `fit` calls it."""
        self._meter = None
        if self._log_dir is not None:
            self._writer = Summaries(self._log_dir, "DeadNeuronMonitor")
        if not keras_compat.is_graph_model(self.model) or keras_compat.is_built(self.model):
            self._prepare()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures the rates and adds them to the logs. `fit` calls it."""
        if (epoch + 1) % self._every:
            rates = [float("nan")] * 3
        else:
            net = self._measure(epoch).net
            rates = [net.rate, net.static, net.dynamic]
        if logs is not None:
            logs.update(zip(_METRICS, rates))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the TensorBoard file. `fit` calls it."""
        if self._writer is not None:
            self._writer.close()

    def _prepare(self):
        model = self._measured_model()
        self._meter = ActivationMeter(model, "tfap.DeadNeuronMonitor", positions=self._positions)
        if not self._meter.paths:
            raise ValueError(
                f"The model '{model.name}' has no neurons to count: expected a layer with an "
                "activation, such as Dense(8, 'relu'), before the output layer."
            )
        self._batches = Batches(model, **self._data_arguments)

    def _measured_model(self):
        """Returns the model or, in a subclassed one, the only model that it trains."""
        parts = [] if keras_compat.is_graph_model(self.model) else parts_of(self.model)
        if len(parts) > 1:
            raise ValueError(
                f"The model '{self.model.name}' is subclassed and holds several models "
                f"({', '.join(part.prefix[:-1] for part in parts)}): call tfap.measure_activations on one of "
                "them, with data that it reads."
            )
        return parts[0].model if parts else self.model

    def _measure(self, epoch):
        if self._meter is None:  # the model was built by its first batch
            self._prepare()
        report = dead_neuron_report(self._meter.measure(self._batches))
        self.reports[epoch] = report
        if self._writer is not None:
            self._writer.write(_tagged(report), epoch)
        return report


def _tagged(report):
    """Returns the rates of a report by the names that TensorBoard shows."""
    tags = {"dead_neurons": report.net}
    tags |= {f"dead_neurons/{path}": dead_neurons for path, dead_neurons in report.layers.items()}
    return {
        f"{tag}/{part}": getattr(dead_neurons, part)
        for tag, dead_neurons in tags.items()
        for part in ("rate", "static", "dynamic")
    }
