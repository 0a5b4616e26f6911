"""Removes the neurons that the user names."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from tfap import keras_compat
from tfap.compaction.branches import without_branches
from tfap.compaction.compact import remove_dead_channels
from tfap.compaction.planned_units import CHANNELS, HEADS, PlannedUnits
from tfap.compaction.removable import RemovableChannels
from tfap.graph.calls import Graph
from tfap.graph.linear import Grouped
from tfap.graph.liveness import Liveness
from tfap.keras_compat import equality
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings

_NAMES = {"channels": "neurons", "heads": "heads", "units": "neurons"}


def remove(
    model: Model,
    neurons: Mapping[str, Sequence[int] | np.ndarray | Mapping[str, Sequence[int] | np.ndarray] | str],
) -> Model:
    """Removes the neurons and channels that you name, and those that are coupled to them.

    Layers that consume a removed channel lose its weights, as if the channel were zero. A recurrent layer
    also loses the weights with which it reads a removed unit of its own. All other weights stay as they are.
    `tfap.prune_once` instead chooses the channels, and refits the weights that stay.

    Args:
        model: A Sequential or Functional model of either Keras without wrappers. Unchanged.
        neurons: Dict of layer path, such as `"inner/dense"`, to the neurons or channels of its output to
            remove: a sequence of integers in [0, units), or a boolean array, shape `(units,)`, that is True
            for those to remove. The heads of an attention layer are `{"attention": {"heads": [0, 3]}}`. In
            GroupedQueryAttention they are those of keys and values, with all their query heads. `"all"`
            removes the layer, or nested model, from the sum that it is added to, as in a residual block, with
            all layers that only it needs. The path of units inside a composite layer is `"layer/entry"`.

    Returns:
        A new model of the same Keras with fewer units, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a layer is not in the model, a neuron is not in the layer, a channel is not removable,
            a layer would lose all its channels, the groups of a grouped convolution would have different
            sizes, or a layer with `"all"` is not only added to a value of the same shape. The model is then
            unchanged.

    Example:

    >>> import keras, tfap
    >>> layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> tfap.remove(model, {"hidden": [0, 4, 7]}).get_layer("hidden").units
    5
    """
    keras_compat.check_plain(model, "tfap.remove")
    equality.check_comparable(model)
    if not isinstance(neurons, Mapping):
        raise TypeError(
            'neurons must be a dict of layer path to neurons, such as {"dense": [0, 4]}: received '
            f"{type(neurons).__name__}."
        )
    branches = [path for path, given in neurons.items() if isinstance(given, str)]
    if branches:
        return _without_branches(model, neurons, branches)
    planned = PlannedUnits.of(model, PruningSettings(0.0, "magnitude", "local", "unit"))
    channels = RemovableChannels(model, planned)
    kept = np.ones(channels.channels.size, bool)
    for path, given in neurons.items():
        plan = planned.plans[HEADS if isinstance(given, Mapping) else CHANNELS]
        kept[_groups(channels, plan, path, given)] = False
    _check_rest(channels, kept)
    for consumer in channels.consumers.values():
        if not kept[consumer.groups].all():
            consumer.clear(~kept[consumer.groups])
    channels.clear_reads(kept)
    channels.clear_made(kept)
    return _without(channels.model, kept)


def _without_branches(model, neurons, branches):
    """Removes whole branches, and then the other neurons."""
    graph = Graph(model)
    for path in branches:
        if neurons[path] != "all":
            raise TypeError(
                f"neurons['{path}'] must be integers, a boolean array or \"all\": received {neurons[path]!r}."
            )
        if path not in graph.calls_of and path not in graph.exits:
            known = [*graph.exits, *(path for path, layer in graph.layers() if keras_compat.is_layer(layer))]
            raise ValueError(_not_in_the_model(path, known))
    shorter = without_branches(model, branches)
    rest = {path: given for path, given in neurons.items() if path not in branches}
    return remove(shorter, rest) if rest else shorter


def _not_in_the_model(path, known):
    close = difflib.get_close_matches(str(path), known) or known
    return f"neurons names the layer '{path}', which is not in the model. It has: {close}"


def _groups(channels, plan, path, given):
    """The channel groups of some neurons of a layer."""
    graph = channels.liveness.graph
    inside = {f"{layer}/{entry}": groups for layer, entry, groups in channels.liveness.inner_units()}
    if path in inside:
        every = inside[path]
        return _removable(channels, plan, path, every[_indices(path, given, len(every), "units")], "units")
    if path not in graph.calls_of:
        layers = [path for path, layer in graph.layers() if keras_compat.is_layer(layer)]
        layers += list(inside)
        raise ValueError(_not_in_the_model(path, layers))
    produced = channels.channels.of(graph.calls_of[path][0].outputs[0])
    if produced is None:
        raise ValueError(f"tfap does not know the channels of the layer '{path}'.{_why(plan, path)}")
    every, what = produced.groups, "channels"
    if isinstance(given, Mapping):
        every, what = channels.channels.heads(path), "heads"
        if every is None or set(given) != {"heads"}:
            raise ValueError(
                f"neurons['{path}'] must be neurons or, for an attention layer, {{'heads': [...]}}: received "
                f"{dict(given)!r} for a layer of type {type(graph.calls_of[path][0].layer).__name__}."
            )
        given = given["heads"]
    return _removable(channels, plan, path, every[_indices(path, given, len(every), what)], what)


def _removable(channels, plan, path, groups, what):
    """The named channel groups, if all of them may be removed."""
    stay = int((~np.isin(groups, np.concatenate(channels.sets))).sum())
    if stay:
        raise ValueError(
            f"{stay} of the {len(groups)} named {what} of the layer '{path}' are not removable."
            f"{_why(plan, path)}"
        )
    return groups


def _why(plan, path):
    reasons = dict.fromkeys(row.reason for row in plan if row.path == path and row.reason)
    return "".join(f" The reason: {reason}." for reason in reasons)


def _indices(path, given, size, what):
    """The named neurons of a layer as an integer array."""
    array = np.asarray(given)
    if array.dtype == bool:
        if array.shape != (size,):
            raise ValueError(
                f"The mask for the layer '{path}' has the shape {array.shape}, expected ({size},): one "
                "boolean per neuron, True to remove it."
            )
        return np.flatnonzero(array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(
            f"neurons['{path}'] must be a sequence of integers or a boolean array: received {given!r}."
        )
    wrong = [int(neuron) for neuron in array if not 0 <= neuron < size]
    if wrong:
        raise ValueError(
            f"neurons['{path}'] names {wrong}, but the layer has {size} {_NAMES[what]}: use integers in "
            f"[0, {size})."
        )
    return array.astype(int)


def _check_rest(channels, kept):
    """Every layer keeps a channel, and every group of a grouped convolution as many."""
    liveness = channels.liveness
    for path in liveness.graph.calls_of:
        heads = liveness.channels.heads(path)
        if heads is not None and not kept[heads].any():
            raise ValueError(f"The layer '{path}' would lose all its heads: leave at least one of them.")
        if any(side is not None and not kept[side].any() for side in liveness.groups(path)):
            raise ValueError(
                f"The layer '{path}' would lose all its channels: leave at least one of them, or of those "
                "that are coupled to them."
            )
    for path, entry, groups in liveness.inner_units():
        if not kept[groups].any():
            raise ValueError(f"The layer '{path}' would lose all its units '{entry}': leave at least one.")
    evened = channels.evened(kept)
    for path, linear_map in liveness.linear_maps.items():
        sides = liveness.groups(path) if isinstance(linear_map, Grouped) else ()
        if any(side is not None and (evened[side] != kept[side]).any() for side in sides):
            raise ValueError(
                f"The {linear_map.groups} groups of the convolution '{path}' would have different numbers of "
                "channels: name as many channels of each group."
            )


def _without(model, kept):
    """Removes the channels that are not kept, and no others, from a model that does not read them."""
    liveness = Liveness(model)
    if liveness.alive[~kept].any():
        raise RuntimeError("A channel to remove is still read. Please report this as a bug.")
    liveness.alive[:] = kept
    smaller = remove_dead_channels(model, liveness).model
    equality.check_equal(model, smaller, None)
    return smaller
