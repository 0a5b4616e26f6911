"""Everything private of Keras, tf_keras, TensorFlow and tfmot that tfap touches, each behind a function.

These attributes may change in any release. Nothing else in tfap reads or writes one, except that
`tfap/layers/` overrides some by subclassing. `tests/test_private_attributes.py` checks that and `SEEN_IN`.
"""

import contextlib
import inspect

from tfap.keras_compat.lazy import loaded

_KERAS, _TF_KERAS, _TENSORFLOW, _TFMOT = "keras 3.15.1", "tf_keras 2.21.0", "tensorflow 2.21.0", "tfmot 0.8.1"
# Attribute: whose it is, and the release in which it was seen.
SEEN_IN = {
    "_attention_axes": {
        "keras.layers.MultiHeadAttention": _KERAS,
        "tf_keras.layers.MultiHeadAttention": _TF_KERAS,
    },
    "_build_input_shape": {"tf_keras.layers.Layer": _TF_KERAS},
    "_built": {"tf_keras.optimizers.Optimizer": _TF_KERAS},
    "_callable_losses": {"tf_keras.layers.Layer": _TF_KERAS},
    "_compile_config": {"keras.Model": _KERAS, "tf_keras.Model": _TF_KERAS},
    "_compute_attention": {
        "keras.layers.GroupedQueryAttention": _KERAS,
        "keras.layers.MultiHeadAttention": _KERAS,
        "tf_keras.layers.MultiHeadAttention": _TF_KERAS,
    },
    "_constraint": {"tf.Variable": _TENSORFLOW},
    "_exclude_from_weight_decay_names": {"tf_keras.optimizers.Optimizer": _TF_KERAS},
    "_exclude_from_weight_decay_pattern": {"keras.optimizers.Optimizer": _KERAS},
    "_flatten_layers": {"keras.layers.Layer": _KERAS, "tf_keras.layers.Layer": _TF_KERAS},
    "_functional": {"keras.Sequential": _KERAS},
    "_get_control_flow_context": {"tf.Graph": _TENSORFLOW},
    "_inputs_struct": {"keras.Model": _KERAS},
    "_input_shape_arg": {"keras.layers.Layer": _KERAS},
    "_insert_layers": {"tf_keras.Model": _TF_KERAS},
    "_is_compiled": {"tf_keras.Model": _TF_KERAS},
    "_iterations": {"keras.optimizers.Optimizer": _KERAS},
    "_jax_state": {"keras.Model on JAX": _KERAS},
    "_jax_state_synced": {"keras.Model on JAX": _KERAS},
    "_keras_history": {"keras.KerasTensor": _KERAS, "tf_keras.KerasTensor": _TF_KERAS},
    "_key_shape": {"tf_keras.layers.MultiHeadAttention": _TF_KERAS},
    "_nested_inputs": {"tf_keras.Model": _TF_KERAS},
    "_nested_outputs": {"tf_keras.Model": _TF_KERAS},
    "_nodes_by_depth": {"keras.Model": _KERAS, "tf_keras.Model": _TF_KERAS},
    "_num_workers": {"tf.distribute.MultiWorkerMirroredStrategy.extended": _TENSORFLOW},
    "_outputs_struct": {"keras.Model": _KERAS},
    "_query_shape": {"tf_keras.layers.MultiHeadAttention": _TF_KERAS},
    "_seed_generators": {"keras.layers.Layer": _KERAS},
    "_steps_per_execution": {"tf_keras.Model": _TF_KERAS},
    "_symbolic_build": {"keras.Model": _KERAS},
    "_trainable": {"keras.layers.Layer": _KERAS, "tf_keras.layers.Layer": _TF_KERAS},
    "_value_shape": {"tf_keras.layers.MultiHeadAttention": _TF_KERAS},
    "_variable": {"tf_keras.AutoCastVariable": _TF_KERAS},
}
# The same for what tfap's classes override or read of their base classes.
SEEN_IN_BASES = {
    "_name": {"tf_keras.layers.Layer": _TF_KERAS},
    "_pruning_schedule": {"tfmot.Pruning": _TFMOT},
    "_step_fn": {"tfmot.Pruning": _TFMOT},
    "_supports_masking": {"tf_keras.layers.Layer": _TF_KERAS},
    "_supports_tf_logs": {"tf_keras.callbacks.Callback": _TF_KERAS},
    "_update_mask": {"tfmot.Pruning": _TFMOT},
}


