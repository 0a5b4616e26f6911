"""What pruning does to singular values, update by update."""

import dataclasses

import numpy as np

from tfap.layers.find import prunable_layers, with_paths
from tfap.low_rank.spectra import of_layers, spectrum
from tfap.training.callbacks import UpdatePruningStep


@dataclasses.dataclass(frozen=True, eq=False)
class SpectraAtUpdate:
    """The singular values around one mask update.

    Attributes:
        step: training steps so far, over all fits.
        before, after: `{layer path: float64 array, descending}` of every layer that is pruned and has a
            kernel that is a matrix.
        sparsity: the pruned share of the prunable weights afterwards.
    """

    step: int
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    sparsity: float


class RecordSingularValues(UpdatePruningStep):
    """Prunes like `tfap.UpdatePruningStep`, in whose place it stands, and keeps the singular values.

    With it the claim of Ganguli and Chong (Algorithms 17(1):48, 2024) can be looked at, that a prune takes
    from the singular values what a loss on their sum would take.

    Args:
        total_steps, **gradients: as for `tfap.UpdatePruningStep`.

    Attributes:
        history: a `SpectraAtUpdate` for each mask update of all fits, in order.

    >>> import keras, numpy, tfap
    >>> from tfap import low_rank
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1)]
    >>> model = tfap.prune(keras.Sequential(layers), tfap.ConstantSparsity(0.5, 2, frequency=10))
    >>> model.compile("sgd", "mse")
    >>> recorder = low_rank.RecordSingularValues()
    >>> x, y = numpy.ones((32, 4)), numpy.ones((32, 1))
    >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[recorder])
    >>> [(record.step, record.sparsity, record.after["hidden"].shape) for record in recorder.history]
    [(2, 0.5, (4,))]
    """

    def __init__(self, total_steps=None, **gradients):
        super().__init__(total_steps, **gradients)
        self.history = []

    def before_update(self):
        self._before = self._spectra()

    def after_update(self):
        wrappers = prunable_layers(self.model)
        step = max(int(wrapper.pruning_step.numpy()) for wrapper in wrappers)
        masks = [mask.numpy() for wrapper in wrappers for _, _, mask in wrapper.kernel_and_mask()]
        sparsity = 1 - sum(map(np.count_nonzero, masks)) / sum(mask.size for mask in masks)
        self.history.append(SpectraAtUpdate(step, self._before, self._spectra(), float(sparsity)))

    def _spectra(self):
        found = of_layers(with_paths(self.model))
        return {matrix.path: spectrum(matrix) for matrix in found}
