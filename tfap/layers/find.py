"""The pruning wrappers of a model, in graph order, linked to the layers that count for them."""

from typing import Any

from tfap import keras_compat
from tfap.graph.calls import Graph
from tfap.keras_compat.types import Model
from tfap.layers import CountActivations, PruneByActivation


def prunable_layers(model: Model) -> list[Any]:
    """Lists the pruning wrappers of a model, in graph order, those of nested models included.

    In a loaded model it also finds the layers that count for each wrapper, so call it before you read
    `activation_counts`.

    Args:
        model: A model of either Keras. The wrappers of a subclassed model are in order of creation.

    Returns:
        A list of `tfap.layers.PruneByActivation`.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    return [wrapper for _, wrapper in with_paths(model)]


def with_paths(model):
    """Lists `(path, wrapper)` of every pruning wrapper; see `prunable_layers`."""
    if not keras_compat.is_layer(model):
        raise TypeError(f"Expected a Keras model: received an object of type {type(model).__name__}.")
    found = {}
    if keras_compat.is_graph_model(model) and keras_compat.is_built(model):
        graph = Graph(model)
        layers = dict(graph.layers())
        found = {id(layer): (path, layer) for path, layer in layers.items() if is_pruning_wrapper(layer)}
        _link_counters(graph, layers, found.values())
    for layer in keras_compat.all_layers(model):  # also those inside layers and subclassed models
        if is_pruning_wrapper(layer):
            found.setdefault(id(layer), (layer.name, layer))
    return list(found.values())


def is_pruning_wrapper(layer):
    return isinstance(layer, PruneByActivation)


def counting_layers(model):
    """Lists all layers that count: pruning wrappers and `CountActivations`."""
    return [layer for layer in keras_compat.all_layers(model) if keras_compat.is_tfap_wrapper(layer)]


def _link_counters(graph, layers, found):
    """Links each wrapper whose activation is another layer to the counts of that layer."""
    for path, wrapper in found:
        if wrapper.criterion.counts != "output" or wrapper.counts_here:
            continue
        sites = graph.firing(path).sites
        if sites and all(isinstance(layers[site.path], CountActivations) for site in sites):
            wrapper.link_counters([(layers[site.path], slice(site.start, site.stop)) for site in sites])
