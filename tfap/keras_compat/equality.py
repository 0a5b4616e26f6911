"""Equivalence checks: how far the outputs of two models are apart, and what float rounding explains."""

import dataclasses
import re

import numpy as np
from absl import logging

from tfap.keras_compat.graphs import all_layers
from tfap.keras_compat.inputs import random_arrays
from tfap.keras_compat.owner import is_model, to_numpy, tree_of
from tfap.keras_compat.running import inputs_of, packed_inputs
from tfap.keras_compat.training import unchanged

SAMPLES = 16  # random inputs per comparison
_FEW_SAMPLES = 2  # if outputs must be bit-identical
# Sizes tried for undefined dimensions: a model with many poolings or a wide window needs a large one.
_UNDEFINED_SIZES = (16, 32, 64, 128, 256)
# Relative differences of outputs that rounding explains, by the precision of the layers.
_ROUNDING = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far apart the outputs of two models are.

    Attributes:
        absolute: Float. The largest difference of an output value.
        relative: Float. The largest difference divided by the largest output value.
        values: Integer. How many output values were compared; NaN in both models is not a comparison.
    """

    absolute: float
    relative: float
    values: int


def difference(model, other, arrays=None):
    """Compares the outputs of two built models that read the same inputs.

    Args:
        model: A Sequential or Functional model of either Keras.
        other: Another one.
        arrays: List of one array per input; None makes random ones.

    Returns:
        A `Difference`.

    Raises:
        ValueError: If there is an output of which no value can be compared.
    """
    if arrays is None:
        arrays, expected = comparison_inputs(model)
    else:
        expected = outputs_of(model, arrays)
        _check_comparable_values(model, expected)
    return _difference(expected, outputs_of(other, arrays))


def _difference(expected, outputs):
    absolute = relative = 0.0
    values = 0
    for mine, others in zip(expected, outputs, strict=True):
        largest = np.abs(mine[np.isfinite(mine)]).max(initial=0)
        farthest = float(largest_difference(others, mine))
        absolute = max(absolute, farthest)
        relative = max(relative, farthest / largest if largest else farthest)
        values += int(np.count_nonzero(~np.isnan(mine)))
    return Difference(absolute, float(relative), values)


def largest_difference(given, expected):
    """Of two arrays of a shape; infinite where only one is NaN, and for strings that differ."""
    if expected.dtype == object:  # strings
        return 0 if np.array_equal(given, expected) else np.inf
    given, expected = given.astype("float64"), expected.astype("float64")
    same = (given == expected) | (np.isnan(given) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.where(same, 0, given - expected))
    return np.where(np.isnan(apart), np.inf, apart).max(initial=0)


def comparison_inputs(model, samples=SAMPLES):
    """Finds random inputs on which a model can be compared with another one.

    Args:
        model: A built Sequential or Functional model of either Keras.
        samples: Integer. How many inputs.

    Returns:
        `(list of one array per input, list of the model's outputs on them)`.

    Raises:
        ValueError: If the model fails on all random inputs that were tried, or has an output without a value
            that can be compared.
    """
    entries = inputs_of(model)
    has_undefined = any(None in entry.shape[1:] for entry in entries)
    failure = None
    for size in _UNDEFINED_SIZES if has_undefined else (None,):
        for uniform in (False, True):
            arrays = random_arrays(entries, samples, size, uniform=uniform)
            try:
                outputs = outputs_of(model, arrays)
                _check_comparable_values(model, outputs)
                return arrays, outputs
            except _ChannelsFirstError:
                raise
            except Exception as error:  # the model is the user's code
                failure = failure or error
    raise ValueError(
        f"The model '{model.name}' cannot be compared on random inputs ({failure}): pass data=, arrays on "
        "which it can."
    ) from failure


def _check_comparable_values(model, outputs):
    if not outputs:
        raise ValueError(f"'{model.name}' has no outputs")
    for index, values in enumerate(outputs):
        if np.isnan(values).all():  # also if there are none
            what = f"is NaN in all {values.size} values" if values.size else f"is empty, {values.shape}"
            raise ValueError(f"output {index} of '{model.name}' {what}")


def outputs_of(model, arrays):
    """The outputs of a model in inference mode, as float64 arrays."""
    chunks = [
        tree_of(model).flatten(_called(model, [part[start:stop] for part in arrays]))
        for start, stop in _chunks(len(arrays[0]))
    ]
    return [np.concatenate([to_numpy(part).astype(np.float64) for part in parts]) for parts in zip(*chunks)]


class _ChannelsFirstError(ValueError):
    """Raised if the device cannot run convolutions of data_format="channels_first"."""


def _called(model, arrays):
    try:
        return model(packed_inputs(model, arrays), training=False)
    except Exception as error:
        if not re.search(
            r"only supports (the )?NHWC", str(error)
        ):  # TensorFlow's words for a CPU without oneDNN
            raise
        raise _ChannelsFirstError(
            f"The outputs of the model '{model.name}' cannot be compared: this CPU cannot run convolutions "
            "with data_format='channels_first'. Set the environment variable TF_ENABLE_ONEDNN_OPTS=1 before "
            "TensorFlow is imported, or run on a GPU."
        ) from error


def _chunks(count, size=1024):
    return [(start, start + size) for start in range(0, max(count, 1), size)]


def check_comparable(model):
    """Raises ValueError for a model whose outputs depend on its earlier calls."""
    layer = _stateful_layer(model)
    if layer is not None:
        raise ValueError(
            f"'{layer.name}' in '{model.name}' is stateful: outputs depend on earlier calls, so those of a "
            "smaller model cannot be shown to be the same. Build the model with stateful=False."
        )


def _stateful_layer(model):
    for layer in all_layers(model):
        if getattr(layer, "stateful", False) is True and not is_model(layer):
            return layer
    return None


def check_equal(model, compacted, arrays=None):
    """Checks that two models have the same outputs within float tolerance.

    Args:
        model: A built model.
        compacted: A model made from it.
        arrays: List of one array per input; None makes random ones.

    Raises:
        RuntimeError: If the outputs differ by more than rounding explains.
        ValueError: If they cannot be compared.
    """
    apart, allowed = difference(model, compacted, arrays), rounding(model)
    if not apart.relative <= allowed:
        raise RuntimeError(
            f"The compacted model's outputs differ from those of '{model.name}' by {apart.absolute:.1e} "
            f"({apart.relative:.1e} relative; rounding explains {allowed:.0e}), so it is not returned. "
            "Please report this with the model's summary."
        )


def check_identical(model, rebuilt):
    """Checks that a rebuilt model computes bit for bit what the given model computes.

    Nothing is checked if the model is stateful, random in inference, or cannot be run on random inputs.

    Raises:
        RuntimeError: If an output differs.
    """
    if _stateful_layer(model) is not None:
        return
    with unchanged(model), unchanged(rebuilt):
        try:
            arrays, expected = comparison_inputs(model, _FEW_SAMPLES)
        except ValueError as error:
            logging.info("The new model is not compared with '%s': %s", model.name, error)
            return
        apart = _difference(expected, outputs_of(rebuilt, arrays))
        if apart.absolute and not _difference(expected, outputs_of(model, arrays)).absolute:
            raise RuntimeError(
                f"The new model's outputs differ from those of '{model.name}' by {apart.absolute:.1e} "
                f"({apart.relative:.1e} relative), so it is not returned: a layer rebuilt from its config "
                "computes something else. Let get_config() return every argument of the constructor."
            )


def rounding(model):
    """The relative difference of outputs that rounding explains in a model of this precision."""
    dtypes = [getattr(layer, "compute_dtype", None) for layer in all_layers(model)]
    return max(_ROUNDING.get(dtype, 1e-4) for dtype in [*dtypes, "float32"])
