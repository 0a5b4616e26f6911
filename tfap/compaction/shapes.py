"""Models of the shapes that a smaller model would have, to measure them before it is made."""

import numpy as np

from tfap.compaction.compact import remove_dead_channels
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model


def with_channels(model: Model, kept: np.ndarray, varied: bool = False) -> Model:
    """Makes a model of which only some channels are left. Its outputs do not matter.

    Args:
        model: A model of either Keras without wrappers. Unchanged.
        kept: Boolean array, shape `(groups,)`: which channel groups are kept.
        varied: Boolean. Whether to give every weight another value. A file holds equal arrays once, so a
            model with zeros may have a smaller file than one that was refitted.

    Returns:
        A new model.
    """
    liveness = Liveness(model)
    liveness.alive = kept.copy()
    small = remove_dead_channels(model, liveness).model
    if varied:
        generator = np.random.default_rng(0)
        small.set_weights([_varied(array, generator) for array in small.get_weights()])
    return small


def _varied(array, generator):
    is_float = "float" in str(array.dtype)
    return generator.uniform(0.5, 1.5, array.shape).astype(array.dtype) if is_float else array
