"""Removes dead neurons and channels for real: a smaller plain model with the same outputs."""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.graph import channels, layer_types
from tfap.graph.activation import is_zero_when_silent
from tfap.graph.calls import Graph
from tfap.graph.counts import ActivationCounts
from tfap.graph.layer_types import ChannelRule
from tfap.graph.linear import Grouped
from tfap.graph.liveness import Liveness
from tfap.keras_compat import Replacement, equality


def compact(model, counts=None, drop_silent=False):
    """Removes the neurons and channels that cannot matter, with the same outputs.

    A neuron goes if nothing flows into it (it is constant, and its constant moves into the biases of the
    layers that read it) or if nothing reads it, until nothing changes: through activations,
    BatchNormalization, Dropout, pooling, padding, Flatten, Reshape, Concatenate, depthwise and grouped
    convolutions, residual Add (a channel goes only if every branch agrees), nested models, shared layers,
    several inputs and outputs. Where that cannot be done exactly, as in front of attention, custom layers
    or where a constant meets padding, channels stay; `tfap.compaction_report` says which and why. A layer
    keeps at least one unit.

    Args:
        model: a plain Sequential or Functional model of either Keras, such as `strip_pruning` returns.
            It is not changed.
        counts: `{layer path: ActivationCounts}`, as `tfap.measure_activations` gives them with a threshold
            of 0.
        drop_silent: also remove the ReLU neurons that never fired in `counts`. On other inputs they
            might: outputs are then no longer guaranteed.

    Returns:
        A new model of the same Keras and graph, with fewer units, compiled alike (with a fresh optimizer).

    Raises:
        TypeError: `model` is no model, or `counts` no such dict.
        ValueError: `model` still has pruning wrappers, has stateful layers, or is subclassed or not built;
            `counts` without `drop_silent` or the other way round, or of other layers.
        RuntimeError: outputs on random inputs differ by more than rounding. Nothing is returned then.

    >>> import keras
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    ... )
    >>> kernel, bias = model.layers[0].get_weights()
    >>> kernel[:, 3:] = 0
    >>> model.layers[0].set_weights([kernel, bias])
    >>> compact(model).layers[0].units
    3
    """
    keras_compat.check_plain(model, "tfap.compact")
    equality.check_comparable(model)
    if drop_silent != (counts is not None):
        raise ValueError("counts and drop_silent=True go together: received only one of them.")
    if drop_silent:
        return smaller(model, Liveness(model, _silent(Graph(model), counts))).model
    compacted = smaller(model, Liveness(model)).model
    equality.check_equal(model, compacted)
    return compacted


def _silent(layers, counts):
    """`{path of the ReLU: which of its channels never fired}`."""
    if not isinstance(counts, dict) or not all(isinstance(one, ActivationCounts) for one in counts.values()):
        raise TypeError(
            "counts must be {layer path: ActivationCounts}, as tfap.measure_activations gives it."
        )
    channel_map, silent = channels.ChannelMap(layers), {}
    for path, counted in counts.items():
        if path not in layers.calls_of:
            raise ValueError(f"counts names the layer '{path}', which the model does not have.")
        if not counted.seen:
            raise ValueError(f"counts has seen no activations of the layer '{path}'.")
        for site in layers.firing(path).sites:
            if len(counted.counts) != site.stop - site.start:
                raise ValueError(
                    f"counts has {len(counted.counts)} neurons for the layer '{path}', which has "
                    f"{site.stop - site.start}."
                )
            call = layers.calls_of[site.path][0]
            made = channel_map.of(call.outputs[0])
            if made is not None and is_zero_when_silent(call.layer):
                marks = silent.setdefault(site.path, np.zeros(len(made.groups), bool))
                marks[site.start : site.stop] |= np.asarray(counted.counts) == 0
    return silent


# -- shapes that layers can have -------------------------------------------------------------------


def shaped(found):
    """The channel groups that stay: those alive, and dead ones that only fill up a shape."""
    stay = found.alive.copy()
    while True:
        before = stay.copy()
        for call in found.layers.calls:
            for value in call.outputs:
                made = found.channels.of(value)
                if made is not None and not stay[made.groups].any():
                    stay[made.groups[:1]] = True  # Keras has no layers without units
        for path, layer in found.affines.items():
            if isinstance(layer, Grouped):
                read, made = found.groups(path)
                inputs, outputs = layer.evened(_marks(stay, read, layer, 0), stay[made])
                stay[made[outputs]] = True
                if read is not None:
                    stay[read[inputs]] = True
        if np.array_equal(stay, before):
            return stay


def _marks(marks, groups, layer, side):
    """The marks of a layer's channels; all of them where the channels are not known."""
    return np.ones(layer.nonzero.shape[side], bool) if groups is None else marks[groups]


