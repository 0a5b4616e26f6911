"""The proof that a compacted model does what the given one did, and what it has become smaller by."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfap import samples

# Largest relative difference of outputs that counts as rounding, by the precision of the layers.
_ROUNDING = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the outputs of two models are apart.

    Attributes:
        absolute: largest difference of an output.
        relative: that, divided by the largest output.
    """

    absolute: float
    relative: float


def difference(model, other, inputs):
    """The `Difference` between two models' outputs on the same inputs."""
    absolute = relative = 0.0
    for mine, others in zip(_outputs(model, inputs), _outputs(other, inputs), strict=True):
        apart = np.abs(mine - others).max(initial=0)
        if not np.isfinite(apart):
            apart = 0.0 if np.array_equal(mine, others, equal_nan=True) else np.inf
        largest = np.abs(mine[np.isfinite(mine)]).max(initial=0)
        absolute = max(absolute, float(apart))
        relative = max(relative, float(apart / largest if largest else apart))
    return Difference(absolute, relative)


def _outputs(model, inputs):
    outputs = tf.nest.flatten(model(inputs, training=False))
    return [np.asarray(tf.convert_to_tensor(output), np.float64) for output in outputs]


def check_equal(model, compacted):
    """Compares two models on random inputs.

    Raises:
        RuntimeError: their outputs differ by more than rounding.
    """
    apart = difference(model, compacted, samples.random_inputs(model))
    allowed = rounding(model)
    if not apart.relative <= allowed:
        raise RuntimeError(
            f"The compacted model's outputs differ from those of '{model.name}' by {apart.absolute:.1e} "
            f"({apart.relative:.1e} relative; rounding explains {allowed:.0e}), so it is not returned. "
            "Please report this with the model's summary."
        )


def rounding(model):
    """The relative difference that rounding explains in a model of this precision."""
    return max(_ROUNDING.get(layer.compute_dtype, 1e-4) for layer in [model, *model.layers])
