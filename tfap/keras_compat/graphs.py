"""Reading the graph of a model: its layers and their calls."""

import inspect
from typing import Any, NamedTuple

from tfap.keras_compat import lazy, private
from tfap.keras_compat.owner import is_model, is_sequential, tree_of

_TFMOT_WRAPPER = "tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper.PruneLowMagnitude"


def is_graph_model(thing):
    """True for a Sequential or Functional model, whose layers and their order are known."""
    return is_model(thing) and (is_sequential(thing) or private.has_nodes(thing))


def is_built(model):
    return model.built and private.nodes_by_depth(model) is not None


class LayerCall(NamedTuple):
    """One recorded call in a graph model.

    Attributes:
        layer: The layer, nested model, or Keras 3 operation.
        inputs: List of its input tensors, first the positional ones, then by the order of its parameters.
        outputs: List of its output tensors.
        training: Bool or None. The `training` argument that the graph fixes for the call.
        arguments: Tuple `(args, kwargs)` of the call, with tensors and constants.
    """

    layer: Any
    inputs: list
    outputs: list
    training: bool | None
    arguments: tuple


def calls(model):
    """Yields the `LayerCall`s of a built graph model, producers before consumers.

    A shared layer has several calls, a nested model one.
    """
    for _, node in nodes(model):
        args, kwargs = arguments_of(node)
        layer = layer_of(node)
        inputs = [] if node.is_input else _tensors(layer, args, kwargs)
        outputs = tree_of(model).flatten(node.outputs)
        yield LayerCall(layer, inputs, outputs, kwargs.get("training"), (args, kwargs))


def nodes(model):
    """Lists `(depth, node)` of every recorded call of a built graph model, producers before consumers."""
    by_depth = private.nodes_by_depth(model)
    return [(depth, node) for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def layer_of(node):
    return getattr(node, "operation", None) or node.layer


def arguments_of(node):
    """Returns `(args, kwargs)` of a recorded call."""
    arguments = getattr(node, "arguments", None)
    return (node.call_args, node.call_kwargs) if arguments is None else (arguments.args, arguments.kwargs)


def _tensors(layer, args, kwargs):
    # Keras 3 sorts keywords by name, which would put the initial state of a GRU before its sequences.
    parameters = list(_parameters(layer))
    names = sorted(kwargs, key=lambda name: parameters.index(name) if name in parameters else len(parameters))
    ordered = [*args, *(kwargs[name] for name in names)]
    if is_graph_model(layer):
        ordered = [_as_the_model_takes_them(layer, ordered[0])]
    flat = tree_of(layer).flatten(ordered)
    return [tensor for tensor in flat if private.producer_of(tensor) is not None]


def _as_the_model_takes_them(model, inputs):
    """Returns a nested model's inputs in its order. Both Kerases find those in a dict by name."""
    if not isinstance(inputs, dict) or isinstance(private.input_structure(model), dict):
        return inputs
    names = [(tensor.name, private.producer_of(tensor).name) for tensor in model.inputs]
    return [inputs[name if name in inputs else layer_name] for name, layer_name in names]


def _parameters(layer):
    called = layer.layer if is_tfap_wrapper(layer) else layer
    try:
        return inspect.signature(called.call).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return ()


def all_layers(model):
    """Every layer inside a model of any kind, subclassed ones too, each once."""
    return private.layers_inside(model)


def is_tfap_wrapper(layer):
    """True for tfap's own wrappers, which are defined floors above."""
    return getattr(layer, "is_tfap_wrapper", False)


def is_any_wrapper(layer):
    """True for tfap's wrappers and for tfmot's."""
    return is_tfap_wrapper(layer) or lazy.is_instance(layer, _TFMOT_WRAPPER)


def check_plain(model, function):
    """Checks the model that a function takes.

    Raises:
        TypeError: no Keras model. ValueError: it is subclassed, not built, or has pruning wrappers.
    """
    check_readable(model, function)
    if any(is_any_wrapper(layer) for layer in all_layers(model)):
        raise ValueError(f"The model '{model.name}' still has pruning wrappers: call strip_pruning() first.")


def check_measurable(model, function):
    """Like `check_plain`, but tfap's own wrappers are as good as the layers inside them."""
    check_readable(model, function)
    if any(is_any_wrapper(layer) and not is_tfap_wrapper(layer) for layer in all_layers(model)):
        raise ValueError(
            f"The model '{model.name}' has tfmot's pruning wrappers: call its strip_pruning() first."
        )


def check_readable(model, function):
    """Like `check_plain`, for a function that takes models with pruning wrappers too."""
    if not is_model(model):
        raise TypeError(f"{function} takes a Keras model: received an object of type {type(model).__name__}.")
    if not is_graph_model(model):
        raise ValueError(f"{function} takes Sequential and Functional models: '{model.name}' is subclassed.")
    if not is_built(model):
        raise ValueError(
            f"{function} takes a built model: give '{model.name}' an Input layer, or call it on data once."
        )
