"""A new model of the same graph with other layers."""

import contextlib
import threading

import keras
import tf_keras
from absl import logging

from tfap.keras_compat import private
from tfap.keras_compat.copying import Replacement, fresh
from tfap.keras_compat.graphs import calls, is_graph_model
from tfap.keras_compat.owner import is_keras3, is_sequential, keras_of

_hidden_compile_lock = threading.RLock()  # two threads at once would restore each other's setting


def rebuild(model, replace, input_shapes=None):
    """A new model of the same graph, names and compile settings, with its layers replaced.

    Args:
        model: a built Sequential or Functional model of either Keras. It is not changed.
        replace: called once for every layer that is not an input or a nested model; returns a
            `Replacement`.
        input_shapes: called once for every model, the nested ones too; returns the batch shapes of its
            new inputs. None keeps them.

    Returns:
        The new model; its optimizer, if the old one had any, is fresh.
    """
    made = {}
    rebuilt = _rebuild_graph(model, replace, made, input_shapes or _own_input_shapes)
    for replacement in made.values():
        if isinstance(replacement, Replacement):
            _unchain(replacement.layer)
            replacement.set_weights()
    _compile_like(rebuilt, model)
    return rebuilt


def _own_input_shapes(model):
    return [tensor.shape for tensor in model.inputs]


def _rebuild_graph(model, replace, made, input_shapes):
    def clone(layer):
        if id(layer) not in made:
            if is_graph_model(layer):
                made[id(layer)] = _rebuild_graph(layer, replace, made, input_shapes)
            else:
                made[id(layer)] = replace(layer)
                _chain(made[id(layer)])
        done = made[id(layer)]
        return done.layer if isinstance(done, Replacement) else done

    cloned = _clone_model(model, clone, input_shapes(model))
    private.copy_own_trainable(model, cloned)  # tf_keras loses it
    if type(cloned).__name__ != type(model).__name__:
        logging.warning(
            "The new model is a plain %s: Keras cannot rebuild the class %s of '%s', so methods of its own, "
            "such as train_step, are not there.",
            type(cloned).__name__,
            type(model).__name__,
            model.name,
        )
    return cloned


def _clone_model(model, clone, shapes):
    world = keras_of(model)
    if world is tf_keras:
        if is_sequential(model) and _calls_a_layer_twice(model):  # it would be there once in the clone
            model = world.Model(model.inputs, model.outputs, name=model.name)
        same = all(tuple(a) == tuple(b) for a, b in zip(shapes, _own_input_shapes(model)))
        if is_sequential(model) and any(_chained(clone(layer)) is not None for layer in model.layers):
            return _longer_sequential(model, clone, *_tf_keras_inputs(model, shapes))
        inputs = None if same else _tf_keras_inputs(model, shapes)
        return world.models.clone_model(model, input_tensors=inputs, clone_function=clone)
    inputs = _keras3_inputs(model, shapes)
    if is_sequential(model) and any(_chained(clone(layer)) is not None for layer in model.layers):
        return _longer_sequential(model, clone, inputs)
    with _hidden_compile(model):
        return world.models.clone_model(model, input_tensors=inputs, clone_function=clone)


def _longer_sequential(model, clone, inputs):
    """A Sequential model with the layers before the new layers in its list."""
    layers = [clone(layer) for layer in model.layers]
    steps = [step for layer in layers for step in (_chained(layer), layer) if step is not None]
    chained = [(layer, type(layer)) for layer in layers if _chained(layer) is not None]
    for layer, _ in chained:
        _unchain(layer)
    longer = keras_of(model).Sequential([inputs, *steps], name=model.name)
    for layer, cls in chained:  # the rest of the graph may call it too
        layer.__class__ = cls
    return longer


def _chain(replacement):
    """Lets a new layer call the one before it, so that either Keras's clone_model makes both calls."""
    if replacement.before is None:
        return
    own, before = type(replacement.layer), replacement.before.layer
    backend = keras_of(replacement.layer).backend

    def call(self, inputs, *args, **kwargs):
        if backend.is_keras_tensor(inputs):  # or a nested model, already made, is run inside another
            inputs = before(inputs)
        return own.__call__(self, inputs, *args, **kwargs)

    replacement.layer.__class__ = type(own.__name__, (own,), {"__call__": call, "called_before": before})


def _chained(layer):
    """The layer that a chained layer calls first; None for others."""
    return getattr(type(layer), "called_before", None)


def _unchain(layer):
    if _chained(layer) is not None:
        layer.__class__ = type(layer).__base__


def _calls_a_layer_twice(model):
    called = [id(layer) for layer, inputs, *_ in calls(model) if inputs]
    return len(called) > len(set(called))


def _tf_keras_inputs(model, shapes):
    layers = [private.producer_of(tensor) for tensor in model.inputs]
    return [
        tf_keras.Input(batch_shape=tuple(shape), dtype=layer.dtype, name=layer.name)
        for layer, shape in zip(layers, shapes)
    ]


def _keras3_inputs(model, shapes):
    """New inputs that keep the input layers' names: Keras 3 alone would rename unnamed ones."""
    shape_of = {id(tensor): tuple(shape) for tensor, shape in zip(model.inputs, shapes)}

    def new_input(tensor):
        layer = private.producer_of(tensor)
        return keras.Input(
            batch_shape=shape_of[id(tensor)],
            dtype=tensor.dtype,
            name=layer.name,
            sparse=getattr(tensor, "sparse", False),
            optional=getattr(layer, "optional", False),
        )

    if is_sequential(model):
        return new_input(model.inputs[0])
    return keras.tree.map_structure(new_input, private.input_structure(model))


@contextlib.contextmanager
def _hidden_compile(model):
    """Keras 3's clone_model compiles by itself and fails on losses that are not registered."""
    with _hidden_compile_lock:
        compiled, model.compiled = model.compiled, False
        try:
            yield
        finally:
            model.compiled = compiled


def _compile_like(target, source):
    arguments = private.compile_arguments(source)
    if arguments is None:
        return
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if is_keras3(source) and "LossScale" not in type(source.optimizer).__name__:
        arguments["auto_scale_loss"] = False
    if source.optimizer is not None:
        arguments["optimizer"] = source.optimizer  # with its learning rate of now; tf_keras notes the first
    try:
        for key in ("optimizer", "metrics", "weighted_metrics"):
            if key in arguments:
                arguments[key] = fresh(arguments[key])
        target.compile(**arguments)
    except Exception as error:  # an optimizer or metric of the user's that has no config
        logging.warning(
            "The new model is not compiled, since the settings of '%s' cannot be copied (%s). "
            "Call compile() on it yourself.",
            source.name,
            error,
        )
