"""The pruning wrappers in a model: all of them, in graph order, each knowing who counts for it."""

from tfap import keras_compat
from tfap.graph import Graph
from tfap.layers import CountActivations, PruneByActivation


def prunable_layers(model):
    """The pruning wrappers of a model, in graph order, those of nested models included.

    Args:
        model: a model of either Keras; a subclassed one gives its wrappers in order of creation.

    Returns:
        List of `tfap.layers.PruneByActivation`. Their `activation_counts` can be read afterwards also
        where the neurons fire in another layer, which a loaded model does not know before.
    """
    return [wrapper for _, wrapper in with_paths(model)]


def with_paths(model):
    """`(path, wrapper)` of every pruning wrapper; see `prunable_layers`."""
    if keras_compat.is_graph_model(model) and keras_compat.is_built(model):
        graph = Graph(model)
        found = [(path, layer) for path, layer in graph.layers() if is_wrapper(layer)]
        for path, wrapper in found:
            if wrapper.criterion.counts == "output" and not wrapper.counts_here:
                _link(graph, path, wrapper)
        return found
    layers = keras_compat.all_layers(model)
    return [(layer.name, layer) for layer in layers if is_wrapper(layer)]


def is_wrapper(layer):
    return isinstance(layer, PruneByActivation)


def counters(model):
    """The `CountActivations` layers of a model, in graph order."""
    return [layer for layer in keras_compat.all_layers(model) if isinstance(layer, CountActivations)]


def _link(graph, path, wrapper):
    layers = dict(graph.layers())
    sites = graph.firing(path).sites
    if sites and all(isinstance(layers[site.path], CountActivations) for site in sites):
        wrapper.link_counters([(layers[site.path], slice(site.start, site.stop)) for site in sites])