# -- models ----------------------------------------------------------------------------------------


def layers_inside(layer):
    """All layers inside a layer or model of either Keras, also those of nested models."""
    return layer._flatten_layers(include_self=False)


def sublayers(layer):
    """The layers that a layer of either Keras holds itself, in order; not those inside them."""
    return layer._flatten_layers(include_self=False, recursive=False)


def functional_of(model):
    """The Functional model that Keras 3 keeps in a built Sequential; any other model itself."""
    return getattr(model, "_functional", None) or model


def has_nodes(model):
    """True for a Functional model, whose layers' calls are recorded."""
    return hasattr(model, "_nodes_by_depth")


def nodes_by_depth(model):
    """The recorded calls of a Functional or built Sequential model by depth; None for another."""
    return getattr(functional_of(model), "_nodes_by_depth", None)


def producer_of(tensor):
    """The layer that a Keras tensor comes from; None for a tensor that is not a Keras tensor."""
    history = getattr(tensor, "_keras_history", None)
    return getattr(history, "operation", None) or getattr(history, "layer", None)


def input_structure(model):
    """The inputs of a built Functional or Sequential model, nested as its call takes them."""
    functional = functional_of(model)
    return functional._inputs_struct if hasattr(functional, "_inputs_struct") else functional._nested_inputs


def output_structure(model):
    """The outputs of a built Functional or Sequential model, nested as its call returns them."""
    functional = functional_of(model)
    return (
        functional._outputs_struct if hasattr(functional, "_outputs_struct") else functional._nested_outputs
    )


def insert_layers(model, layers, nodes):
    """Adds layers that compute losses or metrics, by their recorded calls, to a tf_keras model."""
    model._insert_layers(layers, relevant_nodes=nodes)


def copy_own_trainable(source, target):
    """Copies whether a model itself is trainable; the property would set that of all its layers."""
    target._trainable = source._trainable


# -- layers and variables --------------------------------------------------------------------------


def seed_generators(layer):
    """The seed generators of a Keras 3 layer."""
    return getattr(layer, "_seed_generators", ())


def copy_input_shape(source, target):
    """Copies the `input_shape` that a Keras 3 layer was made with, which a Sequential model builds itself on.

    No config holds it.
    """
    shape = getattr(source, "_input_shape_arg", None)
    if shape is not None and getattr(target, "_input_shape_arg", None) is None:
        target._input_shape_arg = shape


def note_build_shape(layer, input_shape):
    """Notes the shape that a tf_keras layer was built on; 2.16 does that in `__call__` only."""
    layer._build_input_shape = input_shape


def attention_shapes(layer):
    """Shapes of query, value and key of tf_keras's MultiHeadAttention; None where they are unknown."""
    return layer._query_shape, layer._value_shape, layer._key_shape


@contextlib.contextmanager
def attention_watched(layer, note):
    """Passes what each call of an attention layer attends with to `note`, within this context.

    These are the arguments of the backends' `attention_excess`: the projected queries and keys, the mask,
    whether it is causal besides, and the axes. GroupedQueryAttention repeats its keys for all query heads.
    """
    attributes, compute = vars(layer), layer._compute_attention
    axes = getattr(layer, "_attention_axes", None) or (1,)

    def watched(query, key, value, attention_mask=None, *args, **kwargs):
        note(query, key, attention_mask, bool(kwargs.get("use_causal_mask")), axes)
        return compute(query, key, value, attention_mask, *args, **kwargs)

    attributes["_compute_attention"] = watched  # Keras tracks attributes that are set
    try:
        yield
    finally:
        del attributes["_compute_attention"]


