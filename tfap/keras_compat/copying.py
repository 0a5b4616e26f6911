"""Copies of layers, optimizers and metrics, made from their configs."""

import dataclasses
import re
import types

import numpy as np
from absl import logging

from tfap.keras_compat import private
from tfap.keras_compat.owner import is_keras3, is_keras_class, is_layer
from tfap.keras_compat.registry import custom_object_scope


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
        copy = from_config(layer)
        private.copy_input_shape(layer, copy)
        if is_keras3(layer) and "shapes_dict" in (layer.get_build_config() or {}):
            if not copy.built:  # from_config() may have built it, with shapes in the config
                # It reads several inputs: a wrapper sees one.
                copy.build_from_config(layer.get_build_config())
            _share_objects(layer, copy)
        return copy
    except Exception as error:  # get_config and from_config are the user's code
        logging.debug("%s cannot be rebuilt from its config: %s", layer.name, error)
        return None


def from_config(thing, changes=None, left_out=()):
    """Makes a layer, optimizer or metric from the config of another one, with the very same functions.

    A config names a function, and Keras may know another one by that name. So the copy gets the objects
    themselves: activations, and the user's own initializers, regularizers, constraints and schedules.

    Args:
        thing: A layer, optimizer or metric of either Keras.
        changes: Dict of entries of the config that are replaced.
        left_out: Names of entries that are not passed on.
    """
    config = {**thing.get_config(), **(changes or {})}
    with custom_object_scope(own_objects(thing)):
        copy = type(thing).from_config({key: config[key] for key in config if key not in left_out})
    _share_objects(thing, copy, changes or ())
    return copy


def inner_config(serialized, changes):
    """Returns the serialized config of an inner layer with changed entries.

    The inner layer is built anew, because its inputs change too.
    """
    config = {**serialized["config"], **changes}
    return {**{key: value for key, value in serialized.items() if key != "build_config"}, "config": config}


def own_objects(thing):
    """`{name: function or class}` of what a user's own config entries may name, in sublayers too."""
    found = {} if is_keras_class(type(thing)) else {type(thing).__name__: type(thing)}
    for owner in [thing, *(private.layers_inside(thing) if is_layer(thing) else ())]:
        if owner is not thing and not is_keras_class(type(owner)):
            found[type(owner).__name__] = type(owner)
        for value in vars(owner).values():
            if _is_own_function(value):
                found[value.__name__] = value
            elif _is_own_object(value):
                found[type(value).__name__] = type(value)
    return found


def _is_own_function(value):
    owner = (getattr(value, "__module__", None) or "").split(".")[0]
    return isinstance(value, types.FunctionType) and owner not in ("keras", "tf_keras", "tensorflow")


def _is_own_object(value):
    """Whether it is an initializer, regularizer, constraint or schedule of a user's class."""
    configurable = hasattr(value, "get_config") and callable(value) and not isinstance(value, type)
    return configurable and not is_layer(value) and not is_keras_class(type(value))


def _share_objects(thing, copy, changes=()):
    """Gives a copy the functions and the user's own objects of the original, in sublayers too."""
    for key in config_entries(thing) - set(changes):
        for name in (key, f"_{key}"):
            value, other = vars(thing).get(name), vars(copy).get(name)
            shared = isinstance(value, types.FunctionType) or _is_own_object(value)
            if shared and other is not None and other is not value:
                setattr(copy, name, value)
    if is_layer(thing):
        sublayers = [private.sublayers(each) for each in (thing, copy)]
        for mine, other in zip(*sublayers):
            if type(mine) is type(other):
                _share_objects(mine, other)


def config_entries(thing):
    """Returns the set of the names in an object's config. Empty if it has none."""
    try:
        return set(thing.get_config())
    except Exception:  # a sublayer of the user's that its holder makes itself
        return set()


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
        for held in private.layers_inside(holder):
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
        copy = from_config(thing)
        _copy_exclusions(thing, copy)
        return copy
    return thing


def _copy_exclusions(optimizer, copy):
    private.copy_weight_decay_exclusions(optimizer, copy)
    if hasattr(optimizer, "inner_optimizer"):
        _copy_exclusions(optimizer.inner_optimizer, copy.inner_optimizer)
