"""Copies of layers, optimizers and metrics, made from their configs."""

import dataclasses
import re

import numpy as np
from absl import logging

from tfap.keras_compat.owner import is_keras3, is_layer


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What stands in a rebuilt model where an old layer stood.

    Attributes:
        layer: the layer to put there.
        weights: NumPy arrays for `holder.set_weights` once the model is built; None leaves them.
        holder: the layer that receives `weights`; None means `layer` itself.
        before: the Replacement of a second new layer, which reads what the old layer read; `layer` then
            reads its output. None if `layer` is alone.
    """

    layer: object
    weights: list[np.ndarray] | None = None
    holder: object = None
    before: "Replacement | None" = None

    def set_weights(self):
        """Writes the weights into the layers, which the model has built."""
        if self.before is not None:
            self.before.set_weights()
        if self.weights:
            (self.holder or self.layer).set_weights(self.weights)


def copy_of(layer):
    """A new layer from `layer`'s config, or None where its class cannot be rebuilt from a config."""
    try:
        copy = type(layer).from_config(layer.get_config())
        if is_keras3(layer) and "shapes_dict" in (layer.get_build_config() or {}):
            copy.build_from_config(layer.get_build_config())  # it reads several inputs: a wrapper sees one
        return copy
    except Exception as error:  # get_config and from_config are the user's code
        logging.debug("%s cannot be rebuilt from its config: %s", layer.name, error)
        return None


def built_copy_of(layer):
    """Like `copy_of`, built on the same input shape and with the same weights if `layer` has any."""
    copied = copy_of(layer)
    if copied is not None and layer.built:
        if not copied.built:
            copied.build_from_config(layer.get_build_config())
        copied.set_weights(layer.get_weights())
    return copied


def copied(layer):
    """The Replacement that changes nothing: a copy with the same weights, else the layer itself."""
    copy = None if why_shared(layer) else copy_of(layer)
    if copy is None:
        return Replacement(layer)
    return Replacement(copy, layer.get_weights() if is_layer(layer) else None)


def why_shared(layer):
    """The reason why a rebuilt model must share this layer with the given one, or None."""
    if any(re.match(r"(tf_)?keras\b.*\bpreprocessing\b", cls.__module__) for cls in type(layer).__mro__):
        return "what it has learned in adapt() is no weight"
    if copy_of(layer) is None:
        return "it cannot be rebuilt from its config"
    return None


def tied_layers(layers):
    """`{id: reason}` of those that hold each other, as for tying weights: copies of them would be untied."""
    inside, found = {id(layer): layer for layer in layers if is_layer(layer)}, {}
    for holder in inside.values():
        for held in holder._flatten_layers(include_self=False):
            if id(held) in inside and held.weights:
                found[id(held)] = f"the layer '{holder.name}' holds it too"
                found.setdefault(id(holder), f"it holds the layer '{held.name}'")
    return found


def fresh(thing):
    """A copy without state of an optimizer or metric, also inside lists and dicts."""
    if isinstance(thing, dict):
        return {key: fresh(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [fresh(value) for value in thing]
    if hasattr(thing, "get_config") and hasattr(type(thing), "from_config"):
        copy = type(thing).from_config(thing.get_config())
        _copy_exclusions(thing, copy)
        return copy
    return thing


def _copy_exclusions(optimizer, copy):
    """What exclude_from_weight_decay() was told is in no config."""
    for name in ("_exclude_from_weight_decay_pattern", "_exclude_from_weight_decay_names"):
        if getattr(optimizer, name, None):
            setattr(copy, name, getattr(optimizer, name))
    if hasattr(optimizer, "inner_optimizer"):
        _copy_exclusions(optimizer.inner_optimizer, copy.inner_optimizer)
