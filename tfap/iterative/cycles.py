"""Trains one cycle: restore weights and masks, train, evaluate, and update the masks."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.dead_neurons import DeadNeurons, dead_neuron_report
from tfap.activations.measure import measure_activations
from tfap.iterative.results import Row, check_metric_names
from tfap.iterative.state import PackedMasks, Weights, read, write
from tfap.keras_compat import Callback
from tfap.keras_compat.types import Data, Model
from tfap.layers.find import prunable_layers
from tfap.pruning.prune import prune, strip_pruning
from tfap.schedules.own import ConstantSparsity
from tfap.training import mask_update
from tfap.training.callbacks import UpdatePruningStep
from tfap.utils.accuracy import metrics_of

_NO_UPDATES = ConstantSparsity(0.0, begin_step=2**40)  # masks are updated between the cycles
_DEAD_NEURON_BATCH = 128  # samples


class KeepMasks(UpdatePruningStep):
    """Trains a wrapped model without updating its masks. Arguments as in `tfap.UpdatePruningStep`."""

    def _warn_of_missing_updates(self):
        """Does nothing: no updates are due."""


class KeepWeights(Callback):
    """Keeps the weights at the end of one epoch.

    Args:
        epoch: Integer. The epoch, counted from 1 over all fits.

    Attributes:
        epochs: Integer. Number of finished epochs.
        weights: Weights as from `tfap.iterative.state.read`, or None before the end of the epoch.
    """

    def __init__(self, epoch: int | None) -> None:
        super().__init__()
        self._epoch = epoch
        self.epochs = 0
        self.weights: Weights | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch, and keeps the weights if it is the requested one."""
        self.epochs += 1
        if self.epochs == self._epoch:
            self.weights = read(self.model)


@dataclasses.dataclass(frozen=True, eq=False)
class Cycle:
    """The result of one cycle.

    Attributes:
        row: The `Row` of the cycle.
        weights: Weights after the training, as from `tfap.iterative.state.read`.
        next_masks: `PackedMasks` of the next cycle, or None after the last cycle.
        rewind_weights: Weights of the epoch to rewind to, or None if they are not from this cycle.
    """

    row: Row
    weights: Weights
    next_masks: PackedMasks | None = None
    rewind_weights: Weights | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains cycles.

    Attributes:
        model: As in `tfap.prune_iteratively`.
        fit: As in `tfap.prune_iteratively`.
        evaluate: As in `tfap.prune_iteratively`.
        data: As in `tfap.prune_iteratively`.
        seed: As in `tfap.prune_iteratively`.
        gradients: Dict of the gradient arguments of `tfap.UpdatePruningStep`.
        pruning: Dict of arguments of `tfap.prune`.
    """

    model: Model
    fit: Callable[..., Any]
    evaluate: Callable[..., Any] | None
    data: Data
    seed: int
    gradients: dict[str, Any]
    pruning: dict[str, Any]

    def wrapped_model(self) -> Model:
        """Returns a copy of the model with pruning wrappers."""
        return prune(self.model, _NO_UPDATES, **self.pruning)

    def train(
        self,
        cycle: int,
        weights: Weights,
        masks: PackedMasks,
        keep_epoch: int | None = None,
        next_alive: int | None = None,
    ) -> Cycle:
        """Trains one cycle.

        Args:
            cycle: Number of the cycle.
            weights: Initial weights, before the masks are applied.
            masks: `PackedMasks` of the cycle.
            keep_epoch: Epoch after which to keep the weights, or None.
            next_alive: Number of weights that the next masks keep, or None to make no masks.

        Returns:
            A `Cycle`. The `other_seconds` of its row are still 0.
        """
        model = self._prepared_model(cycle, weights, masks)
        keeper = KeepWeights(keep_epoch)
        callbacks = [KeepMasks(**self.gradients), *([keeper] if keep_epoch else [])]
        begin = time.perf_counter()
        history = self.fit(model, callbacks)
        fit_seconds = time.perf_counter() - begin
        if keep_epoch and keeper.weights is None:
            raise ValueError(f"rewind={keep_epoch} needs that many epochs: fit trained {keeper.epochs}.")
        stripped = strip_pruning(model)
        begin = time.perf_counter()
        metrics, dead = self._metrics(stripped), self._dead_neurons(stripped)
        training = _last_logs(history)
        check_metric_names(metrics, training, dead)
        row = Row(
            cycle,
            1 - masks.alive / masks.total,
            masks.alive,
            metrics,
            training,
            dead,
            fit_seconds,
            evaluate_seconds=time.perf_counter() - begin,
        )
        trained = read(model)
        return Cycle(row, trained, self._next_masks(model, masks, next_alive), keeper.weights)

    def _prepared_model(self, cycle, weights, masks):
        """A new model per cycle: its optimizer, counts, and traced functions are new."""
        seed = seed_of(self.seed, cycle)
        keras_compat.set_seeds(seed)  # random layers of tf_keras take their seeds when they are copied
        model = self.wrapped_model()
        write(model, weights)
        masks.write(model)
        for wrapper in prunable_layers(model):
            wrapper.updates_made.assign(cycle)
            wrapper.note_weights()
        states = keras_compat.SeedStates(model)
        if states:  # also of layers with a fixed seed: otherwise every cycle drops the same units
            states.write(_seed_states(states.read(), seed))
        keras_compat.set_seeds(seed)
        return model

    def _metrics(self, stripped) -> dict[str, float]:
        return {} if self.evaluate is None else metrics_of(self.evaluate(stripped))

    def _dead_neurons(self, stripped) -> DeadNeurons | None:
        if self.data is None:
            return None
        return dead_neuron_report(measure_activations(stripped, self.data, _DEAD_NEURON_BATCH)).net

    def _next_masks(self, model, masks, alive) -> PackedMasks | None:
        if alive is None:
            return None
        mask_update.update_masks(model, (masks.total - alive) / masks.total, **self.gradients)
        return PackedMasks.of(model)


def seed_of(seed: int, cycle: int, use: int = 0) -> int:
    """Derives the seed of a cycle, in [0, 2**32).

    Args:
        seed: Integer >= 0.
        cycle: Integer >= 0.
        use: 0 for the training, 1 for reinitialized weights.

    >>> seed_of(0, 1) != seed_of(0, 2) != seed_of(1, 2)
    True
    """
    return int(np.random.SeedSequence([seed, cycle, use]).generate_state(1)[0])


def _seed_states(states, seed):
    return np.random.default_rng(seed).integers(0, 2**31, states.shape).astype(states.dtype)


def _last_logs(history) -> dict[str, float]:
    logs = getattr(history, "history", None)
    if not isinstance(logs, dict):
        return {}
    return {name: float(values[-1]) for name, values in logs.items() if values and name != "sparsity"}
