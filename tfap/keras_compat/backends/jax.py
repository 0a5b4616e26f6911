"""The backend functions on JAX: exact counts in int32, masks in stateless steps, and the state of `fit`.

JAX has no int64 and no float64 unless a program asks for them, and Keras trains on values outside of the
variables: `fit` takes them out before the first step and brings them back at the end of an epoch.
"""

import weakref

import jax
import jax.numpy as jnp
import keras
import numpy as np

from tfap.keras_compat import private
from tfap.keras_compat.backends.common import made_by_each_worker, prepared, replica, sum_over_replicas
from tfap.keras_compat.backends.ops import attention_excess, firing, firing_by_position, squared, summed
from tfap.keras_compat.state import StoredArray

__all__ = [
    "attention_excess",
    "firing",
    "firing_by_position",
    "made_by_each_worker",
    "prepared",
    "replica",
    "squared",
    "sum_over_replicas",
    "summed",
]

_LOW_BITS = 30

MASK_MISSING = (
    "The mask of the weight '{weight}' is unknown in this step: its layer was not called before the "
    "optimizer wrote the weight. Call the model inside the function that applies the gradients, or leave the "
    "layers that it does not call out of the optimizer."
)
MASK_FROZEN = (
    "The mask of the weight '{weight}' is a constant of the compiled step, which would never change: pass "
    "model.non_trainable_variables to the step as an argument, and to model.stateless_call."
)


# -- counting --------------------------------------------------------------------------------------


def every_nth(step, n, count, neurons, dtype):
    def counted():
        counts, seen = count()
        return counts, jnp.asarray(seen, jnp.int32)

    def nothing():
        return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(counted))

    return jax.lax.cond((step.value - 1) % n == 0, counted, nothing)


class Counter(StoredArray):
    """An int64 array in two int32 rows: the low 30 bits, and the rest. Exact below 2**61."""

    dtype = np.dtype("int64")

    def __init__(self, add_state, name, shape):
        super().__init__(add_state(name, (2, *shape), "int32"), shape)

    def _to_rows(self, values):
        return np.stack([values & (2**_LOW_BITS - 1), values >> _LOW_BITS]).astype(np.int32)

    def _from_rows(self, rows):
        low, high = rows.astype(np.int64)
        return low + (high << _LOW_BITS)

    def add(self, new):
        old = self.variable.value
        low = old[0] + new
        self.variable.assign(jnp.stack([low & (2**_LOW_BITS - 1), old[1] + (low >> _LOW_BITS)]))


class Sum(StoredArray):
    """A float64 array as the sum of two float32 rows. An addition is off by about 2**-48 at most.

    The error of each addition is kept, as in Knuth's two-sum (The Art of Computer Programming 2, 4.2.2).
    """

    dtype = np.dtype("float64")

    def __init__(self, add_state, name, shape):
        super().__init__(add_state(name, (2, *shape), "float32"), shape)

    def _to_rows(self, values):
        high = values.astype(np.float32)
        return np.stack([high, (values - high).astype(np.float32)])

    def _from_rows(self, rows):
        high, low = rows.astype(np.float64)
        return high + low

    def add(self, new):
        high, low = self.variable.value
        total = high + new
        part = total - high
        low = low + ((high - (total - part)) + (new - part))
        settled = total + low
        self.variable.assign(jnp.stack([settled, low - (settled - total)]))


class HostFloat64(StoredArray):
    """A float64 array that only the host writes, as its bits."""

    dtype = np.dtype("float64")

    def __init__(self, add_state, name, shape, initializer):
        fill = {"zeros": 0.0, "ones": 1.0}[initializer]

        def bits(stored_shape, dtype=None):
            return self._to_rows(np.full(shape, fill))

        super().__init__(add_state(name, (*shape, 2), "int32", bits), shape)

    def _to_rows(self, values):
        return np.array(values, order="C")[..., np.newaxis].view(np.int32)

    def _from_rows(self, rows):
        return np.array(rows, order="C").view(np.float64)[..., 0]


def counter(add_state, name, shape, dtype):
    return (Counter if dtype == "int64" else Sum)(add_state, name, shape)


