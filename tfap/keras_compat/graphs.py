"""Reading the graph of a model: its layers and their calls."""

import tensorflow as tf

from tfap.keras_compat.worlds import is_model, is_sequential


def is_graph_model(thing):
    """True for a Sequential or Functional model, whose layers and their order are known."""
    return is_model(thing) and (is_sequential(thing) or hasattr(thing, "_nodes_by_depth"))


def is_built(model):
    return model.built and _nodes_by_depth(model) is not None


def calls(model):
    """Yields `(layer, input tensors, output tensors, training)` of every call in a built graph model.

    Inputs come before what reads them. A shared layer has several calls, a nested model one. `training` is
    what the call was given: True, False or None.
    """
    nodes = _nodes_by_depth(model)
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
    return model._flatten_layers(include_self=False)


def _nodes_by_depth(model):
    functional = getattr(model, "_functional", None) or model  # Keras 3 hides it in a Sequential
    return getattr(functional, "_nodes_by_depth", None)
