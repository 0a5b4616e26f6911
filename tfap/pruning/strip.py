"""Strips the wrappers: from layers of a graph, and from those inside other layers."""

import numpy as np

from tfap import keras_compat
from tfap.keras_compat import Replacement
from tfap.layers.base import LOOP_NEVER_PRUNES
from tfap.layers.find import is_pruning_wrapper

_WRAPPERS = ("CountActivations", "PruneByActivation", "PruneLowMagnitude")  # last parts of registered names


def check_loop(model):
    """Raises RuntimeError if a training loop has trained the model and never let the callback prune."""
    if keras_compat.is_layer(model):
        wrappers = [each for each in [model, *wrappers_inside(model)] if is_pruning_wrapper(each)]
        if any(wrapper.session.is_left_alone and wrapper.trained for wrapper in wrappers):
            raise RuntimeError(LOOP_NEVER_PRUNES.format(name=model.name))


def stripped(layer):
    """Returns the `Replacement` of a layer of a graph: without its wrapper, and without those inside it.

    Raises:
        ValueError: If a wrapped layer, or one that holds wrapped layers, cannot be rebuilt from its config.
    """
    if is_pruning_wrapper(layer):
        return Replacement(copied_from(layer, keras_compat.copy_of), layer.masked_weights())
    if keras_compat.is_any_wrapper(layer):
        return _of_tfmot(layer)
    wrappers = wrappers_inside(layer)
    return _without(layer, wrappers) if wrappers else keras_compat.copied(layer)


def built_layer(layer):
    """Returns a layer outside a model without its wrapper or those inside it, built if `layer` is."""
    if is_pruning_wrapper(layer):
        copy = copied_from(layer, keras_compat.built_copy_of)
        if layer.built:
            copy.set_weights(layer.masked_weights())
        return copy
    if keras_compat.is_any_wrapper(layer):
        copy = copied_from(layer, keras_compat.built_copy_of)
        weights = _of_tfmot(layer).weights
        if layer.built and weights:
            copy.set_weights(weights)
        return copy
    replacement = _without(layer, wrappers_inside(layer))
    if layer.built:
        if not replacement.layer.built:
            replacement.layer.build_from_config(layer.get_build_config())
        replacement.set_weights()
    return replacement.layer


def _of_tfmot(wrapper):
    """The replacement of a wrapper that only unwraps or, if it is tfmot's own, masks too."""
    masks = {id(weight): np.array(mask) for weight, mask, _ in getattr(wrapper, "pruning_vars", ())}
    replacement, inner = keras_compat.copied(wrapper.layer), wrapper.layer
    if not masks or replacement.weights is None:
        return replacement
    return Replacement(
        replacement.layer,
        [
            value * masks[id(weight)] if id(weight) in masks else value
            for weight, value in zip(inner.weights, replacement.weights, strict=True)
        ],
    )


def copied_from(wrapper, copy):
    """A copy of the layer in a wrapper, by one of the functions of `keras_compat`."""
    layer = copy(wrapper.layer)
    if layer is None:
        raise ValueError(
            f"The layer '{wrapper.name}' cannot be rebuilt from its config: give its class a get_config()."
        )
    return layer


def wrappers_inside(layer):
    """Lists the wrappers inside a layer, such as those of a pruned model in a TimeDistributed."""
    if not keras_compat.is_layer(layer):
        return []  # a function
    return [inner for inner in keras_compat.all_layers(layer) if keras_compat.is_any_wrapper(inner)]


def _without(layer, wrappers):
    """Rebuilds a layer from its config, with the configs of layers in place of those of their wrappers."""
    config = layer.get_config()
    plain = {key: _plain(value) for key, value in config.items()}
    changes = {key: value for key, value in plain.items() if value != config[key]}
    try:
        copy = keras_compat.from_config(layer, changes)
    except Exception as error:  # get_config and from_config are the user's code
        raise ValueError(_refusal(layer, wrappers)) from error
    if wrappers_inside(copy):
        raise ValueError(_refusal(layer, wrappers))
    return Replacement(copy, _weights(layer, wrappers))


def _refusal(layer, wrappers):
    return (
        f"The layer '{layer.name}' holds wrapped layers ({', '.join(one.name for one in wrappers)}), and its "
        f"config does not tell how to rebuild it without the wrappers: let get_config() of "
        f"{type(layer).__name__} return its layers, serialized, or build the layer anew from "
        "tfap.strip_pruning(wrapped layer)."
    )


def _plain(config):
    """Replaces the configs of wrappers in a config by those of their layers, at any depth."""
    if isinstance(config, list | tuple):
        return type(config)(map(_plain, config))
    if not isinstance(config, dict):
        return config
    if not _is_wrapper(config):
        return {key: _plain(value) for key, value in config.items()}
    inner = _plain(config["config"]["layer"])
    # The graph of a Functional model knows its layers by this name.
    return {**inner, **{key: config[key] for key in ("name", "inbound_nodes") if key in config}}


def _is_wrapper(config):
    name = config.get("registered_name") or config.get("class_name")
    inner = config.get("config")
    known = isinstance(name, str) and name.split(">")[-1] in _WRAPPERS
    return known and isinstance(inner, dict) and "layer" in inner


def _weights(layer, wrappers):
    """Returns the weights of a layer without the state of wrappers inside it, pruned ones zero."""
    left_out, masked = set(), {}
    for wrapper in wrappers:
        own = {id(weight) for weight in wrapper.layer.weights}
        left_out |= {id(weight) for weight in wrapper.weights} - own
        if is_pruning_wrapper(wrapper):
            masked |= dict(zip(map(id, wrapper.layer.weights), wrapper.masked_weights(), strict=True))
    return [
        masked[id(weight)] if id(weight) in masked else np.array(value)
        for weight, value in zip(layer.weights, layer.get_weights(), strict=True)
        if id(weight) not in left_out
    ]
