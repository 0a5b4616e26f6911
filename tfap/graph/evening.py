"""Grouped convolutions: every group keeps as many channels."""

import numpy as np

from tfap.graph.linear import Grouped
from tfap.graph.liveness import Liveness


def keep_even_groups(liveness: Liveness, kept: np.ndarray) -> bool:
    """Marks channels as kept until each group of a grouped convolution has as many. Changes `kept`.

    Args:
        liveness: The `Liveness` of the model.
        kept: Boolean array: which channel groups are kept.

    Returns:
        Whether something changed, so that other convolutions may need more channels too.
    """
    before = kept.copy()
    for path, matrix in liveness.linear_maps.items():
        if isinstance(matrix, Grouped):
            consumed, produced = liveness.groups(path)
            inputs, outputs = matrix.evened(input_mask(kept, consumed, matrix), kept[produced])
            kept[produced[outputs]] = True
            if consumed is not None:
                kept[consumed[inputs]] = True
    return not np.array_equal(kept, before)


def input_mask(mask, groups, matrix):
    """Returns the mask of a layer's input channels; all True if the channels are unknown."""
    return np.ones(matrix.nonzero.shape[0], bool) if groups is None else mask[groups]


def evened(liveness: Liveness, kept: np.ndarray) -> np.ndarray:
    """Returns kept groups, a boolean array, with those that grouped convolutions need too."""
    kept = kept.copy()
    while keep_even_groups(liveness, kept):
        pass
    return kept
