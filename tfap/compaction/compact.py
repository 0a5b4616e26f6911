"""Removes neurons and channels from a model: a smaller model with the same outputs."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tfap import keras_compat
from tfap.graph import channels, composite, functions, layer_types, misread, norms
from tfap.graph.activation import is_zero_when_silent
from tfap.graph.calls import Graph
from tfap.graph.counts import ActivationCounts
from tfap.graph.evening import input_mask, keep_even_groups
from tfap.graph.layer_types import ChannelRule, ConstantRule
from tfap.graph.liveness import Liveness
from tfap.keras_compat import Replacement, equality
from tfap.keras_compat.types import Arrays, Model


def compact(
    model: Model,
    counts: Mapping[str, ActivationCounts] | None = None,
    drop_silent: bool = False,
    data: Arrays | None = None,
) -> Model:
    """Removes the removable neurons and channels of a model, and keeps its outputs.

    A neuron is removable if it is unused, or if it is constant and its constant folds into the biases of the
    layers that consume it. Removing one can make others removable. `compact` repeats until nothing changes.

    It analyzes activations, normalization, pooling, padding, reshaping, concatenation, splits, slices,
    grouped and depthwise convolutions, recurrent layers, attention and its heads, residual connections,
    nested models, and shared layers. Coupled channels are removed together. Channels stay where removal would
    not be exact, such as before LayerNormalization or a custom layer.
    `tfap.compaction_report` gives the reasons. Every layer keeps at least one unit.

    Args:
        model: A Sequential or Functional model of either Keras without wrappers, such as the result of
            `tfap.strip_pruning`. Unchanged.
        counts: Dict of layer path to `ActivationCounts`, from `tfap.measure_activations` with threshold 0.
            Needs `drop_silent=True`.
        drop_silent: Whether to also remove the ReLU neurons that are silent in `counts`. They may fire on
            other inputs, so the outputs may change.
        data: Inputs on which to compare the outputs of both models: an array, or a list or dict of one array
            per input. None uses random inputs.

    Returns:
        A new model of the same Keras with fewer units, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If `model` is not a Keras model, or `counts` has the wrong type.
        ValueError: If the model is wrapped, stateful, subclassed, or unbuilt; if only one of `counts` and
            `drop_silent` is given; if `counts` does not match the layers, or has another threshold than 0; or
            if outputs on random inputs cannot be compared, because they are empty or NaN.
        RuntimeError: If the outputs differ by more than the float tolerance.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
    >>> kernel, bias = model.layers[0].get_weights()
    >>> kernel[:, 3:] = 0
    >>> model.layers[0].set_weights([kernel, bias])
    >>> compact(model).layers[0].units
    3
    """
    keras_compat.check_plain(model, "tfap.compact")
    equality.check_comparable(model)
    arrays = None if data is None else keras_compat.input_arrays(model, data)
    if drop_silent != (counts is not None):
        raise ValueError("counts and drop_silent=True go together: received only one of them.")
    if counts is not None:
        return remove_dead_channels(model, Liveness(model, silent_channels(Graph(model), counts))).model
    return _checked(model, arrays)


def compact_to(model: Model, kept: np.ndarray, data: Arrays | None = None) -> Model:
    """Removes removable channels as `compact` does, but none of some channel groups.

    Args:
        model: As in `compact`.
        kept: Boolean array, shape `(groups,)`: the channel groups that stay, though they may be removable.
        data: As in `compact`.

    Returns:
        A new model.
    """
    return _checked(model, None if data is None else keras_compat.input_arrays(model, data), kept)


def _checked(model, arrays, kept=None):
    compacted = remove_dead_channels(model, Liveness(model), kept).model
    equality.check_equal(model, compacted, arrays)
    return compacted


def silent_channels(graph: Graph, counts: Mapping[str, ActivationCounts]) -> dict[str, np.ndarray]:
    """Returns `{path of a ReLU: bool array, True for the channels that never fired}`; raises as `compact`."""
    if not isinstance(counts, dict) or not all(
        isinstance(layer_counts, ActivationCounts) for layer_counts in counts.values()
    ):
        raise TypeError(
            "counts must be {layer path: ActivationCounts}, as tfap.measure_activations gives it."
        )
    channel_map = channels.ChannelMap(graph)
    silent: dict[str, np.ndarray] = {}
    for path, layer_counts in counts.items():
        _check_layer_counts(graph, path, layer_counts)
        for site in graph.firing(path).sites:
            neurons = site.stop - site.start
            if len(layer_counts.counts) != neurons:
                raise ValueError(
                    f"counts has {len(layer_counts.counts)} neurons for the layer '{path}', which has "
                    f"{neurons}."
                )
            call = graph.calls_of[site.path][0]
            produced = channel_map.of(call.outputs[0])
            is_recurrent = layer_types.of(call.layer).recurrent  # its state may vary all the same
            if produced is not None and is_zero_when_silent(call.layer) and not is_recurrent:
                is_silent = silent.setdefault(site.path, np.zeros(len(produced.groups), bool))
                is_silent[site.start : site.stop] |= np.asarray(layer_counts.counts) == 0
    return silent


def _check_layer_counts(graph, path, layer_counts):
    if path not in graph.calls_of:
        raise ValueError(f"counts names the layer '{path}', which is not in the model.")
    if not layer_counts.seen:
        raise ValueError(f"counts has seen no activations of the layer '{path}'.")
    if layer_counts.threshold:
        raise ValueError(
            f"counts has the threshold {layer_counts.threshold} for the layer '{path}', expected 0: only "
            "then is a neuron that never fired always 0. Measure with threshold=0."
        )


# -- which channels are kept -----------------------------------------------------------------------


def kept_groups(liveness: Liveness, staying: np.ndarray | None = None) -> np.ndarray:
    """Bool array of the channel groups to keep: those alive or staying, and those that shapes require."""
    kept = liveness.alive.copy() if staying is None else liveness.alive | staying
    sums = misread.Sums(liveness)
    while True:
        before = kept.copy()
        for call in liveness.graph.calls:
            for value in call.outputs:
                produced = liveness.channels.of(value)
                if produced is not None and not kept[produced.groups].any():
                    kept[produced.groups[:1]] = True  # a Keras layer has at least one unit
            heads = liveness.channels.heads(call.path)
            if heads is not None and not kept[heads].any():
                kept[heads[:1]] = True
        for _, _, groups in liveness.inner_units():
            if not kept[groups].any():
                kept[groups[:1]] = True
        keep_even_groups(liveness, kept)
        sums.keep_more(kept)
        if np.array_equal(kept, before):
            return kept


# -- the compacted model ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Compaction:
    """A compacted model, and which parts of the given model it contains.

    Attributes:
        model: The new model.
        weights: Dict of layer path to flat indices into each of the old weights, in the shapes of the new
            ones. Layers that kept all weights are missing. A bias that compaction added has indices too.
        inputs: Dict of layer path to bool array of the kept input channels, if they are known.
        channels: Dict of layer path to bool array of the kept output channels, if they are known.
    """

    model: Model
    weights: dict[str, list[np.ndarray]]
    inputs: dict[str, np.ndarray]
    channels: dict[str, np.ndarray]


def remove_dead_channels(model: Model, liveness: Liveness, staying: np.ndarray | None = None) -> Compaction:
    """Removes the channels that a `Liveness` of the model finds dead. The `Liveness` cannot be used again.

    Args:
        model: The model.
        liveness: Its `Liveness`.
        staying: Boolean array, shape `(groups,)`: the channel groups that stay anyway. None for none.
    """
    kept, graph = kept_groups(liveness, staying), liveness.graph
    groups = {path: liveness.groups(path) for path in graph.calls_of}
    parts = {path: _kept_part(layer, path, liveness, kept) for path, layer in graph.layers()}
    parts = {path: part for path, part in parts.items() if part is not None}
    weight_tying = keras_compat.tied_layers(layer for _, layer in graph.layers())

    def replace(layer):
        path, is_tied = graph.path_of(layer), id(layer) in weight_tying
        if path not in parts:
            return Replacement(layer) if is_tied else keras_compat.copied(layer)
        arrays = liveness.linear_maps[path].weights() if path in liveness.linear_maps else layer.get_weights()
        weights = [array.ravel()[at] for array, at in zip(arrays, parts[path].indices, strict=True)]
        if parts[path].scale != 1:
            weights[0] = (weights[0] * parts[path].scale).astype(weights[0].dtype)
        if is_tied and _equal(weights, layer.get_weights()):
            return Replacement(layer)
        changes = _config_changes(layer, parts[path].config)
        return Replacement(keras_compat.from_config(layer, changes), weights)

    resized = functions.resizer(graph, liveness.channels, kept)
    compacted = keras_compat.rebuild(model, replace, _input_shapes(model, liveness, kept), resized)
    inputs, outputs = (
        {path: kept[sides[side]] for path, sides in groups.items() if sides[side] is not None}
        for side in (0, 1)
    )
    return Compaction(compacted, {path: part.indices for path, part in parts.items()}, inputs, outputs)


def _config_changes(layer, changes):
    """The changed config entries of a layer; those of the layer inside a TimeDistributed, nested."""
    inner = layer_types.inner(layer)
    changes = {**_resizable_initializers(inner), **changes}
    if inner is layer:
        return changes
    return {"layer": keras_compat.inner_config(layer.get_config()["layer"], changes)}


def _equal(weights, old_weights):
    """True if nothing was removed and no constant was folded into a bias."""
    return len(weights) == len(old_weights) and all(map(np.array_equal, weights, old_weights))


def _input_shapes(model, liveness, kept):
    """For `keras_compat.rebuild`: the inputs of nested models shrink too."""
    inputs_of = {id(nested): values for nested, values in reversed(liveness.graph.entries)}
    inputs_of[id(model)] = liveness.graph.inputs

    def input_shapes(inner):
        return [
            _kept_shape(tensor.shape, liveness.channels.of(value), kept)
            for tensor, value in zip(inner.inputs, inputs_of[id(inner)])
        ]

    return input_shapes


def _kept_shape(shape, value_channels, kept):
    """The shape with the kept channels only. Undefined dimensions stay undefined."""
    shape = list(shape)
    if value_channels is not None:
        shape[value_channels.axis] = int(kept[value_channels.groups].sum())
    return tuple(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class _KeptPart:
    """The kept part of a layer: flat indices into each of its weights, and changes to its config.

    The values of the first weight are multiplied by `scale`.
    """

    indices: list
    config: dict
    scale: float = 1.0


def _kept_part(layer, path, liveness, kept):
    """The `_KeptPart` of a layer, or None if all of it is kept."""
    consumed, produced = liveness.groups(path)
    units = liveness.channels.units_of(path)
    if units:
        inside = {entry: kept[groups] for entry, groups in units.items()}
        return _KeptPart(*composite.kept_part(layer, inside))
    if produced is None or not keras_compat.is_layer(layer):
        return None
    if path in liveness.linear_maps:
        dead_inputs = ~input_mask(liveness.alive, consumed, liveness.linear_maps[path])
        matrix = liveness.folded(path, dead_inputs)  # channels that only the shape requires become zero
        sides = input_mask(kept, consumed, matrix), kept[produced]
        heads = liveness.channels.heads(path)
        if heads is not None:
            matrix.kept_heads = kept[heads]
        return _KeptPart(matrix.kept(*sides), matrix.config(*sides))
    if hasattr(layer, "target_shape") and layer_types.of(layer).channels is ChannelRule.RESHAPED:
        axis = liveness.channels.of(liveness.graph.calls_of[path][0].outputs[0]).axis - 1
        target_shape = list(layer.target_shape)
        if target_shape[axis] != -1:
            target_shape[axis] = int(kept[produced].sum())
        return _KeptPart([], {"target_shape": tuple(target_shape)})
    if norms.is_over_channels(layer):
        inputs = liveness.constants.inputs_of(liveness.graph.calls_of[path])
        config, scale = norms.resized(layer, kept[produced], inputs.values)
        return _KeptPart(_channel_indices(layer, kept[produced], -1), config, scale)
    if not layer.weights:
        return None
    axis = liveness.channels.of(liveness.graph.calls_of[path][0].outputs[0]).axis
    return _KeptPart(_channel_indices(layer, kept[produced], axis), _resized(layer, kept[produced]))


def _resized(layer, kept_channels):
    """The config entries that change with the channels of a layer that has weights per channel."""
    if layer_types.of(layer).constants is ConstantRule.GROUP_NORMALIZED:
        return {"groups": int(kept_channels.reshape(layer.groups, -1).any(axis=1).sum())}
    return {}


def _resizable_initializers(layer):
    """Config entries with zeros in place of initializers that may make arrays of one size only."""
    initializers = {
        key: getattr(layer, key, None) for key in layer.get_config() if key.endswith("_initializer")
    }
    return {
        key: "zeros"
        for key, initializer in initializers.items()
        if initializer is not None
        and (keras_compat.kind_of(initializer) is None or np.ndim(getattr(initializer, "value", 0)))
    }


def _channel_indices(layer, kept_channels, axis):
    """Flat indices into the weights of a layer that has weights per output channel, on this axis."""
    indices = [np.arange(math.prod(weight.shape)).reshape(weight.shape) for weight in layer.weights]
    if layer_types.of(layer).channels is ChannelRule.DEPTHWISE:
        kernel, *bias = indices  # (..., inputs, multiplier): the outputs of an input are removed together
        inputs = kept_channels.reshape(kernel.shape[-2:]).all(axis=1)
        return [kernel.compress(inputs, -2), *(array[kept_channels] for array in bias)]
    # A PReLU has weights per element, or one where axes are shared. Other layers have vectors.
    axes = [axis - 1 if array.ndim > 1 else 0 for array in indices]
    return [
        array.compress(kept_channels, along) if array.shape[along] == len(kept_channels) else array
        for array, along in zip(indices, axes)
    ]
