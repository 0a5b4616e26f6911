"""The stages of a shrink: each prunes and refits a model, and trains it if it can."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compaction.input_batches import InputBatches
from tfap.compaction.output_change import OutputChange
from tfap.compaction.planned_units import PlannedUnits, every_unit
from tfap.compaction.prune_once import prune_once
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity import output_sensitivity
from tfap.compaction.sensitivity_table import Sensitivity
from tfap.exporting.sizes import count_weights
from tfap.graph.flops import flops
from tfap.iterative.cycles import seed_of
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.shrinking.result import Stage
from tfap.shrinking.store import StageStore
from tfap.shrinking.targets import Targets

TEMPERATURE, STUDENT_WEIGHT = 3.0, 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """Makes smaller models of a given one.

    Attributes:
        model: The given model.
        data: As in `tfap.shrink`.
        targets: The `Targets` of its stages.
        fit: As in `tfap.shrink`.
        samples: `(inputs, labels)` of which the metric is computed. None without labels.
        metric: As in `tfap.shrink`.
        max_drop: As in `tfap.shrink`.
        teacher: As in `tfap.shrink`.
        seed: As in `tfap.shrink`.
        store: The `StageStore`.
        pruning: Dict of arguments of `tfap.prune_once`.
        rates: As in `tfap.sensitivity`.
    """

    model: Model
    data: Data
    targets: Targets
    fit: Callable[[Any], Any] | None
    samples: tuple[list[np.ndarray], Any] | None
    metric: Callable[[Any, Any], float] | None
    max_drop: float | None
    teacher: bool
    seed: int
    store: StageStore
    pruning: dict[str, Any]
    rates: tuple[float, ...]

    def run(self, count: int) -> list[Stage]:
        """Makes the stages, or reads those that are stored. Returns them, with the given model first."""
        found = [self._given()]
        if self.fit is None:
            self._search(found, count)
            return found
        for number in range(1, count + 1):
            found.append(self._stage(number, number / count, found[-1], found[0]))
            if not found[-1].is_accepted:
                break
        return found

    def _search(self, found, count):
        """Prunes the given model to the budget, or as near to it as the metric allows, by bisection."""
        low, high = 0.0, 1.0
        for number in range(1, count + 1):
            part = high if number == 1 else (low + high) / 2
            found.append(self._stage(number, part, found[0], found[0]))
            if found[-1].is_accepted:
                low = part
            else:
                high = part
            if low == 1.0:
                return

    # -- one stage -------------------------------------------------------------------------------------

    def _given(self):
        stored = self.store.stage(0)
        if stored is not None:
            return stored
        score = self._score(self.model)
        stage = Stage(0, 0.0, _weights(self.model), _flops(self.model), self.targets.own, None, score, True)
        self.store.write(stage, keras_compat.rebuild(self.model, keras_compat.copied))
        return stage

    def _stage(self, number, part, before, dense):
        """Makes a stage from the model of an earlier one."""
        stored = self.store.stage(number)
        if stored is not None:
            return stored
        start = time.monotonic()
        budget = self.targets.budget  # of the given model, which is pruned to it at once
        if part < 1 or before.number:
            budget = self.targets.at(part, dense.used / before.used)
        pruned, report = self._pruned(number, self.store.model(before.number), budget, before)
        prune_seconds = time.monotonic() - start
        pruned_score = self._score(pruned) if self.fit is not None else None
        start = time.monotonic()
        self._train(number, pruned)
        fit_seconds = time.monotonic() - start if self.fit is not None else 0.0
        score = self._score(pruned)
        used = report.budget.reached
        if self.targets.budget.is_timed:
            used *= before.used / report.budget.own  # in milliseconds of the given model's first measurement
        stage = Stage(
            number,
            part,
            _weights(pruned),
            _flops(pruned),
            used,
            pruned_score,
            score,
            self.max_drop is None or dense.score - score <= self.max_drop + 1e-12,
            report.allocation,
            prune_seconds,
            fit_seconds,
        )
        self.store.write(stage, pruned)
        return stage

    def _pruned(self, number, model, budget, before):
        scope = self.pruning["scope"]
        if scope == "allocated":
            scope = self._sensitivity(before.number, model)
        keras_compat.set_seeds(seed_of(self.seed, number))  # layers take their seeds when they are copied
        small, report = prune_once(
            model, self.data, budget, **{**self.pruning, "scope": scope}, return_report=True
        )
        keras_compat.compile_like(small, self.model)  # the learning rate is that of the given model
        return small, report

    def _sensitivity(self, number, model) -> Sensitivity:
        options = self.pruning
        criterion = options["criterion"]
        settings = PruningSettings(0.0, criterion, "local", every_unit(criterion), target="weights")
        planned = PlannedUnits.of(model, settings, options["skip"])
        return output_sensitivity(
            model,
            RemovableChannels(model, planned),
            self.data,
            InputBatches(model, self.data, options["samples"], options["batch_size"]),
            planned,
            settings.criterion,
            True,
            options["ridge"],
            self.rates,
            self.store.sensitivity_path(number),
        )

    def _train(self, number, model):
        if self.fit is None:
            return
        seed = seed_of(self.seed, number, use=1)
        trained = model
        if self.teacher:
            trained = keras_compat.distiller(self.model, model, TEMPERATURE, STUDENT_WEIGHT)
        states = keras_compat.SeedStates(model)
        if states:  # those of the copies depend on how often Keras has made one
            states.write(_seed_states(states.read(), seed))
        keras_compat.set_seeds(seed)
        self.fit(trained)

    def _score(self, model) -> float | None:
        if self.samples is None:
            return None
        return OutputChange(model, *self.samples, self.metric).score


def _seed_states(states, seed):
    return np.random.default_rng(seed).integers(0, 2**31, states.shape).astype(states.dtype)


def _weights(model):
    return count_weights(model.get_weights()).total


def _flops(model):
    try:
        return flops(model)
    except ValueError:  # they depend on undefined dimensions
        return None
