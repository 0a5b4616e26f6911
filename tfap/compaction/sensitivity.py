"""How much the outputs of a model change if each coupled set of channels is pruned alone."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compaction.allocation import removed_at
from tfap.compaction.channel_scores import ChannelScores
from tfap.compaction.input_batches import InputBatches, is_labeled
from tfap.compaction.output_change import OutputChange
from tfap.compaction.planned_units import PlannedUnits, every_unit
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.removed_channels import channels_removed
from tfap.compaction.sensitivity_table import CoupledSet, Removal, Sensitivity, row_from_dict
from tfap.compensation.refit import RIDGE
from tfap.compensation.removal import Repeatable, visit_problems
from tfap.compensation.selection import removal_order
from tfap.criteria import Criterion
from tfap.keras_compat import equality
from tfap.keras_compat.inputs import listed
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection
from tfap.reporting.labeled import read_labeled
from tfap.utils import checks
from tfap.utils.progress import Progress
from tfap.utils.store import Folder

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def sensitivity(
    model: Model,
    data: Data,
    rates: Sequence[float] = RATES,
    validation: Data = None,
    metric: Callable[[Any, Any], float] | None = None,
    criterion: Criterion | str = "reconstruction",
    compensate: Sequence[bool] = (False, True),
    samples: int = 2048,
    batch_size: int = 32,
    skip: LayerSelection = (),
    ridge: float = RIDGE,
    directory: str | os.PathLike[str] | None = None,
) -> Sensitivity:
    """Measures what pruning each layer alone does to the outputs, with and without the refit.

    Coupled layers, such as those around a residual connection, lose the same channels, so they are one row.
    The heads of an attention layer are a row with the name of the layer and ":heads".
    The model is not rebuilt: the weights that consume the removed channels are zero for one pass over the
    data. The refit is that of `tfap.prune_once`, on the activations of the given model, which are measured
    once for all rates. BatchNormalization statistics are not computed anew.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        data: Inputs, as in `tfap.prune_once`. The refit uses them, and so does the criterion. With labels,
            `(x, y)`, they are also the validation data.
        rates: Floats in (0, 1). The fractions of channels to remove. Every layer keeps at least one.
        validation: Samples `(x, y)` on which to compute the metric, as `data` in `tfap.report`. None uses
            `data`, and without labels there is only the change of the outputs.
        metric: Function of `(y, outputs)` that returns a number; larger is better. None for the accuracy.
        criterion: A `tfap.Criterion` or its name: which channels are removed first.
        compensate: Booleans. Whether to refit the weights that are kept: `(False, True)` measures both.
        samples: Integer >= 1. The largest number of inputs to use of `data`, the first ones.
        batch_size: Integer >= 1. Samples per batch of `data`, for arrays only.
        skip: Layers whose channels are kept, as in `tfap.prune`.
        ridge: Float >= 0. Strength of the ridge, as in `tfap.prune_once`.
        directory: Folder in which to store each finished row. A second call with the same arguments resumes,
            also after an interruption. None stores nothing.

    Returns:
        A `Sensitivity`. It prints as a table, with one row per coupled set and one column per rate. It has
        `to_dict()`, `to_csv(path)`, and `plot(path)`, which draws a heat map. `tfap.allocate` takes it.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid; if the model is wrapped, stateful, subclassed, or unbuilt, or has
            no removable channels; if the data does not fit; or if the folder is of another call.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> x = numpy.random.default_rng(0).normal(size=(256, 8))
    >>> found = tfap.sensitivity(model, x, rates=(0.25, 0.5))
    >>> [(removal.removed, removal.compensate) for removal in found["hidden"].removals]
    [(8, False), (16, False), (8, True), (16, True)]

    References:
        - Li et al., *Pruning filters for efficient ConvNets*, ICLR 2017 (arXiv 1608.08710), section 3.2
    """
    start = time.monotonic()
    keras_compat.check_plain(model, "tfap.sensitivity")
    equality.check_comparable(model)
    options = Options.checked(rates, compensate, criterion, samples, ridge, metric)
    batches = InputBatches(model, data, options.samples, batch_size)
    inputs, labels = _evaluated(model, data, validation, batches)
    if metric is not None and labels is None:
        raise ValueError("A metric needs labels: pass data=(x, y) or validation=(x, y).")
    planned = PlannedUnits.of(model, options.pruning, skip)
    measured = _Rows(model, RemovableChannels(model, planned), data, batches, planned, options)
    evaluated = fingerprint([*inputs, *map(np.asarray, keras_compat.tree.flatten(labels))])
    settings = {**measured.settings(), "evaluated": evaluated, "metric": _name_of(metric, labels)}
    folder = Folder(directory, settings, "tfap.sensitivity")
    change = OutputChange(measured.removable.model, inputs, labels, metric)
    rows = measured.rows(change, folder)
    return Sensitivity(
        rows,
        options.rates,
        options.compensate,
        str(options.pruning.criterion),
        change.samples,
        _name_of(metric, labels),
        change.score,
        time.monotonic() - start,
    )


def _name_of(metric, labels):
    if labels is None:
        return None
    return "accuracy" if metric is None else getattr(metric, "__name__", "metric")


@dataclasses.dataclass(frozen=True)
class Options:
    """Checked arguments of `sensitivity`, from `checked`.

    Attributes:
        rates: Tuple of floats in (0, 1), in order.
        compensate: Tuple of booleans.
        pruning: `PruningSettings` with the criterion.
        samples: Integer >= 1.
        ridge: Float >= 0.
    """

    rates: tuple[float, ...]
    compensate: tuple[bool, ...]
    pruning: PruningSettings
    samples: int
    ridge: float

    @classmethod
    def checked(
        cls, rates: Any, compensate: Any, criterion: Any, samples: Any, ridge: Any, metric: Any = None
    ) -> "Options":
        """Checks the arguments of `sensitivity` with these names, and raises as it does."""
        if isinstance(rates, str) or not np.iterable(rates) or not len(rates := tuple(rates)):
            raise TypeError(f"rates must be a tuple of floats in (0, 1): received {rates!r}.")
        rates = tuple(sorted({checks.number("rates", rate) for rate in rates}))
        if not 0 < rates[0] <= rates[-1] < 1:
            raise ValueError(f"rates must be in (0, 1): received {rates}.")
        compensate = (compensate,) if isinstance(compensate, bool) else compensate
        if not isinstance(compensate, list | tuple) or not compensate:
            raise TypeError(f"compensate must be a tuple of booleans: received {compensate!r}.")
        for value in compensate:
            checks.choice("compensate", value, (True, False))
        if metric is not None and not callable(metric):
            raise TypeError(f"metric must be a function of (y, outputs): received {metric!r}.")
        if checks.number("ridge", ridge) < 0:
            raise ValueError(f"ridge must be a number >= 0: received {ridge}.")
        settings = PruningSettings(0.0, criterion, "local", every_unit(criterion), target="weights")
        samples = checks.integer("samples", samples)
        return cls(
            rates, tuple(sorted({bool(value) for value in compensate})), settings, samples, float(ridge)
        )


def output_sensitivity(
    model: Model,
    removable: RemovableChannels,
    data: Data,
    batches: InputBatches,
    planned: PlannedUnits,
    criterion: Any,
    compensate: bool,
    ridge: float,
    rates: Sequence[float] = RATES,
    directory: str | os.PathLike[str] | None = None,
) -> Sensitivity:
    """Measures the `Sensitivity` of a model that is being pruned, by the change of its outputs.

    Args:
        model: The given model.
        removable: Its `RemovableChannels`. Its weights are as before at the end.
        data: As in `sensitivity`.
        batches: The `InputBatches` of the data.
        planned: The `PlannedUnits` of the model.
        criterion: As in `sensitivity`.
        compensate: Boolean. Whether weights are refitted.
        ridge: As in `sensitivity`.
        rates: As in `sensitivity`.
        directory: As in `sensitivity`.
    """
    start = time.monotonic()
    options = Options.checked(rates, (compensate,), criterion, batches.samples, ridge, None)
    rows = _Rows(model, removable, data, batches, planned, options)
    change = OutputChange(removable.model, batches.arrays())
    return Sensitivity(
        rows.rows(change, Folder(directory, rows.settings(), "tfap.shrink")),
        options.rates,
        options.compensate,
        str(criterion),
        change.samples,
        None,
        None,
        time.monotonic() - start,
    )


def _evaluated(model, data, validation, batches):
    """Returns the inputs on which outputs are compared, and their labels or None."""
    names = [spec.name for spec in keras_compat.inputs_of(model)]
    if validation is not None:
        return read_labeled(validation, names)
    if not is_labeled(model, data):
        return batches.arrays(), None
    inputs = [np.asarray(array)[: batches.samples] for array in listed(data[0], names)]
    labels = keras_compat.tree.map_structure(lambda array: np.asarray(array)[: batches.samples], data[1])
    return inputs, labels


class _Rows:
    """Measures the rows of a model, one per coupled set.

    Attributes:
        removable: The `RemovableChannels` of the model, as given.
    """

    def __init__(self, model, removable, data, batches, planned, options):
        self._data, self._planned, self._options = data, planned, options
        self._given, self._batches = model, batches
        self._inputs = Repeatable(batches.inputs)
        self.removable = removable

    def settings(self) -> dict[str, Any]:
        """Returns what must be the same for the rows of a folder to be used again."""
        options, sets = self._options, self.removable.sets
        return {
            "weights": fingerprint(self._given.get_weights()),
            "inputs": fingerprint(self._batches.arrays()),
            "sets": [[*self.removable.layers_of(groups), len(groups)] for groups in sets],
            "rates": options.rates,
            "compensate": options.compensate,
            "criterion": repr(options.pruning.criterion),
            "ridge": options.ridge,
        }

    def rows(self, change: OutputChange, folder: Folder) -> tuple[CoupledSet, ...]:
        """Reads the rows of a folder, and measures the others."""
        sets = self.removable.sets
        found = {at: folder.read(_name(at)) for at in range(len(sets))}
        rows = {at: row_from_dict(row) for at, row in found.items() if row is not None}
        missing = [at for at in range(len(sets)) if at not in rows]
        with Progress("Measuring the sensitivity", len(missing)) as progress:

            def measured(at, problems):
                rows[missing[at]] = self._row(sets[missing[at]], problems, change)
                folder.write(_name(missing[at]), dataclasses.asdict(rows[missing[at]]))
                progress.advance()

            self._visit([sets[at] for at in missing], measured)
        return tuple(rows[at] for at in range(len(sets)))

    def _visit(self, sets, measured):
        """Calls `measured(position, problems)` for each set; problems are None if nothing needs them."""
        self._scores = None
        if not sets:
            return
        if not self._measures_errors:
            scores = ChannelScores(
                self.removable.model,
                self._options.pruning.criterion,
                self._planned,
                self.removable.liveness,
                None,
            )
            self._scores = scores.by_group(self._inputs, self._data)
        if self._measures_errors or True in self._options.compensate:
            visit_problems(
                self.removable.model,
                self._inputs,
                sets,
                self.removable.readers,
                measured,
                self._options.ridge,
            )
            return
        for at in range(len(sets)):
            measured(at, None)

    @property
    def _measures_errors(self):
        return "removal_errors" in self._options.pruning.criterion.needs

    def _order(self, groups, problems):
        """Returns the groups of a set, first the one to remove first."""
        if self._scores is not None:
            return groups[np.argsort(self._scores[groups], kind="stable")]
        return removal_order([problem for each in problems.values() for problem in each], groups).groups

    def _row(self, groups, problems, change):
        order, removals = self._order(groups, problems), []
        for refit in self._options.compensate:
            for rate in self._options.rates:
                kept = self.removable.without_first(order, removed_at(rate, len(order)))
                with channels_removed(self.removable, kept, problems if refit else None):
                    changed, score = change.measure()
                removed = int((~kept[groups]).sum())
                removals.append(Removal(rate, removed, refit, changed, score))
        return CoupledSet(tuple(self.removable.layers_of(groups)), len(groups), tuple(removals))


def fingerprint(arrays: Sequence[np.ndarray]) -> str:
    """Returns a string that is another one if a value of some arrays is."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes() if array.dtype != object else repr(array.tolist()).encode())
    return digest.hexdigest()[:16]


def _name(at):
    return f"row-{at:03d}"
