"""The two Keras worlds: which one owns an object, and how to read and rebuild a model of either.

Everything above this floor is written once for Keras 3 (`keras`) and Keras 2 (`tf_keras`). Only this
file and `tfap/layers/` name a Keras.
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from absl import logging


def _import_tfmot():
    """Imports tfmot without its side effect on the user's process.

    On import tfmot sets TF_USE_LEGACY_KERAS, which turns `tf.keras` into Keras 2 for everyone if it
    has not been looked at yet. So `tf.keras` is resolved first and the variable put back afterwards, as are
    the filters of warnings, to which a package of tfmot's adds one.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    _ = tf.keras.__name__
    try:
        with warnings.catch_warnings():
            import tensorflow_model_optimization
            from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_wrapper
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization, pruning_wrapper.PruneLowMagnitude, pruning_impl.Pruning


tfmot, PruneLowMagnitude, TfmotPruning = _import_tfmot()


class Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """Base of callbacks that run in the `fit` of either Keras."""

    # tf_keras otherwise copies every batch's logs to the host before it calls us.
    _supports_tf_logs = True


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """Base of regularizers that layers of either Keras take."""


# -- whose is it? ----------------------------------------------------------------------------------


def is_layer(thing):
    return isinstance(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_layer_class(thing):
    return isinstance(thing, type) and issubclass(thing, keras.layers.Layer | tf_keras.layers.Layer)


def is_keras3(layer):
    return isinstance(layer, keras.layers.Layer)


def kind_of(layer):
    """The class name of a Keras's own layer or operation; None for a class of the user's, subclasses too."""
    own = type(layer).__module__.split(".")[0] in ("keras", "tf_keras")
    return type(layer).__name__ if own else None


def is_model(thing):
    return isinstance(thing, keras.Model | tf_keras.Model)


def is_graph_model(thing):
    """True for a Sequential or Functional model, whose layers and their order are known."""
    return is_model(thing) and (_is_sequential(thing) or hasattr(thing, "_nodes_by_depth"))


def is_built(model):
    return model.built and _nodes_by_depth(model) is not None


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


def is_variable(thing):
    """Of either Keras. keras.Variable is not asked: in older releases those of layers are none."""
    return isinstance(thing, tf.Variable) or (hasattr(thing, "assign") and hasattr(thing, "value"))


def tensorflow_variable(variable):
    """The variable that a tf.GradientTape watches."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def steps_per_execution(model):
    """How many steps there are between two calls of `on_train_batch_end`."""
    if is_keras3(model):
        return getattr(model, "steps_per_execution", 1)
    steps = model._steps_per_execution  # a variable, or None before compile()
    return 1 if steps is None else int(steps.numpy())


def has_loss_in_replicas(model):
    """True if only replicas can compute the loss: under a strategy tf_keras keeps metrics of it there."""
    return not is_keras3(model) and not type(model.distribute_strategy).__name__.startswith("_Default")


def is_compiled(model):
    """True once `compile` has been called."""
    return model.compiled if is_keras3(model) else model._is_compiled


def untrained_variables(model):
    """All of a model's variables but its trainable weights, those of its metrics too, each once."""
    of_metrics = [variable for metric in model.metrics for variable in metric.variables]
    return list(
        {id(variable): variable for variable in [*model.non_trainable_variables, *of_metrics]}.values()
    )


def keras_of(layer):
    """The module, `keras` or `tf_keras`, that owns a layer or model.

    Raises:
        ValueError: `layer` is of Keras 3 and its backend is not TensorFlow.
    """
    if isinstance(layer, tf_keras.layers.Layer):
        return tf_keras
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"tfap prunes Keras 3 models on the TensorFlow backend; the backend is "
            f"'{keras.config.backend()}'. Set KERAS_BACKEND=tensorflow before importing keras."
        )
    return keras


def _is_sequential(model):
    return isinstance(model, keras.Sequential | tf_keras.Sequential)


# -- from the beginning ------------------------------------------------------------------------------


def start_afresh(seed):
    """Forgets what both Kerases keep of earlier models, such as names and memory, and sets all seeds."""
    for world in (tf_keras, keras):  # Keras 3 collects garbage too, which takes half a second
        world.backend.clear_session()
    set_seeds(seed)


def set_seeds(seed):
    """Sets the seeds of both Kerases, TensorFlow, NumPy and Python."""
    for world in (keras, tf_keras):
        world.utils.set_random_seed(seed)


# -- names of the user's own classes ---------------------------------------------------------------


def register(cls):
    """Registers a class that belongs to no Keras (a criterion, a schedule) with both of them."""
    for world in (keras, tf_keras):
        world.saving.register_keras_serializable(package="tfap")(cls)
    return cls


