"""Reading the graph of a model: its layers and their calls."""

import tensorflow as tf

from tfap.keras_compat import private
from tfap.keras_compat.owner import is_model, is_sequential, keras_of
from tfap.keras_compat.tfmot_import import PruneLowMagnitude


def is_graph_model(thing):
    """True for a Sequential or Functional model, whose layers and their order are known."""
    return is_model(thing) and (is_sequential(thing) or private.has_nodes(thing))


def is_built(model):
    return model.built and private.nodes_by_depth(model) is not None


def calls(model):
    """Yields `(layer, input tensors, output tensors, training)` of every call in a built graph model.

    Inputs come before what reads them. A shared layer has several calls, a nested model one. `training` is
    what the call was given: True, False or None.
    """
    nodes = private.nodes_by_depth(model)
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            layer = getattr(node, "operation", None) or node.layer
            # tf_keras's `input_tensors` are those of the first argument only.
            inputs = getattr(node, "keras_inputs", None) or node.input_tensors
            arguments = getattr(node, "arguments", None)
            given = node.call_kwargs if arguments is None else arguments.kwargs
            tensors = [] if node.is_input else list(inputs)
            yield layer, tensors, tf.nest.flatten(node.outputs), given.get("training")


def all_layers(model):
    """Every layer inside a model of any kind, subclassed ones too, each once."""
    return private.layers_inside(model)


def is_tfap_wrapper(layer):
    """True for tfap's own wrappers, which are defined floors above."""
    return getattr(layer, "is_tfap_wrapper", False)


def is_any_wrapper(layer):
    """True for tfap's wrappers and for tfmot's."""
    return is_tfap_wrapper(layer) or isinstance(layer, PruneLowMagnitude)


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
    keras_of(model)
    if not is_graph_model(model):
        raise ValueError(f"{function} takes Sequential and Functional models: '{model.name}' is subclassed.")
    if not is_built(model):
        raise ValueError(
            f"{function} takes a built model: give '{model.name}' an Input layer, or call it on data once."
        )
