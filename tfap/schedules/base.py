"""Pruning schedules: when to prune, and to which sparsity.

They are subclasses of tfmot's `PruningSchedule`, so they also work in tfmot's `prune_low_magnitude`.
Steps count from 1: step n is over when the n-th batch of the first fit has been trained on.
"""

import numbers

from tfap import keras_compat
from tfap.keras_compat import registry

_tfmot_sparsity = keras_compat.tfmot.sparsity.keras
PruningSchedule = _tfmot_sparsity.PruningSchedule
ConstantSparsity = _tfmot_sparsity.ConstantSparsity
PolynomialDecay = _tfmot_sparsity.PolynomialDecay

_TFMOT_CLASSES = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}


def by_epochs(schedule):
    """True if the schedule decides at the ends of epochs, not by steps."""
    return hasattr(schedule, "on_epoch_end")


def is_over(schedule, step, updates):
    """True if a schedule has asked for its last update.

    Args:
        schedule: a `PruningSchedule`.
        step: training steps done.
        updates: mask updates made.

    Raises:
        ValueError: a schedule that does not tell its last step.
    """
    if by_epochs(schedule):
        return updates >= schedule.prunes
    end = getattr(schedule, "end_step", None)
    if end is not None and end < 0:  # for ever, at the same sparsity
        end = schedule.begin_step
    if end is None:
        raise ValueError(
            f"{type(schedule).__name__} does not tell when it is over: give it an attribute end_step, the "
            "step of its last update."
        )
    return step >= end


def get(schedule):
    """Checks a schedule, or reads a saved one; a float stays one.

    Raises:
        ValueError: a sparsity outside [0, 1).
        TypeError: neither a schedule nor a number.
    """
    if isinstance(schedule, dict):
        return registry.deserialize(schedule, _TFMOT_CLASSES)
    if isinstance(schedule, PruningSchedule):
        return schedule
    if not isinstance(schedule, numbers.Real) or isinstance(schedule, bool):
        raise TypeError(
            "pruning_schedule must be a PruningSchedule, such as tfap.PolynomialDecay(...), or a float, "
            f"the final sparsity: received {schedule!r} of type {type(schedule).__name__}."
        )
    if not 0 <= schedule < 1:
        raise ValueError(
            f"The sparsity must be in [0, 1): received {schedule}. Write 0.9 to prune 90% of the weights."
        )
    return float(schedule)


def serialize(schedule):
    return schedule if isinstance(schedule, float) else registry.serialize(schedule)
