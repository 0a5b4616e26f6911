"""The callback that watches how many neurons are dead while a model trains."""

import tensorflow as tf

from tfap import checks, keras_compat
from tfap.batches import Batches, can_repeat
from tfap.dead_neuron_reports import dead_neuron_report
from tfap.keras_compat import Callback
from tfap.measuring import ActivationMeter

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
        reports: `{epoch, from 0: tfap.dead_neuron_reports.DeadNeuronReport}`; a later fit that
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
