"""What `tfap.shrink` made: the model, the figures of each stage, and a report."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import rich.table

from tfap.compaction.allocation import Allocation
from tfap.keras_compat.types import Data, Model
from tfap.reporting.html import page
from tfap.reporting.report import report
from tfap.reporting.table import Report
from tfap.shrinking.page import of_result
from tfap.utils import tables


@dataclasses.dataclass(frozen=True)
class Stage:
    """The figures of one stage. Stages are equal if they differ only in their seconds.

    Attributes:
        number: Integer. 0 is the given model.
        part: Float in [0, 1]. How far it is on the way to the budget: 1 is the budget.
        weights: Integer. Number of weights of the model.
        flops: Integer. FLOPs per sample. None if unknown.
        used: Float. What the model uses in the unit of the budget: weights, bytes, FLOPs, or milliseconds per
            call.
        pruned_score: Float. The metric before the training of the stage. None without labels or `fit`.
        score: Float. The metric at the end of the stage. None without labels.
        is_accepted: Boolean. Whether the score is within `max_drop` of the given model's.
        allocation: `tfap.Allocation` of the stage, relative to the model that it pruned. None if unknown.
        prune_seconds: Float. Time for measuring, allocating, and pruning.
        fit_seconds: Float. Time of `fit`.
    """

    number: int
    part: float
    weights: int
    flops: int | None
    used: float
    pruned_score: float | None
    score: float | None
    is_accepted: bool
    allocation: Allocation | None = None
    prune_seconds: float = dataclasses.field(default=0.0, compare=False)
    fit_seconds: float = dataclasses.field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "allocation": None if self.allocation is None else self.allocation.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Stage":
        """Makes a stage from what `to_dict` returned, also after a round trip through JSON."""
        given = values["allocation"]
        return cls(**{**values, "allocation": None if given is None else Allocation.from_dict(given)})


@dataclasses.dataclass(frozen=True, repr=False)
class ShrinkResult:
    """The result of `tfap.shrink`. Prints as a table of the stages, with the verdict below it.

    Attributes:
        model: The smallest model within `max_drop`, compiled like the given one.
        stages: Tuple of `Stage`. The first one is the given model.
        budget: String. The budget.
        unit: String. The unit of `used` of the stages: "weights", "bytes", "flops", or "ms".
        limit: Float. The most that the budget allows, in this unit.
        metric: String. Name of the metric. None without labels.
        max_drop: Float. As in `tfap.shrink`.
        chosen: Integer. The number of the stage of `model`.
    """

    model: Model
    stages: tuple[Stage, ...]
    budget: str
    unit: str
    limit: float
    metric: str | None
    max_drop: float | None
    chosen: int
    _dense: Model = dataclasses.field(compare=False)
    _data: Data = dataclasses.field(compare=False)
    _metric: Callable[[Any, Any], float] | None = dataclasses.field(compare=False)

    @property
    def given(self) -> Model:
        """The model that was given."""
        return self._dense

    @functools.cached_property
    def report(self) -> Report:
        """The `tfap.report` of the models "dense" and "small". It is measured when it is first used."""
        models = {"dense": self._dense, "small": self.model}
        return report(models, "dense", self._data, self._metric, batch_sizes=(1,), seconds=2.0)

    @property
    def meets_budget(self) -> bool:
        """Whether the model meets the budget: times within 5%, other units exactly."""
        return self.stages[self.chosen].used <= self.limit * (1.05 if self.unit == "ms" else 1 + 1e-9)

    @property
    def drop(self) -> float | None:
        """Float. What the metric has lost. None without labels."""
        first, last = self.stages[0].score, self.stages[self.chosen].score
        return None if first is None or last is None else first - last

    @property
    def verdict(self) -> str:
        """String. What was reached, in a few sentences."""
        return " ".join(self._sentences())

    def _sentences(self):
        dense, small = self.stages[0], self.stages[self.chosen]
        if not self.chosen:
            return [
                f"No smaller model lost at most {self._score(self.max_drop)}: the model is the given one."
            ]
        saved = f"{self._amount(dense.used)} before, {self._amount(small.used)} after"
        sentences = [
            f"The budget of {self.budget} is {'met' if self.meets_budget else 'not met'}: {saved}.",
            f"{dense.weights / small.weights:.1f} times fewer weights.",
        ]
        if self.drop is not None:
            sentences.append(
                f"The {self.metric} is {self._score(small.score)}, {self._score(dense.score)} before."
            )
        if not self.meets_budget and self.max_drop is not None:
            sentences.append(f"Smaller models lost more than {self._score(self.max_drop)}.")
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as plain data: a dict of numbers, strings, and lists."""
        names = ("budget", "unit", "limit", "metric", "max_drop", "chosen", "meets_budget", "drop", "verdict")
        figures = {name: getattr(self, name) for name in names}
        return {**figures, "stages": [stage.to_dict() for stage in self.stages]}

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        activations: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the result to a page of HTML, as `to_html` of a `tfap.report` does.

        The page has the verdict, the stages, what each layer bears, and the report, which is measured if it
        was not used yet.

        Args:
            path: Path of the file. It is complete or unchanged, also after an interruption.
            title: String. Title of the page. None for one with the budget.
            activations: Dict of "dense" and "small" to the result of `tfap.measure_activations`, for
                histograms of firing rates and a table of dead neurons.

        Raises:
            OSError: If the file cannot be written.
        """
        page.write(path, of_result(self, title, activations))

    def table(self) -> rich.table.Table:
        """Returns a rich table with one line per stage."""
        unit = [] if self.unit in ("weights", "flops") else [self.unit]
        is_trained = any(stage.pruned_score is not None for stage in self.stages)
        scores = [] if self.metric is None else [self.metric]
        scores = [f"{self.metric} before fit", *scores] if is_trained else scores
        table = tables.table_of(["stage"], ["weights", "FLOPs", *unit, *scores, "seconds", "of them in fit"])
        for stage in self.stages:
            name = f"{stage.number}{'' if stage.number else ', given'}"
            name += ", returned" if stage.number == self.chosen else ""
            name += "" if stage.is_accepted else ", too much lost"
            seconds = stage.prune_seconds + stage.fit_seconds
            table.add_row(
                name,
                f"{stage.weights:,}",
                "-" if stage.flops is None else f"{stage.flops:,}",
                *([self._amount(stage.used).split()[0]] if unit else []),
                *([self._score(stage.pruned_score)] if is_trained else []),
                *([self._score(stage.score)] if scores else []),
                f"{seconds:.1f}",
                f"{stage.fit_seconds:.1f}",
            )
        return table

    def __str__(self) -> str:
        return tables.as_text(self.table(), *self._sentences())

    __repr__ = __str__

    def _amount(self, value):
        return f"{value:.4g} ms" if self.unit == "ms" else f"{value:,.0f} {self._unit_name}"

    @property
    def _unit_name(self):
        return "FLOPs" if self.unit == "flops" else self.unit

    def _score(self, value):
        if value is None:
            return ""
        return f"{value:.2%}" if self.metric == "accuracy" else f"{value:.4g}"
