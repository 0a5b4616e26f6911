"""A new model of the same graph with other layers."""

import contextlib
import inspect
import threading

import keras
from absl import logging

from tfap.keras_compat import private
from tfap.keras_compat.backends.common import NO_JIT
from tfap.keras_compat.copying import Replacement, fresh
from tfap.keras_compat.graphs import arguments_of, calls, is_graph_model, layer_of, nodes
from tfap.keras_compat.owner import is_keras3, is_sequential, keras_of, tree_of

_hidden_compile_lock = threading.RLock()  # two threads at once would restore each other's setting


def rebuild(model, replace, input_shapes=None, call=None):
    """A new model of the same graph, names and compile settings, with its layers replaced.

    Args:
        model: a built Sequential or Functional model of either Keras. It is not changed.
        replace: called once for every layer that is not an input or a nested model; returns a
            `Replacement`.
        input_shapes: called once for every model, the nested ones too; returns the batch shapes of its
            new inputs. None keeps them.
        call: `call(layer, new layer, args, kwargs)`, which makes every call of a new layer or function in
            place of `new layer(*args, **kwargs)`. None makes the calls of the given model.

    Returns:
        The new model; its optimizer, if the old one had any, is fresh.
    """
    made = {}
    rebuilt = _rebuild_graph(model, replace, made, input_shapes or _own_input_shapes, call or _same_call)
    for replacement in made.values():
        if isinstance(replacement, Replacement):
            _unchain(replacement.layer)
            replacement.set_weights()
    compile_like(rebuilt, model)
    return rebuilt


def _own_input_shapes(model):
    return [tensor.shape for tensor in model.inputs]


def _same_call(layer, new_layer, args, kwargs):
    return new_layer(*args, **kwargs)


def _rebuild_graph(model, replace, made, input_shapes, call):
    def clone(layer):
        if id(layer) not in made:
            if is_graph_model(layer):
                made[id(layer)] = _rebuild_graph(layer, replace, made, input_shapes, call)
            else:
                made[id(layer)] = replace(layer)
                _chain(made[id(layer)])
        done = made[id(layer)]
        return done.layer if isinstance(done, Replacement) else done

    cloned = _clone_model(model, clone, input_shapes(model), call)
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


def _clone_model(model, clone, shapes, call):
    if not is_sequential(model):
        return _clone_functional(model, clone, shapes, call)
    world = keras_of(model)
    if world is not keras and _calls_a_layer_twice(model):  # it would be there once in the clone
        return _clone_functional(model, clone, shapes, call)
    if any(_chained(clone(layer)) is not None for layer in model.layers):
        return _longer_sequential(model, clone, _new_inputs(model, shapes))
    same = all(tuple(a) == tuple(b) for a, b in zip(shapes, _own_input_shapes(model)))
    inputs = None if same and world is not keras else _new_inputs(model, shapes)
    with _hidden_compile(model):
        return world.models.clone_model(model, input_tensors=inputs, clone_function=clone)


def _clone_functional(model, clone, shapes, call):
    """Makes the calls of a model again, with new layers.

    Neither Keras's clone_model is used: that of tf_keras goes through a config, which loses arguments of
    functions such as the operands of `tf.einsum`, and neither lets arguments change.
    """
    inputs, tree = _new_inputs(model, shapes), tree_of(model)
    tensors = dict(zip(map(id, model.inputs), tree.flatten(inputs)))
    added = []  # calls that add_loss and add_metric of tf_keras add below the outputs
    for depth, node in nodes(model):
        layer, arguments = layer_of(node), arguments_of(node)
        given = filter(private.producer_of, tree.flatten(arguments))
        if node.is_input or any(id(tensor) not in tensors for tensor in given):
            continue  # an input, or a call of a shared layer outside this model
        args, kwargs = tree.map_structure(lambda value: tensors.get(id(value), value), arguments)
        new_layer = clone(layer)
        outputs = call(layer, new_layer, args, kwargs)
        tensors.update(zip(map(id, tree.flatten(node.outputs)), tree.flatten(outputs)))
        if depth < 0:
            added.append((layer, new_layer, new_layer.inbound_nodes[-1]))
    outputs = tree.map_structure(lambda tensor: tensors[id(tensor)], private.output_structure(model))
    cloned = _model_like(model, inputs, outputs)
    if added:
        order = {id(layer): at for at, layer in enumerate(model.layers)}
        added.sort(key=lambda entry: order[id(entry[0])])
        new_layers, new_nodes = ([entry[at] for entry in added] for at in (1, 2))
        private.insert_layers(cloned, new_layers, new_nodes)
    return cloned


def _model_like(model, inputs, outputs):
    """A Functional model of the class of `model`, or Keras's own if its constructor takes other arguments."""
    plain = keras_of(model).Model(inputs, outputs, name=model.name)
    if isinstance(plain, type(model)):
        return plain
    names, own = ([*inspect.signature(type(each).__init__).parameters] for each in (plain, model))
    return (
        type(model)(inputs, outputs, name=model.name) if own in (names, ["self", "args", "kwargs"]) else plain
    )


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


def _new_inputs(model, shapes):
    """New inputs in the structure of the model's inputs, with their names, which clone_model may change."""
    new_input = _keras3_input if is_keras3(model) else _tf_keras_input
    shape_of = {id(tensor): tuple(shape) for tensor, shape in zip(model.inputs, shapes)}
    structure = model.inputs[0] if is_sequential(model) else private.input_structure(model)
    return tree_of(model).map_structure(lambda tensor: new_input(tensor, shape_of[id(tensor)]), structure)


def _tf_keras_input(tensor, shape):
    layer = private.producer_of(tensor)
    config = layer.get_config()
    if shape != tuple(tensor.shape):
        config["batch_input_shape"] = shape
    return type(layer).from_config(config).output


def _keras3_input(tensor, shape):
    layer = private.producer_of(tensor)
    return keras.Input(
        batch_shape=shape,
        dtype=tensor.dtype,
        name=layer.name,
        sparse=getattr(tensor, "sparse", False),
        optional=getattr(layer, "optional", False),
    )


@contextlib.contextmanager
def _hidden_compile(model):
    """Keras 3's clone_model compiles by itself and fails on losses that are not registered."""
    if not is_keras3(model):
        yield
        return
    with _hidden_compile_lock:
        compiled, model.compiled = model.compiled, False
        try:
            yield
        finally:
            model.compiled = compiled


def compile_like(target, source):
    """Compiles a model with the settings of another one, a fresh optimizer and fresh metrics."""
    arguments = private.compile_arguments(source)
    if arguments is None:
        return
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if is_keras3(source) and "LossScale" not in type(source.optimizer).__name__:
        arguments["auto_scale_loss"] = False
    on_torch = is_keras3(source) and keras.config.backend() == "torch"
    # Keras does not compile models by itself there, but a file from JAX says that it did.
    if on_torch and arguments.pop("jit_compile", False) and source.jit_compile:
        logging.warning(NO_JIT, source.name)
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
