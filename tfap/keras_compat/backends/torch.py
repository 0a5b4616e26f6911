"""The backend functions on PyTorch: eager steps on the variables themselves, with native int64."""

import functools

import keras
import numpy as np
import torch
from absl import logging
from keras import ops

from tfap.keras_compat.backends.common import (
    NO_JIT,
    keep_weights,
    made_by_each_worker,
    noted,
    protected,
    replica,
    restored,
    sum_over_replicas,
    sync,
)
from tfap.keras_compat.backends.ops import attention_excess, firing, firing_by_position
from tfap.keras_compat.backends.ops import squared as _squared
from tfap.keras_compat.backends.ops import summed as _summed

__all__ = [
    "attention_excess",
    "firing",
    "firing_by_position",
    "keep_weights",
    "made_by_each_worker",
    "noted",
    "protected",
    "replica",
    "restored",
    "sum_over_replicas",
    "sync",
]

# -- counting --------------------------------------------------------------------------------------

summed = functools.partial(_summed, dtype="float64")
squared = functools.partial(_squared, dtype="float64")


def every_nth(step, n, count, neurons, dtype):
    return count() if (int(step.value) - 1) % n == 0 else (0, 0)


def counter(add_state, name, shape, dtype):
    return add_state(name, shape, dtype)


def host_state(add_state, name, shape, dtype, initializer="zeros"):
    return add_state(name, shape, dtype, initializer)


def add_to(variable, value):
    variable.assign_add(value)


# -- masks and steps -------------------------------------------------------------------------------


def masked(weight, mask, noted):
    return weight * ops.cast(mask, weight.dtype)


def step_identity():
    return None


def prepared(model):
    if model.jit_compile:  # also in a file that was saved on another backend
        logging.warning(NO_JIT, model.name)
        model.jit_compile = False
        model.make_train_function(force=True)


# -- functions of a model --------------------------------------------------------------------------


def compiled(model, function):
    def run(batch):
        with torch.no_grad():
            found = function(keras.tree.map_structure(np.asarray, batch))
        return keras.tree.map_structure(ops.convert_to_numpy, found)

    return run


def gradient_function(model, variables):
    def run(x, y=None, sample_weight=None):
        batch = keras.tree.map_structure(_tensor, (x, y, sample_weight))
        loss = model.compute_loss(batch[0], batch[1], model(batch[0], training=False), batch[2])
        watched = [variable.value for variable in variables]
        found = torch.autograd.grad(loss, watched, allow_unused=True)
        return [
            np.zeros(variable.shape, "float32") if gradient is None else ops.convert_to_numpy(gradient)
            for variable, gradient in zip(variables, found)
        ]

    return run


def _tensor(part):
    return None if part is None else ops.convert_to_tensor(np.asarray(part))
