"""tfmot's own pruning by magnitude, as a method to compare with."""

import dataclasses

from tfap import keras_compat, schedules
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.pruning.prune import plan, strip_pruning

_tfmot = keras_compat.tfmot.sparsity.keras


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """`prune_low_magnitude` on the layers that `tfap.prune` would prune by magnitude; tf_keras only."""

    pruning_schedule: object = None

    def _schedule(self, sparsity):
        return self.pruning_schedule(sparsity) if self.pruning_schedule else _OverFit(sparsity)

    def prune(self, model, sparsity):
        if keras_compat.is_keras3(model):
            raise ValueError("tfmot prunes models of tf_keras only: build_model gave one of Keras 3.")
        schedule, layers = self._schedule(sparsity), Graph(model)
        wrap = {row.path for row in plan(model, criterion="magnitude").pruned}

        def replace(layer):
            copied = keras_compat.copied(layer)
            if layers.path_of(layer) not in wrap:
                return copied
            wrapper = _tfmot.prune_low_magnitude(copied.layer, schedule)
            return Replacement(wrapper, copied.weights, holder=copied.layer)

        return keras_compat.rebuild(model, replace)

    def callbacks(self):
        return [_UpdatePruningStep()]

    def strip(self, model):
        return strip_pruning(model)  # tfmot's own gives a model that is not compiled

    def settings(self, sparsity):
        return {"prune_low_magnitude": {"pruning_schedule": self._schedule(sparsity)}}


class _OverFit(schedules.PruningSchedule):
    """What a plain float means to `tfap.prune`: known once the fit, whose length it needs, begins."""

    def __init__(self, sparsity):
        self.sparsity = sparsity
        self.over_fit = None

    def __call__(self, step):
        return self.over_fit(step)

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {"sparsity": self.sparsity}}


class _UpdatePruningStep(_tfmot.UpdatePruningStep):
    """tfmot's callback; before the first step it tells an `_OverFit` the length of the fit."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        schedule = self.prunable_layers[0].pruning_schedule
        if isinstance(schedule, _OverFit):
            if not (self.params.get("epochs") and self.params.get("steps")):
                raise ValueError("The length of the fit is unknown: pass steps_per_epoch to fit().")
            steps = self.params["epochs"] * self.params["steps"]
            schedule.over_fit = schedules.over_fit(schedule.sparsity, steps)
