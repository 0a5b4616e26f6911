"""tfmot's magnitude pruning as a method to compare with."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tfap import keras_compat, schedules
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.keras_compat.types import Model
from tfap.pruning.prune import plan, strip_pruning

_tfmot: Any = keras_compat.tfmot.sparsity.keras


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """Applies `prune_low_magnitude` to the layers that `tfap.prune` would prune by magnitude. tf_keras only.

    Attributes:
        pruning_schedule: Function from a sparsity to a `PruningSchedule`. None spreads the pruning over the
            fit, as `tfap.prune` does with a float.
    """

    pruning_schedule: Callable[[float], Any] | None = None

    def _schedule(self, sparsity):
        return self.pruning_schedule(sparsity) if self.pruning_schedule else _OverFit(sparsity)

    def prune(self, model: Model, sparsity: float) -> Model:
        """Wraps a model of tf_keras with tfmot's wrappers.

        Raises:
            ValueError: If the model is of Keras 3.
        """
        if keras_compat.is_keras3(model):
            raise ValueError("tfmot prunes models of tf_keras only: build_model returned one of Keras 3.")
        schedule, graph = self._schedule(sparsity), Graph(model)
        pruned_paths = {row.path for row in plan(model, criterion="magnitude").pruned}

        def replace(layer):
            copy = keras_compat.copied(layer)
            if graph.path_of(layer) not in pruned_paths:
                return copy
            wrapper = _tfmot.prune_low_magnitude(copy.layer, schedule)
            return Replacement(wrapper, copy.weights, holder=copy.layer)

        return keras_compat.rebuild(model, replace)

    def callbacks(self) -> list:
        """Returns tfmot's callback."""
        return [_UpdatePruningStep()]

    def strip(self, model: Model) -> Model:
        """Strips the wrappers with `tfap.strip_pruning`: tfmot's function returns an uncompiled model."""
        return strip_pruning(model)

    def settings(self, sparsity: float) -> dict[str, Any]:
        """Returns what identifies the method at a sparsity in a stored run."""
        return {"prune_low_magnitude": {"pruning_schedule": self._schedule(sparsity)}}


class _OverFit(schedules.PruningSchedule):
    """The schedule that a float means to `tfap.prune`. It is set when the fit begins and its length is known.

    Stored runs contain the names of this class and of its attributes.
    """

    def __init__(self, sparsity):
        self.sparsity = sparsity
        self.over_fit = None

    def __call__(self, step):
        return self.over_fit(step)

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {"sparsity": self.sparsity}}


class _UpdatePruningStep(_tfmot.UpdatePruningStep):
    """tfmot's callback, which also sets an `_OverFit` before the first step."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        schedule = self.prunable_layers[0].pruning_schedule
        if isinstance(schedule, _OverFit):
            if not (self.params.get("epochs") and self.params.get("steps")):
                raise ValueError(
                    "The length of the fit is unknown, but the default schedule needs it: pass "
                    "steps_per_epoch to fit()."
                )
            steps = self.params["epochs"] * self.params["steps"]
            over_fit = schedules.over_fit(schedule.sparsity, steps)  # in NumPy: tfmot calls it in a graph
            schedule.over_fit = schedules.get(over_fit.get_config())
