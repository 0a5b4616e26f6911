"""The pruning wrappers of a model, in graph order, linked to the layers that count for them."""

import dataclasses
from typing import Any

from tfap import keras_compat
from tfap.graph.parts import Part, parts_of
from tfap.keras_compat.types import Model
from tfap.layers import CountActivations, PruneByActivation


@dataclasses.dataclass(frozen=True, eq=False)
class FoundWrapper:
    """A pruning wrapper in a model.

    Attributes:
        wrapper: The `tfap.layers.PruneByActivation`.
        path: String. Its path in the model, such as `inner/dense`. No other wrapper of the model has it.
        part: The `Part` of the model whose graph has the wrapper. None if there is none. If several have it,
            the one with the most calls.
        path_in_part: String. Its path in the graph of the part.
        is_shared: Whether the graphs of several parts have the wrapper.
    """

    wrapper: Any
    path: str
    part: Part | None = None
    path_in_part: str = ""
    is_shared: bool = False


def prunable_layers(model: Model) -> list[Any]:
    """Lists the pruning wrappers of a model, in graph order, those of nested models included.

    In a loaded model it also finds the layers that count for each wrapper, so call it before you read
    `activation_counts`.

    Args:
        model: A model of either Keras. In a subclassed model, the wrappers of each Sequential or Functional
            model that it holds are in graph order, and others follow in order of creation.

    Returns:
        A list of `tfap.layers.PruneByActivation`.

    Raises:
        TypeError: If `model` is not a Keras model.
    """
    return [found.wrapper for found in find_wrappers(model)]


def with_paths(model):
    """Lists `(path, wrapper)` of every pruning wrapper; see `prunable_layers`."""
    return [(found.path, found.wrapper) for found in find_wrappers(model)]


def find_wrappers(model: Model) -> list[FoundWrapper]:
    """Lists the `FoundWrapper`s of a model; see `prunable_layers`."""
    if not keras_compat.is_layer(model):
        raise TypeError(f"Expected a Keras model: received an object of type {type(model).__name__}.")
    holders: dict[int, list[Part]] = {}  # by wrapper
    wrappers = {}
    for holder in parts_of(model):
        for _, layer in holder.graph.layers():
            if is_pruning_wrapper(layer):
                wrappers[id(layer)] = layer
                holders.setdefault(id(layer), []).append(holder)
    for layer in keras_compat.all_layers(model):  # also those in no graph
        if is_pruning_wrapper(layer):
            wrappers.setdefault(id(layer), layer)
    found: dict[str, FoundWrapper] = {}
    for key, wrapper in wrappers.items():
        parts = sorted(holders.get(key, ()), key=lambda part: len(part.graph.calls), reverse=True)
        part: Part | None = parts[0] if parts else None
        own_path = part.graph.path_of(wrapper) if part else wrapper.name
        path = part.prefix + own_path if part else own_path
        while path in found:
            path += "'"
        found[path] = FoundWrapper(wrapper, path, part, own_path, len(parts) > 1)
        _link_counters(wrapper, parts)
    return list(found.values())


def is_pruning_wrapper(layer):
    return isinstance(layer, PruneByActivation)


def counting_layers(model):
    """Lists all layers that count: pruning wrappers and `CountActivations`."""
    return [layer for layer in keras_compat.all_layers(model) if keras_compat.is_tfap_wrapper(layer)]


def _link_counters(wrapper, parts):
    """Links a wrapper whose activation is another layer to its counts, in the first part that has it."""
    if wrapper.criterion.counts != "output" or wrapper.counts_here:
        return
    for part in parts:
        sites = part.graph.firing(part.graph.path_of(wrapper)).sites
        counters = [part.graph.calls_of[site.path][0].layer for site in sites]
        if counters and all(isinstance(counter, CountActivations) for counter in counters):
            slices = [slice(site.start, site.stop) for site in sites]
            wrapper.link_counters(list(zip(counters, slices)))
            return