# -- the smaller model -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Smaller:
    """A smaller model, and what of the given one is in it.

    Attributes:
        model: the new model.
        weights: `{path: flat indices into each of the old layer's weights}`, in the new weights' shapes;
            layers that are not there kept all. A bias that has been added has indices too.
        inputs, channels: `{path: bool array}`: which of the layer's input and output channels stay;
            layers of unknown channels are not there.
    """

    model: object
    weights: dict
    inputs: dict
    channels: dict


def smaller(model, found):
    """The `Smaller` model without the channels that a `Liveness` has found dead, which it uses up."""
    stay = shaped(found)
    groups = {path: found.groups(path) for path in found.layers.calls_of}
    kept = {path: _kept(layer, path, found, stay) for path, layer in found.layers.layers()}
    kept = {path: entry for path, entry in kept.items() if entry is not None}
    tied = keras_compat.tied_layers(layer for _, layer in found.layers.layers())

    def replace(layer):
        path = found.layers.path_of(layer)
        if path not in kept:
            return Replacement(layer) if id(layer) in tied else keras_compat.copied(layer)
        values = _values(layer, path, found)
        weights = [array.ravel()[at] for array, at in zip(values, kept[path].indices, strict=True)]
        if id(layer) in tied and _same(weights, layer.get_weights()):
            return Replacement(layer)
        changes = {**_without_arrays(layer), **kept[path].config}
        return Replacement(keras_compat.from_config(layer, changes), weights)

    rebuilt = keras_compat.rebuild(model, replace, _input_shapes(model, found, stay))
    inputs, outputs = (
        {path: stay[sides[at]] for path, sides in groups.items() if sides[at] is not None} for at in (0, 1)
    )
    return Smaller(rebuilt, {path: entry.indices for path, entry in kept.items()}, inputs, outputs)


def _same(weights, others):
    """True if nothing has been cut and no constant folded into a bias."""
    return len(weights) == len(others) and all(map(np.array_equal, weights, others))


def _input_shapes(model, found, stay):
    """For `keras_compat.rebuild`: the inputs of nested models are smaller too."""
    read = {id(nested): values for nested, values in reversed(found.layers.entries)}
    read[id(model)] = found.layers.inputs

    def input_shapes(inner):
        return [
            _shape(tensor.shape, found.channels.of(value), stay)
            for tensor, value in zip(inner.inputs, read[id(inner)])
        ]

    return input_shapes


def _shape(shape, made, stay):
    """What is left of a shape; sizes that it leaves open stay open."""
    shape = list(shape)
    if made is not None:
        shape[made.axis] = int(stay[made.groups].sum())
    return tuple(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class _Kept:
    """What stays of a layer: flat indices into each of its weights, and what changes in its config."""

    indices: list
    config: dict


def _kept(layer, path, found, stay):
    """The `_Kept` of a layer, None where everything stays."""
    read, made = found.groups(path)
    if made is None or not keras_compat.is_layer(layer):
        return None
    if path in found.affines:
        dead = ~_marks(found.alive, read, found.affines[path], 0)
        matrix = found.folded(path, dead)  # what fills up a shape is zero
        sides = _marks(stay, read, matrix, 0), stay[made]
        return _Kept(matrix.kept(*sides), matrix.config(*sides))
    if hasattr(layer, "target_shape") and layer_types.of(layer).channels is ChannelRule.RESHAPED:
        *before, last = layer.target_shape
        return _Kept([], {"target_shape": (*before, last if last == -1 else int(stay[made].sum()))})
    if not layer.weights:
        return None
    axis = found.channels.of(found.layers.calls_of[path][0].outputs[0]).axis
    return _Kept(_kept_per_channel(layer, stay[made], axis), {})


def _without_arrays(layer):
    """Zeros in place of initializers that make arrays of one size only, or may do so."""
    found = {key: getattr(layer, key, None) for key in layer.get_config() if key.endswith("_initializer")}
    return {
        key: "zeros"
        for key, initializer in found.items()
        if initializer is not None
        and (keras_compat.kind_of(initializer) is None or np.ndim(getattr(initializer, "value", 0)))
    }


def _values(layer, path, found):
    return found.affines[path].weights() if path in found.affines else layer.get_weights()


def _kept_per_channel(layer, stay, axis):
    """Flat indices into the weights of a layer that has some for each channel of its output, on this axis."""
    indices = [np.arange(math.prod(weight.shape)).reshape(weight.shape) for weight in layer.weights]
    if layer_types.of(layer).channels is ChannelRule.DEPTHWISE:
        kernel, *bias = indices  # (..., inputs, multiplier); all outputs of an input go with it
        inputs = stay.reshape(kernel.shape[-2:]).all(axis=1)
        return [kernel.compress(inputs, -2), *(at[stay] for at in bias)]
    # PReLU has one for each element, or for all where axes are shared; others have vectors.
    axes = [axis - 1 if at.ndim > 1 else 0 for at in indices]
    return [
        at.compress(stay, along) if at.shape[along] == len(stay) else at for at, along in zip(indices, axes)
    ]
