"""The training of a model: its steps, and the state that its weights do not include."""

import contextlib

import keras
import numpy as np

from tfap.keras_compat import backends, private
from tfap.keras_compat.copying import fresh
from tfap.keras_compat.graphs import all_layers
from tfap.keras_compat.owner import is_keras3, is_variable, to_numpy


def steps_per_execution(model):
    """Returns the number of training steps between two calls of `on_train_batch_end`."""
    if is_keras3(model):
        return getattr(model, "steps_per_execution", 1)
    steps = private.tf_keras_steps_per_execution(model)
    return 1 if steps is None else int(steps.numpy())


def optimizer_updates(model):
    """Returns how often the optimizer was applied, including the times when it only accumulated gradients."""
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # a LossScaleOptimizer does not count
    return int(private.applications(optimizer).numpy())


def learning_rate(model):
    """Returns the present learning rate of the optimizer, a float."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    rate = optimizer.learning_rate
    if callable(rate) and not is_variable(
        rate
    ):  # a schedule: a legacy optimizer of tf_keras returns it as it is
        rate = rate(optimizer.iterations)
    return float(to_numpy(rate))


def has_loss_in_replicas(model):
    """Whether only replicas can compute the loss: under a strategy, tf_keras keeps its metrics there."""
    return not is_keras3(model) and not type(model.distribute_strategy).__name__.startswith("_Default")


def check_optimizer(model):
    """Checks that the optimizer computes on the backend that Keras 3 runs on.

    Raises:
        ValueError: If it is one of PyTorch, as in a file that was saved there, and Keras runs on another.
    """
    optimizer = getattr(model, "optimizer", None)
    if is_keras3(model) and keras.config.backend() != "torch" and _is_of_torch(optimizer):
        raise ValueError(
            f"The optimizer of '{model.name}' computes on PyTorch: the file was saved there, and Keras runs "
            f"on {keras.config.backend()}. Call compile() again, for example with "
            f"keras.optimizers.{type(optimizer).__name__}()."
        )


def _is_of_torch(optimizer):
    """Whether an optimizer of Keras 3 computes on PyTorch, as that of a file may on any backend."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return type(optimizer).__module__.startswith("keras.src.backend.torch.")


def is_compiled(model):
    """Whether `compile()` was called."""
    return model.compiled if is_keras3(model) else private.is_tf_keras_model_compiled(model)


def has_compiled_loss(model):
    """True if the model was compiled with a loss, which needs targets; losses of `add_loss` need none."""
    return bool((private.compile_arguments(model) or {}).get("loss"))


def untrained_variables(model):
    """Returns all variables of a model and of its metrics, except trainable weights, each once."""
    of_metrics = [variable for metric in model.metrics for variable in metric.variables]
    known = {id(variable): variable for variable in [*model.non_trainable_variables, *of_metrics]}
    return [variable for variable in known.values() if is_variable(variable)]


class SeedStates:
    """The states of all seed generators of a model, in order. Empty on tf_keras."""

    def __init__(self, model):
        layers = all_layers(model) if is_keras3(model) else []
        self._states = [
            generator.state
            for layer in layers
            for generator in private.seed_generators(layer)
            if isinstance(generator, keras.random.SeedGenerator)
        ]

    def __len__(self):
        return len(self._states)

    def read(self):
        return np.stack([state.numpy() for state in self._states])

    def write(self, values):
        for state, value in zip(self._states, values, strict=True):
            state.assign(value)


def optimizer_slots(model):
    """Returns `(variable, index of its trainable variable, number of the slot)` of the optimizer's variables.

    The index is None for a variable that does not belong to a trainable one, such as the number of steps. The
    optimizer is built first.

    Raises:
        TypeError: If the optimizer is a legacy optimizer of tf_keras, or its slots do not have the shapes of
            the trainable variables, as with Adafactor.
    """
    optimizer, trainable = model.optimizer, model.trainable_variables
    if not hasattr(optimizer, "build"):
        raise TypeError(f"{type(optimizer).__name__} is a legacy optimizer")
    if not optimizer.built if is_keras3(model) else not private.is_tf_keras_optimizer_built(optimizer):
        optimizer.build(trainable)
    # A copy is built on variables of different shapes, so the shape of a slot tells which one it belongs to.
    stand_in = keras.Variable if is_keras3(model) else backends.named("tensorflow").tf.Variable
    probe = fresh(optimizer)
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


@contextlib.contextmanager
def unchanged(model):
    """Restores what layers write during inference, such as the state of random generators."""
    before = [(variable, variable.numpy()) for variable in filter(is_variable, model.non_trainable_variables)]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(variable.numpy(), value):
                variable.assign(value)
