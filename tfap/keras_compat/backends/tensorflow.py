"""The backend functions on TensorFlow, for Keras 3 and for tf_keras: native int64, graphs, and replicas."""

import functools
import types
import weakref

import numpy as np
import tensorflow as tf

from tfap.keras_compat.backends import attention
from tfap.keras_compat.backends.common import keep_weights, noted, prepared, protected, restored, sync
from tfap.keras_compat.owner import is_keras3, tensorflow_variable
from tfap.keras_compat.private import made_by_each_worker

__all__ = [
    "keep_weights",
    "made_by_each_worker",
    "noted",
    "prepared",
    "protected",
    "restored",
    "sync",
]

# -- counting --------------------------------------------------------------------------------------


def firing(activations, axis, threshold):
    """Counts how often each neuron fires in a batch.

    Args:
        activations: Tensor. The activations of the batch.
        axis: Integer. The axis of the neurons.
        threshold: Float. A neuron fires if its activation is above it.

    Returns:
        Tuple of the counts, shape `(neurons,)`, and the number of activations per neuron, both integers.
    """
    fired = tf.cast(activations > tf.cast(threshold, activations.dtype), tf.int32)
    return tf.cast(_over_all_but(axis, fired), tf.int64), _seen(activations, axis)


def summed(activations, axis, threshold):
    """Sums the activations above the threshold of each neuron in a batch.

    Args:
        activations: See `firing`.
        axis: See `firing`.
        threshold: Float. Lower activations are left out.

    Returns:
        Tuple of the sums, shape `(neurons,)`, and the number of activations per neuron.
    """
    above = activations > tf.cast(threshold, activations.dtype)
    sums = _over_all_but(axis, tf.where(above, tf.cast(activations, tf.float64), 0.0))
    return sums, _seen(activations, axis)


def squared(activations, axis, threshold):
    """Sums the squares of all activations of each neuron in a batch. The threshold is not used."""
    return _over_all_but(axis, tf.square(tf.cast(activations, tf.float64))), _seen(activations, axis)


def firing_by_position(activations, axis, threshold):
    """Counts like `firing`, but with shape `(positions, neurons)`. Also returns the number of samples."""
    fired = tf.cast(activations > tf.cast(threshold, activations.dtype), tf.int64)
    if axis == 1:
        fired = tf.transpose(fired, [0, *range(2, fired.shape.rank), 1])
    by_position = tf.reduce_sum(fired, axis=0)
    return tf.reshape(by_position, (-1, fired.shape[-1])), tf.shape(activations, tf.int64)[0]


# As in `keras.ops`, which run on another backend where Keras 3 does.
_NAMES = (
    *("cast", "einsum", "exp", "expand_dims", "logical_and", "maximum"),
    *("ones_like", "shape", "stop_gradient", "transpose", "where", "zeros_like"),
)
_OPS = types.SimpleNamespace(
    **{name: getattr(tf, name) for name in _NAMES},
    arange=tf.range,
    max=tf.reduce_max,
    sum=tf.reduce_sum,
)
attention_excess = functools.partial(attention.excess, _OPS)


def _over_all_but(axis, values):
    rank = values.shape.rank
    return tf.reduce_sum(values, [other for other in range(rank) if other != axis % rank])


def _seen(activations, axis):
    return tf.size(activations, tf.int64) // activations.shape[axis]


def every_nth(step, n, count, neurons, dtype):
    """Calls `count`, such as a partial of `firing`, in the steps 1, n + 1, ...; else returns zeros."""
    # Only tensors leave the branches: replicas cannot communicate inside one.
    nothing = tf.zeros(neurons, dtype), tf.zeros((), tf.int64)
    return tf.cond((tf.convert_to_tensor(step) - 1) % n == 0, count, lambda: nothing)


def sum_over_replicas(counts, seen):
    """Sums both over the replicas in one all-reduce; `seen` is exact below 2**53 as float64."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return counts, seen
    together = tf.concat([counts, [tf.cast(seen, counts.dtype)]], axis=0)
    together = context.all_reduce(tf.distribute.ReduceOp.SUM, together)
    return together[:-1], tf.cast(together[-1], tf.int64)


def counter(add_state, name, shape, dtype):
    """Makes a state of dtype int64 or float64 that `add_to` adds to; `add_state` makes a variable."""
    return add_state(name, shape, dtype)


def host_state(add_state, name, shape, dtype, initializer="zeros"):
    """Makes a state that only the host reads and writes."""
    return add_state(name, shape, dtype, initializer)


def add_to(variable, value):
    """Adds a tensor or number to a state, inside a step."""
    # Keras's own assign_add reads, adds and assigns: three operations where TensorFlow has one.
    inner = variable.value
    (inner if isinstance(inner, tf.Variable) else variable).assign_add(
        tf.convert_to_tensor(value, variable.dtype)
    )


# -- masks -----------------------------------------------------------------------------------------


def masked(weight, mask, noted):
    """Multiplies a weight by its mask, a variable; `noted` is what the forward pass noted of it."""
    return weight * tf.cast(mask, weight.dtype)


# -- steps -----------------------------------------------------------------------------------------


def step_identity():
    """Returns what is equal in the same training step only; None in an eager step, which has nothing."""
    return None if tf.executing_eagerly() else weakref.ref(tf.compat.v1.get_default_graph())


def replica():
    """Returns the number of the replica that calls; None outside of replicas."""
    context = tf.distribute.get_replica_context()
    return None if context is None else int(tf.get_static_value(context.replica_id_in_sync_group))


# -- functions of a model --------------------------------------------------------------------------


def compiled(model, function):
    """Compiles a function of one batch that calls the model in inference mode.

    Args:
        model: The model.
        function: A function of a batch that returns tensors in lists, tuples or dicts.

    Returns:
        A function of a batch that returns NumPy arrays instead.
    """
    # As each Keras compiles its own steps.
    traced = tf.function(function, reduce_retracing=True, autograph=not is_keras3(model))
    return lambda batch: tf.nest.map_structure(np.asarray, traced(batch))


def gradient_function(model, variables):
    """Makes the gradients of a compiled loss in inference mode.

    Args:
        model: A compiled model.
        variables: A list of variables of it.

    Returns:
        A function of x, y and sample_weight that returns a list of NumPy arrays, one per variable.
    """
    watched = [tensorflow_variable(variable) for variable in variables]

    def gradients(x, y=None, sample_weight=None):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            loss = model.compute_loss(x, y, model(x, training=False), sample_weight)
        found = tape.gradient(loss, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    traced = tf.function(gradients, reduce_retracing=True, autograph=not is_keras3(model))
    return lambda *batch: [gradient.numpy() for gradient in traced(*batch)]
