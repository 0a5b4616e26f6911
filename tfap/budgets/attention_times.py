"""What to measure of attention layers with fewer heads, for budgets of time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.budgets.meters import UNDEFINED_SIZE
from tfap.graph.attention import ROLES, consumed
from tfap.graph.attention_map import Attention
from tfap.graph.calls import Call
from tfap.keras_compat.types import Model


def fewer_heads(linear_map: Attention, fraction: float) -> tuple[dict[str, Any], float]:
    """Returns the changes of the config with a fraction of the heads, and the fraction that it really is."""
    every = linear_map.kept_heads
    heads = np.arange(len(every)) < max(1, round(fraction * len(every)))
    sides = (np.ones(size, bool) for size in linear_map.nonzero.shape)
    try:
        linear_map.kept_heads = heads
        return linear_map.config(*sides), float(heads.mean())
    finally:
        linear_map.kept_heads = every


def shapes_of(call: Call) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what a call of an attention layer consumes, by role, without the batch."""
    shapes = (value.shape[1:] for value in consumed(call))
    sizes = (tuple(UNDEFINED_SIZE if size is None else size for size in shape) for shape in shapes)
    return dict(zip(ROLES, sizes))


def alone(call: Call, changes: dict[str, Any]) -> Callable[[], Model]:
    """Returns a function that makes a model of an attention layer.

    Args:
        call: The `Call` of the layer. What it consumes twice is one input of the model.
        changes: Dict of entries of the config of the layer to replace.
    """

    def make() -> Model:
        keras, values = keras_compat.keras_of(call.layer), consumed(call)
        shapes = dict(zip(values, shapes_of(call).values()))
        inputs = {value: keras.Input(shape) for value, shape in shapes.items()}
        query, key, value = (inputs[each] for each in values)
        causal = {"use_causal_mask": True} if call.arguments[1].get("use_causal_mask") else {}
        outputs = keras_compat.from_config(call.layer, changes)(query, value, key=key, **causal)
        return keras.Model(list(inputs.values()), outputs)

    return make
