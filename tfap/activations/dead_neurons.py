"""Dead-neuron rates: a report from activation counts, and a callback that measures them during `fit`."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.activations.batches import Batches, can_repeat
from tfap.activations.measure import ActivationMeter
from tfap.graph.counts import ActivationCounts
from tfap.keras_compat import Callback
from tfap.utils import checks, tables


@dataclasses.dataclass(frozen=True)
class DeadNeurons:
    """The dead-neuron rate of a layer or a net, and its two parts.

    Attributes:
        units: how many neurons, or channels, or channels at positions, the rates are of.
        rate: share of dead units, averaged over inputs: `static + dynamic`. All are in [0, 1].
        static: share of units that were dead on every input.
        dynamic: the rest: of units that were dead on some inputs only.
    """

    units: int
    rate: float
    static: float
    dynamic: float


@dataclasses.dataclass(frozen=True)
class DeadNeuronReport:
    """The report; prints as a table.

    Attributes:
        layers: `{layer path: DeadNeurons}` in graph order.
        net: `DeadNeurons` of all of them. Layers weigh by their units; those that fire in the same place
            have the same units, which weigh once.
    """

    layers: dict[str, DeadNeurons]
    net: DeadNeurons

    def to_dict(self):
        """Everything as plain data: `{"layers": {path: {figure: value}}, "net": {figure: value}}`."""
        return dataclasses.asdict(self)

    def __str__(self):
        table = tables.table_of(["layer"], ["units", "dead", "static", "dynamic"])
        for path, dead in self.layers.items():
            table.add_row(path, *_texts(dead))
        table.add_section()
        table.add_row("all", *_texts(self.net))
        return tables.as_text(table)

    __repr__ = __str__


def dead_neuron_report(counts):
    """How many neurons are dead, by layer and in all: the dead-neuron rate, its static and dynamic parts.

    The rate is that of Liu et al. (AP, TMLR 2023): on an input a ReLU neuron is dead if it gives out 0.
    Neurons that are dead on every input make its static part, the others its dynamic part.

    Args:
        counts: `{layer path: ActivationCounts}`, as `tfap.measure_activations` gives them, or some of
            these; or the difference of two such counts. Never those of a whole training: a neuron that
            died on the way has fired before, and would be dynamic for ever.

    Returns:
        A `DeadNeuronReport`.

    Raises:
        TypeError: counts of another form.
        ValueError: no layers, or a layer of which no activations were seen.

    >>> dead_neuron_report({"hidden": ActivationCounts(np.array([8, 2, 0, 0]), seen=8)}).net
    DeadNeurons(units=4, rate=0.6875, static=0.5, dynamic=0.1875)
    """
    _check(counts)
    layers = {path: _dead(counted) for path, counted in counts.items()}
    distinct = {id(counted): layers[path] for path, counted in counts.items()}
    return DeadNeuronReport(layers, _all(list(distinct.values())))


def _check(counts):
    if not isinstance(counts, dict) or not all(isinstance(one, ActivationCounts) for one in counts.values()):
        raise TypeError(
            "counts must be {layer path: ActivationCounts}, as tfap.measure_activations gives it."
        )
    if not counts:
        raise ValueError("counts names no layers: no neurons are known to fire.")
    for path, counted in counts.items():
        if not counted.seen:
            raise ValueError(f"counts has seen no activations of the layer '{path}'.")


def _dead(counted):
    return DeadNeurons(
        len(counted.counts),
        counted.dead_neuron_rate,
        counted.static_dead_neuron_rate,
        counted.dynamic_dead_neuron_rate,
    )


def _all(layers):
    units = [dead.units for dead in layers]
    rates = np.average([(dead.rate, dead.static, dead.dynamic) for dead in layers], axis=0, weights=units)
    return DeadNeurons(sum(units), *map(float, rates))


def _texts(dead):
    return [f"{dead.units:,}", *(f"{share:.1%}" for share in (dead.rate, dead.static, dead.dynamic))]


_USER = "tfap.DeadNeuronMonitor"


class DeadNeuronMonitor(Callback):
    """Measures the dead-neuron rate during `fit`, at the end of epochs, with or without pruning.

    It adds `dead_neuron_rate`, `static_dead_neuron_rate` and `dynamic_dead_neuron_rate` of the net to the
    logs of every epoch, so History, the progress bar and callbacks behind it in the list see them. The
    neurons are counted on `data` at the weights of that moment, in inference mode: the training and the
    counts of pruning wrappers go on as without it. What the rates are: `tfap.dead_neuron_report`. Behind
    `tfap.UpdatePruningStep` in the list it sees what a prune at the end of the epoch has left.

    Args:
        data: what the neurons are counted on, as for `tfap.measure_activations`; not a generator, since it
            is gone through again and again.
        batch_size: samples a batch, for arrays only.
        positions: False for one neuron a channel, True for one at each of its positions.
        steps: at most this many batches; None for all of them.
        log_dir: a folder for TensorBoard, to which the rates of the net and of every layer are written as
            `dead_neurons/rate` and `dead_neurons/<layer path>/rate`, `/static` and `/dynamic`; None for none.
        every: measures after this many epochs each; the logs of the others hold NaN.

    Attributes:
        reports: `{epoch, from 0: tfap.activations.dead_neurons.DeadNeuronReport}`; a later fit that
            begins at epoch 0 again writes over those before.

    Raises:
        ValueError: data that can be gone through only once; and at the begin of the fit, or of a model that
            is not built before at the end of its first epoch, what `tfap.measure_activations` raises, and a
            model in which no neurons fire.

    >>> import keras, numpy, tfap
    >>> hidden = keras.layers.Dense(8, "relu", bias_initializer=keras.initializers.Constant(-9.0))
    >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.ones((32, 4)), numpy.ones((32, 1))
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[tfap.DeadNeuronMonitor(x)])
    >>> history.history["static_dead_neuron_rate"]
    [1.0, 1.0]
    """

    def __init__(self, data, batch_size=32, positions=False, steps=None, log_dir=None, every=1):
        super().__init__()
        checks.whole("every", every)
        checks.whole("batch_size", batch_size)
        if not can_repeat(data):
            raise ValueError(
                "data is an iterator, which is used up after one epoch: pass arrays, a tf.data.Dataset or "
                f"something else that can be gone through again. Received {type(data).__name__}."
            )
        self._data = {"data": data, "batch_size": batch_size, "steps": steps}
        self._positions = positions
        self._log_dir = log_dir
        self._every = every
        self._writer = None
        self.reports = {}

    def on_train_begin(self, logs=None):
        self._meter = None
        if self._log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self._log_dir))
        if not keras_compat.is_graph_model(self.model) or keras_compat.is_built(self.model):
            self._prepare()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every:
            rates = [float("nan")] * 3
        else:
            net = self._measure(epoch).net
            rates = [net.rate, net.static, net.dynamic]
        if logs is not None:
            names = ("dead_neuron_rate", "static_dead_neuron_rate", "dynamic_dead_neuron_rate")
            logs.update(zip(names, rates))

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()

    def _prepare(self):
        self._meter = ActivationMeter(self.model, _USER, positions=self._positions)
        if not self._meter.paths:
            raise ValueError(f"No neurons are known to fire in the model '{self.model.name}'.")
        self._batches = Batches(self.model, **self._data)

    def _measure(self, epoch):
        if self._meter is None:  # the first batch has built the model
            self._prepare()
        report = dead_neuron_report(self._meter.measure(self._batches))
        self.reports[epoch] = report
        if self._writer is not None:
            _write(self._writer, report, epoch)
        return report


def _write(writer, report, epoch):
    named = {"dead_neurons": report.net}
    named |= {f"dead_neurons/{path}": dead for path, dead in report.layers.items()}
    with writer.as_default(step=epoch):
        for name, dead in named.items():
            _write_scalar(f"{name}/rate", dead.rate)
            _write_scalar(f"{name}/static", dead.static)
            _write_scalar(f"{name}/dynamic", dead.dynamic)
    writer.flush()


def _write_scalar(name, value):
    """What `tf.summary.scalar` writes, which cannot do so where TensorBoard is not installed."""
    scalars = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=scalars, data_class=1)  # DATA_CLASS_SCALAR
    tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)
