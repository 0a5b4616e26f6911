"""The training of `tfap.fit_and_compact`: one fit per stage, each in the model that the last one has left."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from tfap import keras_compat, schedules
from tfap.compaction.carried_state import compacted
from tfap.compaction.one_shot import OneShotBatches
from tfap.graph.calls import Graph, unwrap
from tfap.training.callbacks import UpdatePruningStep
from tfap.training.epoch_counts import EpochCounts
from tfap.training.normalization import NormalizationStatistics


@dataclasses.dataclass(eq=False)
class StagedTraining:
    """Trains a wrapped model in stages, and compacts it between them.

    Attributes:
        model: The model, wrapped by `tfap.prune`. After `run`, the last one.
        pruning_schedule: The schedule or final sparsity with which it is wrapped.
        options: Dict. The other arguments of `tfap.prune`.
        borders: List of integers. The epochs at which the stages begin, and the last epoch.
        data: Tuple. The first arguments of `fit()`.
        batches: `OneShotBatches` if each stage resumes in the data where the last one has stopped, or None.
        callbacks: List of callbacks.
        update: Dict. The arguments of the `UpdatePruningStep` of each stage.
        statistics: `NormalizationStatistics`, which are computed anew at the end.
        lesson: Function that makes a model learn from the teacher in its `fit()`.
        drop_silent: Boolean. Whether neurons that never fired in the last epoch of a stage are removed.
        fit_arguments: Dict. Other arguments of `fit()`.
        history: Dict of name to a list with one value per epoch.
    """

    model: Any
    pruning_schedule: Any
    options: dict[str, Any]
    borders: list[int]
    data: tuple[Any, ...]
    batches: OneShotBatches | None
    callbacks: list[Any]
    update: dict[str, Any]
    statistics: NormalizationStatistics
    lesson: Callable[[Any], None]
    drop_silent: bool
    fit_arguments: dict[str, Any]
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def run(self):
        """Trains the model.

        Returns:
            The `ActivationCounts` of the last epoch by path, if silent neurons are removed. None if not.
        """
        first_epoch, last_epoch = self.borders[0], self.borders[-1]
        for begin, end in itertools.pairwise(self.borders):
            pruning = _UpdateOfStage(last_epoch - first_epoch, self.batches, self.statistics, **self.update)
            self._fit(pruning, begin, end)
            if end == last_epoch or self.model.stop_training:
                break
            if self.batches is not None and self.batches.have_ended():
                logging.warning("The data ended after %d of %d epochs: training stops.", end, last_epoch)
                break
            self.model = compacted(self.model, self.pruning_schedule, self.options, self._silent(pruning))
        self.statistics.end(self.model, pruning.step)
        return self._silent(pruning)

    def _fit(self, pruning, begin, end):
        arguments = {"initial_epoch": begin, "epochs": end, **self.fit_arguments}
        data = self.data if self.batches is None else _data_of_stage(self.batches, self.data, arguments)
        self.lesson(self.model)
        stage = self.model.fit(*data, callbacks=[pruning, *self.callbacks], **arguments)
        _extend(self.history, stage.history, _weight_count(self.model))

    def _silent(self, pruning):
        return pruning.epoch_counts if self.drop_silent else None


def stage_borders(first_epoch, epochs, stages):
    """Epochs at which the stages begin, and the last epoch."""
    return [first_epoch + int(np.round(stage * epochs / stages)) for stage in range(stages + 1)]


class _UpdateOfStage(UpdatePruningStep):
    """Prunes by a schedule that covers all stages."""

    def __init__(self, epochs, batches, statistics, **update):
        super().__init__(**update)
        self._epochs, self._batches_of_stage = epochs, batches
        self._statistics = statistics  # the same for all stages

    @property
    def step(self):
        return self._step

    @property
    def epoch_counts(self):
        """The `ActivationCounts` of the last epoch, by path."""
        return self._counts.last

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._counts = EpochCounts(self.model)
        if self._batches_of_stage is not None:
            self._batches_of_stage.begin_training()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._counts.begin()

    def on_epoch_end(self, epoch=None, logs=None, batch=None):
        super().on_epoch_end(epoch, logs, batch)
        self._counts.end()

    def _schedule_of(self, wrapper, before):
        schedule = wrapper.pruning_schedule
        if isinstance(schedule, float):
            return schedules.over_fit(schedule, self._epochs * self.params["steps"])
        return schedule

    def _check_fit_length(self):
        if not (self.params or {}).get("steps"):
            raise ValueError(
                "The length of the fit is unknown, but a float as pruning_schedule needs it: pass "
                "steps_per_epoch, or a schedule in steps such as tfap.PolynomialDecay(...)."
            )

    def _warn_of_missing_updates(self):
        """Does nothing: a stage may have no updates."""

    def _end_statistics(self):
        """Does nothing: the statistics are computed anew once, at the end."""


def _data_of_stage(batches, data, arguments):
    """Returns the first arguments of `fit` for a stage, and changes its others."""
    steps = arguments["steps_per_epoch"] * (arguments["epochs"] - arguments["initial_epoch"])
    arguments.pop("x", None)
    arguments["shuffle"] = False  # Keras 3 warns that it does not shuffle a dataset
    return batches.stage(steps), *data[1:]


def _extend(history, stage_history, weight_count):
    epochs = len(next(iter(stage_history.values()), []))
    for name, values in {**stage_history, "weights": [weight_count] * epochs}.items():
        history.setdefault(name, []).extend(values)


def _weight_count(model):
    """Number of weights of the model without those of the wrappers."""
    layers = [unwrap(layer) for _, layer in Graph(model).layers()]
    return sum(math.prod(weight.shape) for layer in layers for weight in keras_compat.weights_of(layer))
