"""Copies of models that compute in another precision."""

from tfap.keras_compat.copying import Replacement, copied, from_config, tied_layers, why_shared
from tfap.keras_compat.graphs import all_layers, calls, is_built, is_graph_model
from tfap.keras_compat.owner import is_layer
from tfap.keras_compat.rebuilding import rebuild

_HALF = ("float16", "bfloat16")
_FLOAT_POLICIES = (*_HALF, "float64", *(f"mixed_{dtype}" for dtype in _HALF))


def half_layers(model):
    """Returns the layers of a model that compute in float16 or bfloat16."""
    return [layer for layer in all_layers(model) if getattr(layer, "compute_dtype", None) in _HALF]


def with_policy(model, policy):
    """Copies a model with another dtype policy and the same weights.

    Args:
        model: A built Sequential or Functional model of either Keras. It is not changed.
        policy: String. Dtype policy of all layers of the new model that compute with floats.

    Returns:
        The new model. Its inputs keep their dtypes.

    Raises:
        ValueError: If the model is subclassed or not built, or a layer cannot be rebuilt with the policy.
    """
    if not (is_graph_model(model) and is_built(model)):
        raise ValueError(
            f"The model '{model.name}' cannot be rebuilt in {policy}: expected a built Sequential or "
            f"Functional model. Build it with {policy} layers and load its weights."
        )
    tied = tied_layers(list(_leaves(model)))

    def replace(layer):
        if id(layer) in tied:
            return Replacement(layer)
        changes = {} if not is_layer(layer) or why_shared(layer) else _changes(layer.get_config(), policy)
        return Replacement(from_config(layer, changes), layer.get_weights()) if changes else copied(layer)

    new = rebuild(model, replace)
    left = half_layers(new)
    if left:
        raise ValueError(
            f"Layers of '{model.name}' cannot be rebuilt in {policy}: "
            f"{', '.join(repr(layer.name) for layer in left)}. Build the model with {policy} layers and load "
            "its weights."
        )
    return new


def _leaves(model):
    for layer, *_ in calls(model):
        yield from _leaves(layer) if is_graph_model(layer) else [layer]


def _changes(config, policy):
    """Returns the entries of a config that name a policy of floats, with another policy."""
    changes = {}
    for key, value in config.items():
        if key == "dtype" and _policy_name(value) in _FLOAT_POLICIES:
            changes[key] = policy
        elif isinstance(value, dict) and (inner := _changes(value, policy)):
            changes[key] = {**value, **inner}
        elif isinstance(value, list) and any(_changes({"": each}, policy) for each in value):
            changes[key] = [_changes({"": each}, policy).get("", each) for each in value]
    return changes


def _policy_name(value):
    """Returns the name of a dtype policy as a config has it: a string, or a serialized object."""
    if isinstance(value, dict):
        return value.get("config", {}).get("name")
    return value
