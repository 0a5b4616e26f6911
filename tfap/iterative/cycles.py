"""One cycle: a fresh copy of the net gets weights and masks, is trained, measured, and its masks updated."""

import dataclasses
import time

import numpy as np

from tfap import keras_compat
from tfap.activations.dead_neurons import dead_neuron_report
from tfap.activations.measure import measure_activations
from tfap.iterative.results import Row
from tfap.iterative.state import PackedMasks, read, write
from tfap.keras_compat import Callback
from tfap.layers.find import prunable_layers
from tfap.pruning.prune import prune, strip_pruning
from tfap.schedules import ConstantSparsity
from tfap.training import mask_update
from tfap.training.callbacks import UpdatePruningStep
from tfap.utils.accuracy import metrics_of

NEVER = ConstantSparsity(0.0, begin_step=2**40)  # masks are updated between trainings


class KeepMasks(UpdatePruningStep):
    """Trains a model with the masks that it has; arguments as for `tfap.UpdatePruningStep`."""

    def _warn_of_missing_updates(self):
        """None is missing."""


class KeepEpoch(Callback):
    """Keeps the weights at the end of an epoch.

    Args:
        epoch: which, counted from 1 over all fits.

    Attributes:
        epochs: how many there have been.
        weights: as `tfap.iterative.state.read` gives them; None before that epoch is over.
    """

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch
        self.epochs = 0
        self.weights = None

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        if self.epochs == self._epoch:
            self.weights = read(self.model)


_BATCH = 128  # samples, where dead neurons are counted


@dataclasses.dataclass(frozen=True, eq=False)
class Cycle:
    """What a finished cycle leaves.

    Attributes:
        row: its figures.
        weights: after the training, as `tfap.iterative.state.read` gives them.
        next_masks: `PackedMasks` of the next cycle; None after the last.
        kept: the weights to rewind to, of the epoch that was asked for; None if it was not this cycle's.
    """

    row: Row
    weights: dict
    next_masks: PackedMasks | None = None
    kept: dict | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Trains cycles; attributes are the arguments of `tfap.prune_iteratively` and those of `tfap.prune`."""

    model: object
    fit: object
    evaluate: object
    data: object
    seed: int
    gradients: dict
    pruning: dict

    def untrained(self):
        """A copy of the model with pruning wrappers."""
        return prune(self.model, NEVER, **self.pruning)

    def perform(self, cycle, weights, masks, keep_epoch=None, next_alive=None):
        """Trains one cycle.

        Args:
            cycle: its number.
            weights: that the training begins with; the masks are still to be laid over them.
            masks: `PackedMasks` of the training.
            keep_epoch: after which epoch weights are kept; None keeps none.
            next_alive: how many weights the next masks leave alive; None makes no next masks.

        Returns:
            A `Cycle`. Its row does not know the seconds for everything else.
        """
        model = self._ready(cycle, weights, masks)
        keeper = KeepEpoch(keep_epoch)
        callbacks = [KeepMasks(**self.gradients), *([keeper] if keep_epoch else [])]
        begin = time.perf_counter()
        history = self.fit(model, callbacks)
        fit_seconds = time.perf_counter() - begin
        if keep_epoch and keeper.weights is None:
            raise ValueError(f"rewind={keep_epoch} needs that many epochs: fit trained {keeper.epochs}.")
        plain = strip_pruning(model)
        begin = time.perf_counter()
        metrics, dead = self._metrics(plain), self._dead(plain)
        row = Row(
            cycle,
            1 - masks.alive / masks.total,
            masks.alive,
            metrics,
            _last_logs(history),
            dead,
            fit_seconds,
            evaluate_seconds=time.perf_counter() - begin,
        )
        trained = read(model)
        return Cycle(row, trained, self._next(model, masks, next_alive), keeper.weights)

    def _ready(self, cycle, weights, masks):
        """A model of its own for every cycle: its optimizer, counts and traced functions are new."""
        seed = seed_of(self.seed, cycle)
        keras_compat.set_seeds(seed)  # the copies of tf_keras's random layers draw theirs
        model = self.untrained()
        write(model, weights)
        masks.write(model)
        for wrapper in prunable_layers(model):
            wrapper.updates_made.assign(cycle)
            wrapper.note_weights()
        states = keras_compat.SeedStates(model)
        if states:  # those of layers that have a seed too, or every cycle would drop the same
            states.write(_seed_states(states.read(), seed))
        keras_compat.set_seeds(seed)
        return model

    def _metrics(self, plain):
        return {} if self.evaluate is None else metrics_of(self.evaluate(plain))

    def _dead(self, plain):
        if self.data is None:
            return None
        return dead_neuron_report(measure_activations(plain, self.data, _BATCH)).net

    def _next(self, model, masks, alive):
        if alive is None:
            return None
        mask_update.update_masks(model, (masks.total - alive) / masks.total, **self.gradients)
        return PackedMasks.of(model)


def seed_of(seed, cycle, use=0):
    """The seed of a cycle, in [0, 2**32).

    Args:
        seed, cycle: whole numbers >= 0.
        use: 0 for the training, 1 for drawing weights.

    >>> seed_of(0, 1) != seed_of(0, 2) != seed_of(1, 2)
    True
    """
    return int(np.random.SeedSequence([seed, cycle, use]).generate_state(1)[0])


def _seed_states(states, seed):
    return np.random.default_rng(seed).integers(0, 2**31, states.shape).astype(states.dtype)


def _last_logs(history):
    logs = getattr(history, "history", None)
    if not isinstance(logs, dict):
        return {}
    return {name: float(values[-1]) for name, values in logs.items() if values and name != "sparsity"}
