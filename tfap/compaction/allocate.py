"""Allocates a budget of the whole model to its layers, by a measured sensitivity."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.budgets.budget import Budget
from tfap.compaction.allocation import Allocation, allocated_sets, allocation_of
from tfap.compaction.choosing import Choice
from tfap.compaction.planned_units import PlannedUnits
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity_table import Sensitivity
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection


def allocate(
    model: Model,
    sensitivity: Sensitivity,
    budget: Budget | Mapping[str, Any],
    round_to: int | None = None,
    skip: LayerSelection = (),
    compensate: bool | None = None,
) -> Allocation:
    """Decides how much of each layer to prune, so that the outputs change little within a budget.

    The loss of a set of coupled channels is `-log(1 - change)` of the change of the outputs that
    `tfap.sensitivity` measured, interpolated between its rates, and never falls. The step with the smallest
    loss per cost that it saves is taken, again and again, until the budget is met. Then steps that went too
    far are taken back. If the same fraction for every layer has a smaller loss, it is that.

    Args:
        model: The model that was measured. Unchanged.
        sensitivity: The result of `tfap.sensitivity`.
        budget: Dict with one of "weights", "bytes", "flops", "latency_ms", and "speedup". See
            `tfap.prune_once`.
        round_to: Integer >= 1. Layers keep a multiple of so many channels. None as in `tfap.prune_once`.
        skip: Layers whose channels are kept, as in `tfap.prune`.
        compensate: Boolean. Whether to use the changes with the refit. None for with, if they were measured.

    Returns:
        An `Allocation`: a dict of layer path to the fraction of channels to remove, which prints as a table.
            The path of an attention layer and ":heads" has the fraction of its heads.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, the sensitivity is of another model, or the budget cannot be met.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> x = numpy.random.default_rng(0).normal(size=(256, 8))
    >>> allocation = tfap.allocate(model, tfap.sensitivity(model, x), {"weights": 0.5})
    >>> dict(allocation)
    {'hidden': 0.53125}
    >>> tfap.prune_once(model, x, allocation).get_layer("hidden").units
    15
    """
    keras_compat.check_plain(model, "tfap.allocate")
    if not isinstance(sensitivity, Sensitivity):
        raise TypeError(
            f"sensitivity must be the result of tfap.sensitivity: received {type(sensitivity).__name__}."
        )
    budget = Budget.of(budget)
    granularity = "unit" if sensitivity.has_heads else "neuron"
    settings = PruningSettings(0.0, "reconstruction", "local", granularity, target="weights")
    removable = RemovableChannels(model, PlannedUnits.of(model, settings, skip))
    sets = allocated_sets(removable, sensitivity, compensate)
    choice = Choice(model, removable, budget, round_to=round_to)
    choice.losses = [each.losses for each in sets]
    kept = choice.kept([np.arange(len(groups), dtype=float) for groups in removable.sets])
    return allocation_of(removable, kept, sets, choice.result)
