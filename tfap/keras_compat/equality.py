"""The proof that two models do the same: how far their outputs are apart, and what rounding explains."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.keras_compat.inputs import random_arrays

SAMPLES = 16  # random inputs that are compared
_FREE_SIZE = 16
# Largest relative difference of outputs that counts as rounding, by the precision of the layers.
_ROUNDING = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the outputs of two models are apart.

    Attributes:
        absolute: largest difference of an output.
        relative: largest difference divided by the largest output.
    """

    absolute: float
    relative: float


def difference(model, other, arrays=None):
    """The `Difference` between the outputs of two built models, which read the same inputs.

    Args:
        model, other: Sequential or Functional models of either Keras.
        arrays: list with an array for each input; None makes random ones.
    """
    if arrays is None:
        arrays = random_arrays(keras_compat.inputs_of(model), SAMPLES, _FREE_SIZE)
    absolute = relative = 0.0
    for mine, others in zip(outputs_of(model, arrays), outputs_of(other, arrays), strict=True):
        largest = np.abs(mine[np.isfinite(mine)]).max(initial=0)
        farthest = float(largest_difference(others, mine))
        absolute = max(absolute, farthest)
        relative = max(relative, farthest / largest if largest else farthest)
    return Difference(absolute, float(relative))


def largest_difference(given, expected):
    """Of two arrays of a shape; infinite where only one is NaN, and for strings that differ."""
    if expected.dtype == object:  # strings
        return 0 if np.array_equal(given, expected) else np.inf
    given, expected = given.astype("float64"), expected.astype("float64")
    same = (given == expected) | (np.isnan(given) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.where(same, 0, given - expected))
    return np.where(np.isnan(apart), np.inf, apart).max(initial=0)


def outputs_of(model, arrays):
    """A model's outputs, float64, in inference mode."""
    chunks = [
        tf.nest.flatten(
            model(keras_compat.packed_inputs(model, [part[start:stop] for part in arrays]), training=False)
        )
        for start, stop in _chunks(len(arrays[0]))
    ]
    return [np.concatenate([np.asarray(part, np.float64) for part in parts]) for parts in zip(*chunks)]


def _chunks(count, size=1024):
    return [(start, start + size) for start in range(0, max(count, 1), size)]


def check_comparable(model):
    """Raises ValueError for a model that gives another output when it is called again."""
    for layer in keras_compat.all_layers(model):
        if getattr(layer, "stateful", False) is True and not keras_compat.is_model(layer):
            raise ValueError(
                f"'{layer.name}' in '{model.name}' is stateful: outputs depend on what the model was given "
                "before, so it cannot be shown that a smaller model has the same."
            )


def check_equal(model, compacted):
    """Compares two models on random inputs.

    Raises:
        RuntimeError: their outputs differ by more than rounding.
    """
    apart, allowed = difference(model, compacted), rounding(model)
    if not apart.relative <= allowed:
        raise RuntimeError(
            f"The compacted model's outputs differ from those of '{model.name}' by {apart.absolute:.1e} "
            f"({apart.relative:.1e} relative; rounding explains {allowed:.0e}), so it is not returned. "
            "Please report this with the model's summary."
        )


def rounding(model):
    """The relative difference of outputs that rounding explains in a model of this precision."""
    dtypes = [getattr(layer, "compute_dtype", None) for layer in keras_compat.all_layers(model)]
    return max(_ROUNDING.get(dtype, 1e-4) for dtype in [*dtypes, "float32"])