def host_state(add_state, name, shape, dtype, initializer="zeros"):
    if dtype == "float64":
        return HostFloat64(add_state, name, shape, initializer)
    return add_state(name, shape, {"int64": "int32"}.get(dtype, dtype), initializer)  # numbers of steps


def add_to(state, value):
    if isinstance(state, StoredArray):
        state.add(value)
    else:
        state.assign_add(value)


# -- masks -----------------------------------------------------------------------------------------


def noted(mask):
    """Returns the mask's value in the step that runs or is traced.

    The optimizer's own scope does not know it: there, the variable holds nothing in `fit`, and in
    `train_on_batch` a value that the compiled step would keep for ever.
    """
    scope = private.stateless_scope()
    return None if scope is None else scope.get_current_value(mask)


def masked(weight, mask, noted):
    scope = private.stateless_scope()
    value = mask.value if scope is None else scope.get_current_value(mask)
    if value is None:
        value = noted
    if value is None:
        raise RuntimeError(MASK_MISSING.format(weight=getattr(weight, "path", "")))
    weight_value = getattr(weight, "value", weight)
    if isinstance(weight_value, jax.core.Tracer) and not isinstance(value, jax.core.Tracer):
        raise RuntimeError(MASK_FROZEN.format(weight=getattr(weight, "path", "")))
    try:
        return weight_value * jnp.astype(value, weight_value.dtype)
    except jax.errors.UnexpectedTracerError as error:  # noted in another step
        raise RuntimeError(MASK_MISSING.format(weight=getattr(weight, "path", ""))) from error


# -- steps -----------------------------------------------------------------------------------------


def step_identity():
    scope = private.stateless_scope()  # one for each forward pass
    return None if scope is None else weakref.ref(scope)


def sync(model):
    model.jax_state_sync()


class _Protected:
    """A train function that puts the model's state back if it raises, as in the first step.

    Keras keeps the state of the last step only. Before the first one, the values are nowhere else.
    """

    def __init__(self, model, function):
        self._model, self.function = weakref.ref(model), function

    def __call__(self, state, iterator):
        try:
            return self.function(state, iterator)
        except BaseException:
            restored(self._model(), (state, iterator))
            raise


def protected(model):
    function = model.train_function
    if function is not None and not isinstance(function, _Protected):
        model.train_function = _Protected(model, function)


def restored(model, arguments):
    private.put_jax_state(model, arguments[0])


def keep_weights():
    """Hands the state of the `fit` that traces its first step back to it.

    A layer finds out there that the callback is missing, before any callback could protect the model.
    """
    found = private.jax_fit_in_progress()
    if found is not None:
        private.put_jax_state(*found)


# -- functions of a model --------------------------------------------------------------------------


def compiled(model, function):
    variables = model.variables

    def stateless(values, batch):
        with keras.StatelessScope(state_mapping=list(zip(variables, values))):
            return function(batch)

    jitted = jax.jit(stateless)

    def run(batch):
        batch = jax.tree.map(np.asarray, batch)
        function = jitted if _is_numeric(batch) else stateless
        found = function([variable.value for variable in variables], batch)
        return jax.tree.map(np.asarray, found)

    return run


def gradient_function(model, variables):
    wanted = {id(variable) for variable in variables}
    others = [variable for variable in _all_variables(model) if id(variable) not in wanted]

    def loss(values, other_values, x, y, sample_weight):
        mapping = list(zip([*variables, *others], [*values, *other_values]))
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            return model.compute_loss(x, y, model(x, training=False), sample_weight)

    gradients = jax.grad(loss)
    jitted = jax.jit(gradients)

    def run(x, y=None, sample_weight=None):
        private.build_compiled(model, (x, y, sample_weight))
        batch = jax.tree.map(np.asarray, (x, y, sample_weight))
        values = [[variable.value for variable in group] for group in (variables, others)]
        function = jitted if _is_numeric(batch) else gradients
        return [np.asarray(gradient) for gradient in function(*values, *batch)]

    return run


def _is_numeric(batch):
    """Whether JAX can compile the batch. It cannot with strings, which layers look up on the host."""
    return all(array.dtype.kind in "biufcV" for array in jax.tree.leaves(batch))


def _all_variables(model):
    known = {id(variable): variable for variable in [*model.variables, *model.metrics_variables]}
    return list(known.values())
