"""Records the singular values before and after every mask update."""

import dataclasses

import numpy as np

from tfap.keras_compat.types import Data
from tfap.layers.find import prunable_layers, with_paths
from tfap.low_rank.spectra import of_layers, spectrum
from tfap.training.callbacks import UpdatePruningStep


@dataclasses.dataclass(frozen=True, eq=False)
class SpectraAtUpdate:
    """The singular values before and after one mask update.

    Attributes:
        step: Integer. Number of training steps so far, over all fits.
        before: Dict of layer path to a descending float64 array. Singular values before the update of every
            pruned layer whose kernel is a matrix.
        after: Dict of the same form. Singular values after the update.
        sparsity: Float in [0, 1]. Pruned fraction of the prunable weights after the update.
    """

    step: int
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    sparsity: float


class RecordSingularValues(UpdatePruningStep):
    """Prunes like `tfap.UpdatePruningStep`, and records the singular values around every mask update.

    Use it in place of `tfap.UpdatePruningStep`. It shows whether an update lowers the singular values as a
    loss on their sum would, as Ganguli and Chong claim.

    Args:
        total_steps: As in `tfap.UpdatePruningStep`.
        gradient_data: As in `tfap.UpdatePruningStep`.
        gradient_steps: As in `tfap.UpdatePruningStep`.

    Attributes:
        history: List of `SpectraAtUpdate`, one per mask update of all fits, in order.

    Example:

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

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048)
    """

    def __init__(
        self, total_steps: int | None = None, gradient_data: Data = None, gradient_steps: int | None = None
    ) -> None:
        super().__init__(total_steps, gradient_data=gradient_data, gradient_steps=gradient_steps)
        self.history: list[SpectraAtUpdate] = []

    def before_update(self) -> None:
        """Keeps the singular values before a mask update."""
        self._before = self._spectra()

    def after_update(self) -> None:
        """Adds a `SpectraAtUpdate` to the history."""
        wrappers = prunable_layers(self.model)
        step = max(int(wrapper.pruning_step.numpy()) for wrapper in wrappers)
        masks = [mask.numpy() for wrapper in wrappers for _, _, mask in wrapper.kernel_and_mask()]
        sparsity = 1 - sum(map(np.count_nonzero, masks)) / sum(mask.size for mask in masks)
        self.history.append(SpectraAtUpdate(step, self._before, self._spectra(), float(sparsity)))

    def _spectra(self):
        return {matrix.path: spectrum(matrix) for matrix in of_layers(with_paths(self.model))}
