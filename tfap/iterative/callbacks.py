"""Callbacks of a cycle's training: the masks stay; the weights of an epoch are kept for a rewind."""

from tfap.callbacks import UpdatePruningStep
from tfap.iterative import weights
from tfap.keras_compat import Callback
from tfap.schedules import ConstantSparsity

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
        weights: as `tfap.iterative.weights.read` gives them; None before that epoch is over.
    """

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch
        self.epochs = 0
        self.weights = None

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        if self.epochs == self._epoch:
            self.weights = weights.read(self.model)