def set_constraint(variable, constraint):
    """Sets the constraint of a TensorFlow variable that has been made already."""
    variable._constraint = constraint


def not_autocast(variable):
    """The variable inside one of tf_keras that reads as float16 or bfloat16 in mixed precision."""
    return getattr(variable, "_variable", variable)


# -- training --------------------------------------------------------------------------------------


def compile_arguments(model):
    """The arguments of the model's last `compile`, a dict; None if it is not compiled."""
    settings = getattr(model, "_compile_config", None)
    return None if settings is None else settings.config


def is_tf_keras_model_compiled(model):
    """True once `compile` of a tf_keras model has been called."""
    return model._is_compiled


def tf_keras_steps_per_execution(model):
    """The variable with the number of steps per execution of a tf_keras model; None before `compile`."""
    return model._steps_per_execution


def is_tf_keras_optimizer_built(optimizer):
    """True once a tf_keras optimizer has its slots."""
    return getattr(optimizer, "_built", False)


def applications(optimizer):
    """The variable that counts how often an optimizer was applied.

    The public `iterations` of Keras 3 counts whole accumulations of gradients.
    """
    every = getattr(optimizer, "_iterations", None)
    return optimizer.iterations if every is None else every


def copy_weight_decay_exclusions(optimizer, copy):
    """Copies what `exclude_from_weight_decay()` was told, which no config holds."""
    for name in ("_exclude_from_weight_decay_pattern", "_exclude_from_weight_decay_names"):
        if getattr(optimizer, name, None):
            setattr(copy, name, getattr(optimizer, name))


def add_loss(model, function):
    """Adds a loss that a function computes to a tf_keras model. Returns what `remove_added_loss` takes."""
    model.add_loss(function)
    return model._callable_losses[-1]


def remove_added_loss(model, added):
    """Removes a loss that `add_loss` has added."""
    model._callable_losses.remove(added)


# -- JAX -------------------------------------------------------------------------------------------


def stateless_scope():
    """The scope in which Keras 3 computes on given values instead of those of its variables, or None."""
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    return get_stateless_scope()


def build_compiled(model, batch):
    """Makes the variables of a Keras 3 model's losses and metrics, given a batch `(x, y, sample_weight)`."""
    model._symbolic_build(data_batch=batch)


_JAX_STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def put_jax_state(model, state):
    """Makes `fit` bring a state, lists of values as its train function takes them, into the variables.

    It does so when it ends, also by an error.
    """
    if any(value.is_deleted() for values in state for value in values):
        return  # the step has run, and Keras holds what it returned
    model._jax_state = dict(zip(_JAX_STATE, state))
    model._jax_state_synced = False


def jax_fit_in_progress():
    """The model and state of the `fit` or `train_on_batch` that calls, found on the stack; None if none."""
    frame = inspect.currentframe()
    while frame is not None:
        held = frame.f_locals if frame.f_code.co_name in ("fit", "train_on_batch") else {}
        if isinstance(held.get("state"), tuple) and hasattr(held.get("self"), "jax_state_sync"):
            return held["self"], held["state"]
        frame = frame.f_back
    return None


# -- TensorFlow ------------------------------------------------------------------------------------


@contextlib.contextmanager
def made_by_each_worker():
    """Variables with constant initial values are made by each of several workers for itself.

    TensorFlow would send them the first worker's value, and cannot send uint8. It asks `_num_workers`, in
    CollectiveAllReduceExtended._get_variable_creator_initial_value.
    """
    tf = loaded("tensorflow")
    extended = tf.distribute.get_strategy().extended if tf else None
    workers = getattr(extended, "_num_workers", 1)
    if workers == 1:
        yield
        return
    extended._num_workers = 1
    try:
        yield
    finally:
        extended._num_workers = workers


def is_in_xla():
    """True while a `tf.function(jit_compile=True)` is traced."""
    tf = loaded("tensorflow")
    graph = tf.compat.v1.get_default_graph() if tf else None
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False
