"""Removes dead neurons and channels for real: a smaller plain model with the same outputs."""

import dataclasses
import math

import numpy as np

from tfap import certificates, channels, graph, keras_compat
from tfap.affine import Grouped
from tfap.keras_compat import Replacement
from tfap.liveness import Liveness


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
        counts: `{layer path: ActivationCounts}`, as `tfap.measure_activations` gives them.
        drop_silent: also remove the ReLU neurons that never fired in `counts`. On other inputs they
            might: outputs are then no longer guaranteed.

    Returns:
        A new model of the same Keras and graph, with fewer units, compiled alike (with a fresh optimizer).

    Raises:
        ValueError: `model` still has pruning wrappers, or is subclassed or not built; `counts` without
            `drop_silent` or the other way round, or of other layers.
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
    _check(model)
    if drop_silent != (counts is not None):
        raise ValueError("counts and drop_silent=True go together: received only one of them.")
    if drop_silent:
        return smaller(model, Liveness(model, _silent(graph.Graph(model), counts))).model
    compacted = smaller(model, Liveness(model)).model
    certificates.check_equal(model, compacted)
    return compacted


def _check(model):
    if not (keras_compat.is_graph_model(model) and keras_compat.is_built(model)):
        raise ValueError("tfap.compact takes a built Sequential or Functional model.")
    if any(keras_compat.is_tfap_wrapper(layer) for layer in keras_compat.all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def _silent(layers, counts):
    """`{path of the ReLU: which of its channels never fired}`."""
    channel_map, silent = channels.ChannelMap(layers), {}
    for path, counted in counts.items():
        if path not in layers.calls_of:
            raise ValueError(f"counts names the layer '{path}', which the model does not have.")
        for site in layers.firing(path).sites:
            call = layers.calls_of[site.path][0]
            made = channel_map.of(call.outputs[0])
            if made is None or not _is_zero_when_silent(call.layer):
                continue
            if len(counted.counts) != site.stop - site.start:
                raise ValueError(
                    f"counts has {len(counted.counts)} neurons for the layer '{path}', which has "
                    f"{site.stop - site.start}."
                )
            marks = silent.setdefault(site.path, np.zeros(len(made.groups), bool))
            marks[site.start : site.stop] |= np.asarray(counted.counts) == 0
    return silent


def _is_zero_when_silent(layer):
    """True for ReLU, as a layer or fused: other activations are not zero where they do not fire."""
    if keras_compat.kind_of(layer) == "ReLU":
        return not layer.negative_slope
    return getattr(getattr(layer, "activation", None), "__name__", "") in ("relu", "relu6")


# -- shapes that layers can have -------------------------------------------------------------------


def _shaped(found):
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
        channels: `{path: bool array}`: which of the layer's output channels stay.
    """

    model: object
    weights: dict
    channels: dict


def smaller(model, found):
    """The model without the channels that a `Liveness` has found dead, their constants folded."""
    stay = _shaped(found)
    kept = {path: _kept(layer, path, found, stay) for path, layer in found.layers.layers()}
    kept = {path: entry for path, entry in kept.items() if entry is not None}

    def replace(layer):
        path = found.layers.path_of(layer)
        if path not in kept:
            return keras_compat.copied(layer)
        values, config = _values(layer, path, found), kept[path].config
        weights = [array.ravel()[at] for array, at in zip(values, kept[path].indices, strict=True)]
        return Replacement(type(layer).from_config({**layer.get_config(), **config}), weights)

    rebuilt = keras_compat.rebuild(model, replace, _input_shapes(model, found, stay))
    made = {path: found.groups(path)[1] for path in found.layers.calls_of}
    return Smaller(
        rebuilt,
        {path: entry.indices for path, entry in kept.items()},
        {path: stay[groups] for path, groups in made.items() if groups is not None},
    )


def _input_shapes(model, found, stay):
    """For `keras_compat.rebuild`: the inputs of nested models are smaller too."""
    read = {id(nested): values for nested, values in reversed(found.layers.entries)}
    read[id(model)] = found.layers.inputs

    def input_shapes(inner):
        return [_shape(value, found, stay) for value in read[id(inner)]]

    return input_shapes


def _shape(value, found, stay):
    shape, made = list(value.shape), found.channels.of(value)
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
        matrix = _folded(path, found)
        sides = _marks(stay, read, matrix, 0), stay[made]
        return _Kept(matrix.kept(*sides), matrix.config(*sides))
    if keras_compat.kind_of(layer) == "Reshape":
        shape = _shape(found.layers.calls_of[path][0].outputs[0], found, stay)
        return _Kept([], {"target_shape": shape[1:]})
    if not layer.weights:
        return None
    return _Kept(_kept_per_channel(layer, stay[made]), {})


def _folded(path, found):
    """The `Affine` of a layer with the constants that go in its bias, and dead weights zero."""
    matrix = found.affines[path]
    read, made = found.groups(path)
    foldable = found.foldable_inputs(path)
    inputs, outputs = _marks(found.alive, read, matrix, 0), found.alive[made]
    if read is not None and foldable is not None:
        matrix.fold(foldable.known & (foldable.values != 0) & ~inputs, foldable.values, outputs)
    matrix.without(~inputs, ~outputs)
    return matrix


def _values(layer, path, found):
    return found.affines[path].weights() if path in found.affines else layer.get_weights()


def _kept_per_channel(layer, stay):
    """Flat indices into the weights of a layer that has some for each channel."""
    indices = [np.arange(math.prod(weight.shape)).reshape(weight.shape) for weight in layer.weights]
    if keras_compat.kind_of(layer) in channels.DEPTHWISE:
        kernel, *bias = indices  # (..., inputs, multiplier); all outputs of an input go with it
        inputs = stay.reshape(kernel.shape[-2:]).all(axis=1)
        return [kernel.compress(inputs, -2), *(at[stay] for at in bias)]
    # PReLU has one for each element, or for all where axes are shared.
    return [at[..., stay] if at.shape[-1] == len(stay) else at for at in indices]
