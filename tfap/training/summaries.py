"""The callback that writes what pruning does for TensorBoard."""

import os
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import Batches, check_repeatable
from tfap.activations.measure import ActivationMeter
from tfap.graph.counts import ActivationCounts
from tfap.keras_compat import Callback
from tfap.keras_compat.types import Data
from tfap.layers.find import prunable_layers
from tfap.training import mask_update
from tfap.utils import checks
from tfap.utils.summaries import Summaries


class PruningSummaries(Callback):
    """Writes the sparsity of each layer, its threshold, and how its neurons fire, for TensorBoard.

    Place it after `tfap.UpdatePruningStep()`, so that it sees the masks of the same epoch. It runs in the
    `fit` of both Kerases, and changes nothing of it. With `update_freq="epoch"`, a training step costs the
    same as without it.

    For a model and for each layer, such as `hidden`, it writes:

    - `pruning/sparsity`, `pruning/hidden/sparsity`: the pruned fraction of the prunable weights.
    - `pruning/hidden/threshold`: the smallest absolute value of the weights that are kept.
    - `pruning/hidden/firing_rate`: the mean firing rate of its neurons, and `pruning/hidden/firing_rates`,
      their histogram.
    - `pruning/hidden/silent`: the fraction of its neurons that never fired.

    Args:
        log_dir: Path of the folder of the TensorBoard files.
        update_freq: "epoch" to write at the end of every epoch, with the epoch as the step; or an integer
            >= 1 to write after so many batches, with the number of training steps as the step.
        data: Data on which firing rates are measured, in inference mode with the weights of the moment, as in
            `tfap.measure_activations`. None for those of the training since the last time, which the wrappers
            count if their criterion does, as that of activation-based pruning does.
        batch_size: Integer >= 1. Samples per batch of `data`, for arrays only.

    Raises:
        TypeError: If an argument has the wrong type, or `data` is not iterable.
        ValueError: If a number is less than 1, or `data` is a one-shot iterator. At the beginning of the fit,
            if the model has no pruning wrappers.
        ModuleNotFoundError: At the beginning of the fit, if TensorFlow is not installed.

    Example:

    >>> import keras, numpy, pathlib, tempfile, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), 0.5)
    >>> model.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     callbacks = [tfap.UpdatePruningStep(), tfap.PruningSummaries(folder)]
    ...     history = model.fit(numpy.ones((32, 4)), numpy.ones((32, 1)), verbose=0, callbacks=callbacks)
    ...     len(list(pathlib.Path(folder).glob("events*")))
    1
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        update_freq: str | int = "epoch",
        data: Data | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if not isinstance(log_dir, str | os.PathLike):
            raise TypeError(f"log_dir must be the path of a folder: received {log_dir!r}.")
        checks.integer("batch_size", batch_size)
        if update_freq != "epoch":
            checks.integer("update_freq", update_freq)
            # Set on the instance: otherwise, Keras calls nothing at the end of a batch.
            self.on_train_batch_end = self._end_batch
        if data is not None:
            check_repeatable("data", data, "epoch")
        self._log_dir, self._every = log_dir, update_freq
        self._data, self._batch_size = data, batch_size
        self._writer: Summaries | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the file. `fit` calls it."""
        self._weights: list[Any] | None = None
        self._meter: ActivationMeter | None = None
        if not prunable_layers(self.model):
            raise ValueError(
                f"The model '{self.model.name}' has no pruning wrappers: call tfap.prune(model, schedule) "
                "and fit its result."
            )
        self._writer = Summaries(self._log_dir, "PruningSummaries")
        self._batches = self._written = 0
        are_built = all(wrapper.built for wrapper in prunable_layers(self.model))
        self._earlier = self._counted() if are_built else {}  # those of a subclassed model are not yet

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the figures. `fit` calls it."""
        if self._every == "epoch":
            keras_compat.backend_of(self.model).sync(self.model)
            self._write(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the file. `fit` calls it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _end_batch(self, batch, logs=None):
        before = self._batches % self._every
        passed = batch + 1 - self._written if batch + 1 > self._written else batch + 1
        self._written = batch + 1  # several with steps_per_execution
        self._batches += passed
        if before + passed >= self._every:
            keras_compat.backend_of(self.model).sync(self.model)
            self._write(max(int(weight.wrapper.pruning_step.numpy()) for weight in self._pruned_weights()))

    # -- figures -----------------------------------------------------------------------------------

    def _write(self, step):
        numbers = self._sparsities()
        rates = self._rates()
        for path, firing_rates in rates.items():
            numbers[f"pruning/{path}/firing_rate"] = float(firing_rates.mean())
            numbers[f"pruning/{path}/silent"] = float((firing_rates == 0).mean())
        self._writer.write(
            numbers, step, {f"pruning/{path}/firing_rates": each for path, each in rates.items()}
        )

    def _sparsities(self):
        weights = self._pruned_weights()
        numbers = {"pruning/sparsity": mask_update.sparsity_of(weights)}
        for path, of_layer in _by_path(weights).items():
            numbers[f"pruning/{path}/sparsity"] = mask_update.sparsity_of(of_layer)
            numbers[f"pruning/{path}/threshold"] = min(map(_smallest_kept, of_layer))
        return numbers

    def _pruned_weights(self):
        if self._weights is None:
            self._weights = mask_update.pruned_weights(self.model)
        return self._weights

    def _rates(self):
        """Returns the firing rates of the neurons of each layer, a dict by path."""
        counts = self._window() if self._data is None else self._measured()
        return {path: counted.firing_rate for path, counted in counts.items() if len(counted.counts)}

    def _window(self):
        """Returns the counts of the training since the last time."""
        now = self._counted()
        window = {path: _difference(counted, self._earlier.get(path)) for path, counted in now.items()}
        self._earlier = now
        return {path: counted for path, counted in window.items() if counted is not None}

    def _counted(self):
        """Returns the counts of each layer whose wrapper counts how often its own neurons fire."""
        counted = {}
        for weight in self._pruned_weights():
            criterion = weight.wrapper.criterion
            if criterion.counts == "output" and criterion.statistic == "count":
                counted[weight.path] = weight.wrapper.counted()
        return {path: counts for path, counts in counted.items() if counts is not None}

    def _measured(self):
        if self._meter is None:
            self._meter = ActivationMeter(self.model, "tfap.PruningSummaries")
            self._measured_data = Batches(self.model, self._data, self._batch_size)
        return self._meter.measure(self._measured_data)


def _by_path(weights):
    found: dict[str, list[Any]] = {}
    for weight in weights:
        found.setdefault(weight.path, []).append(weight)
    return found


def _smallest_kept(weight):
    """Returns the smallest absolute value of the kept weights of a kernel."""
    values = np.abs(keras_compat.to_numpy(weight.variable).astype("float32"))
    return float(np.min(values[keras_compat.to_numpy(weight.mask) != 0], initial=np.inf))


def _difference(now: ActivationCounts, earlier: ActivationCounts | None) -> ActivationCounts | None:
    """Returns the counts since earlier ones; None if there are none, as after restoring an older state."""
    window = now if earlier is None else now - earlier
    return window if window.seen > 0 and window.counts.min(initial=0) >= 0 else None