def registered_name(cls):
    for world in (keras, tf_keras):
        name = world.saving.get_registered_name(cls)
        if name != cls.__name__:
            return name
    return cls.__name__


def registered_class(name):
    """The class registered under `name` in either Keras, or None. Loads no code."""
    for world in (keras, tf_keras):
        found = world.saving.get_registered_object(name)
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def custom_object_scope(custom_objects):
    """Both Kerases' custom-object scopes at once."""
    with (
        keras.saving.custom_object_scope(custom_objects),
        tf_keras.saving.custom_object_scope(custom_objects),
    ):
        yield


# -- reading a model's graph -----------------------------------------------------------------------


def _nodes_by_depth(model):
    functional = getattr(model, "_functional", None) or model  # Keras 3 hides it in a Sequential
    return getattr(functional, "_nodes_by_depth", None)


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


class SeedStates:
    """The states of all of a model's seed generators, in order; none on tf_keras."""

    def __init__(self, model):
        layers = all_layers(model) if is_keras3(model) else []
        self._states = [g.state for layer in layers for g in getattr(layer, "_seed_generators", ())]

    def __len__(self):
        return len(self._states)

    def read(self):
        return np.stack([state.numpy() for state in self._states])

    def write(self, values):
        for state, value in zip(self._states, values, strict=True):
            state.assign(value)


def optimizer_slots(model):
    """`(variable, index of the trainable variable it belongs to, which of its slots)` of the optimizer.

    The index is None for what belongs to none, such as the number of steps. The optimizer is built first.

    Raises:
        TypeError: a legacy optimizer of tf_keras, which cannot tell; or one such as Adafactor, which keeps
            something else than arrays of its variables' shapes and numbers.
    """
    optimizer, trainable = model.optimizer, model.trainable_variables
    if not hasattr(optimizer, "build"):
        raise TypeError(f"{type(optimizer).__name__} is a legacy optimizer")
    if not optimizer.built if is_keras3(model) else not getattr(optimizer, "_built", False):
        optimizer.build(trainable)
    # A copy is built on stand-ins of different shapes, which its slots then give away.
    stand_in = keras.Variable if is_keras3(model) else tf.Variable
    probe = _fresh(optimizer)
    probe.build([stand_in(np.zeros(index + 2, "float32")) for index in range(len(trainable))])
    held, marks, seen, slots = _variables(optimizer), _variables(probe), [], []
    for variable, marked in zip(held, marks):
        index = marked.shape[0] - 2 if len(marked.shape) == 1 else None
        expected = () if index is None else tuple(trainable[index].shape)
        if len(held) != len(marks) or tuple(variable.shape) != expected:
            raise TypeError(f"the state of {type(optimizer).__name__} does not have its variables' shapes")
        slots.append((variable, index, seen.count(index)))
        seen.append(index)
    return slots


def _variables(optimizer):
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


# -- rebuilding a model layer by layer -------------------------------------------------------------


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
    if "preprocessing" in type(layer).__module__:
        return "what it has learned in adapt() is no weight"
    if copy_of(layer) is None:
        return "it cannot be rebuilt from its config"
    return None


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
    cloned._trainable = model._trainable  # tf_keras loses it; the property would set that of all layers
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
        if _is_sequential(model) and _calls_a_layer_twice(model):  # it would be there once in the clone
            model = world.Model(model.inputs, model.outputs, name=model.name)
        same = all(tuple(a) == tuple(b) for a, b in zip(shapes, _own_input_shapes(model)))
        if _is_sequential(model) and any(_chained(clone(layer)) is not None for layer in model.layers):
            return _longer_sequential(model, clone, *_tf_keras_inputs(model, shapes))
        inputs = None if same else _tf_keras_inputs(model, shapes)
        return world.models.clone_model(model, input_tensors=inputs, clone_function=clone)
    inputs = _keras3_inputs(model, shapes)
    if _is_sequential(model) and any(_chained(clone(layer)) is not None for layer in model.layers):
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
    layers = [tensor._keras_history.layer for tensor in model.inputs]
    return [
        tf_keras.Input(batch_shape=tuple(shape), dtype=layer.dtype, name=layer.name)
        for layer, shape in zip(layers, shapes)
    ]


def _keras3_inputs(model, shapes):
    """New inputs that keep the input layers' names: Keras 3 alone would rename unnamed ones."""
    shape_of = {id(tensor): tuple(shape) for tensor, shape in zip(model.inputs, shapes)}

    def new_input(tensor):
        layer = tensor._keras_history.operation
        return keras.Input(
            batch_shape=shape_of[id(tensor)],
            dtype=tensor.dtype,
            name=layer.name,
            sparse=getattr(tensor, "sparse", False),
            optional=getattr(layer, "optional", False),
        )

    if _is_sequential(model):
        return new_input(model.inputs[0])
    return keras.tree.map_structure(new_input, model._inputs_struct)


