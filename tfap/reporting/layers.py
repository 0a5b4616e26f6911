"""The size of each layer of a model, for reports."""

import dataclasses
import math
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.graph import flops
from tfap.graph.calls import Graph, channel_axis
from tfap.keras_compat.types import Model


@dataclasses.dataclass(frozen=True)
class LayerFigures:
    """Holds the size of a layer.

    Attributes:
        path: String. Path of the layer, such as `"inner/dense"`.
        units: Integer. Output units or channels. None if undefined.
        weights: Integer. Number of weights.
        nonzero: Integer. Number of weights that are not zero.
        flops: Integer. FLOPs per sample. None if unknown.
    """

    path: str
    units: int | None
    weights: int
    nonzero: int
    flops: int | None


def layer_figures(model: Model) -> tuple[LayerFigures, ...]:
    """Measures the layers of a model that have weights.

    Args:
        model: A model of either Keras.

    Returns:
        Tuple of `LayerFigures` in graph order. Empty for a model whose graph tfap cannot read, such as a
        subclassed one.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="hidden")])
    >>> layer_figures(model)
    (LayerFigures(path='hidden', units=8, weights=40, nonzero=..., flops=64),)
    """
    if not keras_compat.is_graph_model(model) or not keras_compat.is_built(model):
        return ()
    graph, by_path = Graph(model), _layer_flops(model)
    layers = [(path, layer) for path, layer in graph.layers() if keras_compat.weights_of(layer)]
    return tuple(_figures(graph, path, layer, by_path.get(path)) for path, layer in layers)


def _layer_flops(model):
    try:
        return flops.layer_flops(model)
    except ValueError:  # they depend on undefined dimensions
        return {}


def _figures(graph: Any, path: str, layer: Any, layer_flops: int | None) -> LayerFigures:
    arrays = [keras_compat.to_numpy(weight) for weight in keras_compat.weights_of(layer)]
    return LayerFigures(
        path,
        _units(graph.calls_of[path][0]),
        sum(math.prod(array.shape) for array in arrays),
        sum(int(np.count_nonzero(array)) for array in arrays),
        layer_flops,
    )


def _units(call: Any) -> int | None:
    shape = call.outputs[0].shape
    return shape[channel_axis(call.layer)] if len(shape) > 1 else None
