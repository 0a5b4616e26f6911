"""The base class of pruning schedules, which is tfmot's, and functions for all schedules.

Schedules that decide by step therefore also work in tfmot's `prune_low_magnitude`. Where tfmot is not
installed, the classes in `own` take the place of tfmot's. Either are loaded when they are first used. Steps
count from 1: step n ends when the n-th batch of the first fit has been trained on.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

import numpy as np

from tfap import keras_compat
from tfap.keras_compat import lazy, registry
from tfap.schedules import own

if TYPE_CHECKING:  # type checkers cannot see through keras_compat's import of tfmot
    from tensorflow_model_optimization.sparsity.keras import (
        PruningSchedule,
    )

_CLASSES = ("PruningSchedule", "ConstantSparsity", "PolynomialDecay")
_TFMOT = "tensorflow_model_optimization"


def __getattr__(name: str) -> Any:
    """Loads tfmot's class of this name or, without tfmot, returns that of `own`."""
    if name not in _CLASSES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    has_tfmot = all(map(lazy.is_installed, ("tensorflow", "tf_keras", _TFMOT)))
    return getattr(keras_compat.tfmot.sparsity.keras if has_tfmot else own, name)


def is_schedule(thing: Any) -> bool:
    """Returns whether a thing is a `PruningSchedule`."""
    return isinstance(thing, own.PruningSchedule) or _is_tfmots(thing)


def _is_tfmots(thing):
    return keras_compat.is_instance(thing, f"{_TFMOT}.sparsity.keras.PruningSchedule")


def evaluate(schedule: PruningSchedule, step: Any) -> Any:
    """Calls a schedule with a training step, or an array of them, as int64 of the kind that it takes."""
    if _is_tfmots(schedule):
        return schedule(lazy.tensorflow.constant(step, "int64"))
    return schedule(np.asarray(step, np.int64))


def by_epochs(schedule: PruningSchedule) -> bool:
    """Returns whether a schedule decides at the end of epochs instead of at steps."""
    return hasattr(schedule, "on_epoch_end")


def is_over(schedule: PruningSchedule, step: int, updates: int) -> bool:
    """Returns whether a schedule has requested its last mask update.

    Args:
        schedule: A `PruningSchedule`.
        step: Integer. Number of training steps done.
        updates: Integer. Number of mask updates done.

    Raises:
        ValueError: If the schedule decides by step and has no `end_step`.
    """
    if by_epochs(schedule):
        return updates >= schedule.prunes
    end = getattr(schedule, "end_step", None)
    if end is not None and end < 0:  # tfmot's "no end": the sparsity stays that of the first update
        end = schedule.begin_step
    if end is None:
        raise ValueError(
            f"{type(schedule).__name__} has no end_step: add an attribute `end_step`, the step of its last "
            "update."
        )
    return step >= end


def get(schedule: PruningSchedule | float | dict[str, Any]) -> PruningSchedule | float:
    """Validates a schedule, or creates it from its saved config.

    Args:
        schedule: A `PruningSchedule`, a float (the final sparsity, in [0, 1)), or the dict that `serialize`
            returned.

    Returns:
        A `PruningSchedule` or a float.

    Raises:
        TypeError: If `schedule` is neither a schedule nor a number.
        ValueError: If the sparsity is not in [0, 1), or the class of a saved schedule is not registered.
    """
    if isinstance(schedule, dict):
        return registry.deserialize(schedule, {name: __getattr__(name) for name in _CLASSES[1:]})
    if is_schedule(schedule):
        return schedule
    if not isinstance(schedule, numbers.Real) or isinstance(schedule, bool):
        raise TypeError(
            "pruning_schedule must be a PruningSchedule, such as tfap.PolynomialDecay(...), or a float, "
            f"the final sparsity: received {schedule!r} of type {type(schedule).__name__}."
        )
    if not 0 <= float(schedule) < 1:
        raise ValueError(
            f"The sparsity must be in [0, 1): received {schedule}. Write 0.9 to prune 90% of the weights."
        )
    return float(schedule)


def serialize(schedule: PruningSchedule | float) -> float | dict[str, Any]:
    """Converts a schedule to plain data, from which `get` creates it again.

    Returns:
        A dict of `class_name` and `config`, or the float.
    """
    return schedule if isinstance(schedule, float) else registry.serialize(schedule)