@contextlib.contextmanager
def _hidden_compile(model):
    """Keras 3's clone_model compiles by itself and fails on losses that are not registered."""
    compiled, model.compiled = model.compiled, False
    try:
        yield
    finally:
        model.compiled = compiled


def _compile_like(target, source):
    settings = getattr(source, "_compile_config", None)
    if settings is None:
        return
    arguments = {key: value for key, value in settings.config.items() if value is not None}
    if is_keras3(source) and "LossScale" not in type(source.optimizer).__name__:
        arguments["auto_scale_loss"] = False
    try:
        for key in ("optimizer", "metrics", "weighted_metrics"):
            if key in arguments:
                arguments[key] = _fresh(arguments[key])
        target.compile(**arguments)
    except Exception as error:  # an optimizer or metric of the user's that has no config
        logging.warning(
            "The new model is not compiled, since the settings of '%s' cannot be copied (%s). "
            "Call compile() on it yourself.",
            source.name,
            error,
        )


def _fresh(thing):
    """A copy without state of an optimizer or metric, also inside lists and dicts."""
    if isinstance(thing, dict):
        return {key: _fresh(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_fresh(value) for value in thing]
    if hasattr(thing, "get_config") and hasattr(type(thing), "from_config"):
        fresh = type(thing).from_config(thing.get_config())
        for name in ("_exclude_from_weight_decay_pattern", "_exclude_from_weight_decay_names"):
            if getattr(thing, name, None):  # what exclude_from_weight_decay() was told is in no config
                setattr(fresh, name, getattr(thing, name))
        return fresh
    return thing


def snake_case(name):
    """`ActivationCount` -> `activation_count`, as Keras names things by their class."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


# -- running a model and writing it ----------------------------------------------------------------


def call_signature(model):
    """The structure that a model is called on, with a `tf.TensorSpec` of any batch size for every input.

    Raises:
        ValueError: the model has not been built, or takes more than one argument.
    """
    structure = _input_structure(model)
    if structure is None:
        raise ValueError(
            f"The inputs of the model '{model.name}' are not known. Expected a model that is built and is "
            f"called on one argument (which may hold several inputs): call it on data first."
        )
    return tf.nest.map_structure(_spec_of, structure)


def inputs_of(model):
    """A `tf.TensorSpec` for each input, in order."""
    return tf.nest.flatten(call_signature(model))


def packed_inputs(model, arrays):
    """Arrays, one for each input, in the structure that a model is called on."""
    return tf.nest.pack_sequence_as(_input_structure(model), arrays)


def _spec_of(tensor):
    history = getattr(tensor, "_keras_history", None)  # of the input layer, whose name the user knows
    layer = getattr(history, "operation", None) or getattr(history, "layer", None) or tensor
    name = layer.name and re.sub(r"[^\w.-]", "_", layer.name)  # as SavedModels name their inputs
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name)


def _input_structure(model):
    if is_graph_model(model):
        if not is_built(model):
            return None
        functional = getattr(model, "_functional", None) or model
        return functional._inputs_struct if is_keras3(model) else functional._nested_inputs
    if is_keras3(model):
        shape = (model.get_build_config() or {}).get("input_shape")
        flat = isinstance(shape, list | tuple) and all(isinstance(n, int | None) for n in shape)
        return tf.TensorSpec(shape, model.input_dtype) if flat else None
    arguments, keywords = model.save_spec() or ((), {})
    return arguments[0] if len(arguments) == 1 and not keywords else None


def inference(model):
    """The model's outputs as a `tf.function` of `call_signature(model)`."""
    autograph = not is_keras3(model)  # as each Keras does for its own exports
    # A partial, since TensorFlow warns of retracing where many functions have the same code.
    function = functools.partial(model.__call__)
    return tf.function(function, input_signature=[call_signature(model)], autograph=autograph)


def write_saved_model(model, path):
    archive = keras_of(model).export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.__call__, [call_signature(model)])
    archive.write_out(str(path))


def load_model(path):
    """The model of a `.keras` file, not compiled, in the Keras that wrote it. Loads no code.

    Raises:
        ValueError: the file is another one, or not whole, or holds code.
    """
    try:
        with zipfile.ZipFile(path) as file:
            version = json.loads(file.read("metadata.json"))["keras_version"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is no .keras file, or not whole: {error}") from error
    world = tf_keras if version.startswith("2.") else keras
    return world.models.load_model(path, compile=False, safe_mode=True)
