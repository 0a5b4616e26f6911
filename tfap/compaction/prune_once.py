"""Prunes a trained model once, without training, and refits the weights that are kept."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np

from tfap import keras_compat
from tfap.activations import batch_norm
from tfap.activations.recalibration import recalibrate as recalibrated
from tfap.budgets.budget import Budget, is_budget
from tfap.compaction.allocation import Allocation, allocated_sets, allocation_of, is_allocation
from tfap.compaction.channel_scores import ChannelScores
from tfap.compaction.choosing import Choice
from tfap.compaction.compact import compact, compact_to
from tfap.compaction.input_batches import InputBatches
from tfap.compaction.merging import merge_similar
from tfap.compaction.planned_units import PlannedUnits, every_unit
from tfap.compaction.prune_once_report import PruneOnceReport, RefittedLayer
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity import output_sensitivity
from tfap.compaction.sensitivity_table import Sensitivity
from tfap.compensation.consumers import Consumer
from tfap.compensation.normalizers import Normalizer
from tfap.compensation.refit import RIDGE, relative
from tfap.compensation.removal import Repeatable, consuming, removal_errors
from tfap.compensation.selection import removal_order
from tfap.compensation.sweep import Sweep
from tfap.criteria import Criterion
from tfap.graph.calls import Graph, channel_axis
from tfap.graph.flops import flops
from tfap.graph.linear import Grouped
from tfap.keras_compat import equality
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection
from tfap.utils import checks
from tfap.utils.progress import Progress

_TARGETS = ("weights", "flops", "neurons")
_COMPENSATIONS = (True, False, "mean")


@overload
def prune_once(
    model: Model,
    data: Data,
    sparsity: float | Mapping[str, Any],
    criterion: Criterion | str = ...,
    target: str = ...,
    scope: str | Sensitivity = ...,
    compensate: bool | str = ...,
    recalibrate: bool = ...,
    samples: int = ...,
    batch_size: int = ...,
    skip: LayerSelection = ...,
    ridge: float = ...,
    round_to: int | None = ...,
    return_report: Literal[False] = ...,
    granularity: str | None = ...,
) -> Model: ...


@overload
def prune_once(
    model: Model,
    data: Data,
    sparsity: float | Mapping[str, Any],
    criterion: Criterion | str = ...,
    target: str = ...,
    scope: str | Sensitivity = ...,
    compensate: bool | str = ...,
    recalibrate: bool = ...,
    samples: int = ...,
    batch_size: int = ...,
    skip: LayerSelection = ...,
    ridge: float = ...,
    round_to: int | None = ...,
    *,
    return_report: Literal[True],
    granularity: str | None = ...,
) -> tuple[Model, PruneOnceReport]: ...


def prune_once(
    model: Model,
    data: Data,
    sparsity: float | Mapping[str, Any],
    criterion: Criterion | str = "reconstruction",
    target: str = "weights",
    scope: str | Sensitivity = "local",
    compensate: bool | str = True,
    recalibrate: bool = True,
    samples: int = 2048,
    batch_size: int = 32,
    skip: LayerSelection = (),
    ridge: float = RIDGE,
    round_to: int | None = None,
    return_report: bool = False,
    granularity: str | None = None,
) -> Model | tuple[Model, PruneOnceReport]:
    """Removes neurons and channels from a trained model at once, without training.

    It needs a few hundred inputs and no labels. The layers that consume a removed channel are refitted by
    ridge regression: their other weights take over what the channel contributed, so that their sums stay as
    they were on the data. Layers are done in graph order, each on the activations of the layers before it as
    they are then. Recurrent layers lose whole units. The weights with which other units of the layer read
    them become zero: neither the errors of "reconstruction" nor the refit count what that changes.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        data: Inputs: an array, a list or dict of arrays for several inputs, a tuple `(x, y)`, or batches of
            `x`, `(x, y)` or `(x, y, sample_weight)`, as in `tfap.measure_activations`. Only `tfap.Gradient`,
            `tfap.GroupTaylor` and `tfap.HessianDiagonal` read labels. None merges similar neurons instead, by
            their weights alone.
        sparsity: Float in [0, 1). The fraction of the target that is removed at most. Or a budget of the
            whole model, a dict such as `{"flops": 0.5}`, `{"weights": 50_000}`, `{"bytes": 300_000}`,
            `{"latency_ms": 2.0}` or `{"speedup": 2.0, "runtime": "onnx"}`. Bytes and times are measured, on
            smaller models that are exported. Or the fraction of channels to remove per layer: a
            `tfap.Allocation`, or a dict of layer path to fraction such as `{"conv": 0.25}`.
        criterion: A `tfap.Criterion` or its name: which channels are removed.
        target: Unit of the sparsity: "weights" (of the kernels of the model), "flops" (of the model), or
            "neurons" (of the layers that can be pruned).
        scope: "local" removes the same fraction of channels from every layer; "global" ranks the channels of
            all layers together; "isomorphic" ranks layers of the same structure together, as in `tfap.prune`;
            "allocated" measures how much the outputs bear of each layer, as
            `tfap.sensitivity`, and chooses fractions with a small change, as `tfap.allocate`. The result of
            `tfap.sensitivity` does the same without measuring again.
        compensate: Boolean. Whether to refit the weights that are kept. "mean" only adds the mean of what
            removed channels contributed to the biases, and False does neither.
        recalibrate: Boolean. Whether to compute the statistics of BatchNormalization layers anew at the end,
            as `tfap.recalibrate` does.
        samples: Integer >= 1. The largest number of inputs to use, the first ones.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        skip: Layers whose neurons are kept, as in `tfap.prune`.
        ridge: Float >= 0. Strength of the ridge, relative to the mean square of the activations. Larger
            values change weights less.
        round_to: Integer >= 1. A layer with at least as many channels keeps a multiple of it, or all of them,
            because some runtimes are slower with other numbers. Rounding is up. None is 1, but for budgets
            of "latency_ms" and "speedup" it is 8 where multiples of 8 come near to the budget.
        return_report: Boolean. Whether to also return a `PruneOnceReport`.
        granularity: "neuron" removes neurons and channels; "head" removes whole heads of attention layers and
            refits the projections of their outputs; "unit" removes both. "head" and "unit" need data. None is
            "unit" if each layer gets a fraction of its own, with the scope "allocated", a sensitivity, or an
            allocation. It is "neuron" for all else, and for criteria that do not rank heads.

    Returns:
        A new model of the same Keras with fewer units, compiled alike, with a fresh optimizer. With
        `return_report`, a tuple `(model, report)`. The report says per layer how many units are kept and how
        well its sums are reproduced, and prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid; if the model is wrapped, stateful, subclassed, or unbuilt, or has
            no removable channels; if a budget has unknown keys, or cannot be met, with the least that can be
            asked for; if the data is empty, does not fit the inputs, or has NaN or infinity; or if the
            criterion needs what the data does not give, such as labels for `tfap.Gradient`.
        ImportError: If the runtime of a budget is not installed.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> x = numpy.random.default_rng(0).normal(size=(256, 8))
    >>> small, report = tfap.prune_once(model, x, 0.5, return_report=True)
    >>> small.get_layer("hidden").units
    16
    >>> report.weights
    (387, 195)

    References:
        - Meng et al., *OSSCAR*, ICML 2024 (arXiv 2403.12983)
        - *GRAIL* (arXiv 2602.23795)
    """
    start = time.monotonic()
    keras_compat.check_plain(model, "tfap.prune_once")
    equality.check_comparable(model)
    goal = _goal(sparsity, target, model)
    _check_arguments(target, scope, compensate, recalibrate, ridge)
    granularity = _checked_granularity(granularity, data, criterion, scope, goal)
    if round_to is not None:
        checks.integer("round_to", round_to)
    # What "allocated" allocates are channels per layer, of which the order is that of "local".
    ranked = scope if scope in ("global", "isomorphic") else "local"
    settings = PruningSettings(0.0, criterion, ranked, granularity, target=target)
    if data is None:
        _check_without_data(criterion, compensate, scope, goal)
        planned = PlannedUnits.of(model, settings, skip)
        merging = merge_similar(model, goal, planned, target, ranked, round_to)
        if not return_report:
            return merging.model
        return merging.model, _report_of_merging(model, merging, planned, time.monotonic() - start)
    batches = InputBatches(model, data, checks.integer("samples", samples), batch_size)
    pruner = _Pruner(model, batches, settings, PlannedUnits.of(model, settings, skip), float(ridge))
    choice = Choice(model, pruner.removable, goal, target, ranked, round_to)
    with Progress("Pruning", pruner.steps) as progress:
        scores = pruner.scores(data, progress)
    sets = None
    if isinstance(scope, Sensitivity):
        sets = allocated_sets(pruner.removable, scope)
    elif scope == "allocated" and not isinstance(goal, Allocation):
        sets = pruner.allocated_sets(model, data, batches, compensate is True)
    if sets is not None:
        choice.losses = [each.losses for each in sets]
    kept = choice.kept(scores)
    with Progress("Refitting", pruner.steps) as progress:
        layers = pruner.remove(kept, compensate, progress)
    small = _compacted(pruner, batches, choice.round_to)
    is_recalibrated = recalibrate and bool(batch_norm.normalizations(small))
    if is_recalibrated:
        small = recalibrated(small, batches)
    choice.finish(small)
    if not return_report:
        return small
    report = PruneOnceReport(
        layers=tuple(_with_units(layers, model, small)),
        unpruned=tuple(pruner.unpruned()),
        weights=(_weight_count(model), _weight_count(small)),
        flops=(_flops(model), _flops(small)),
        samples=batches.samples,
        recalibrated=is_recalibrated,
        seconds=time.monotonic() - start,
        budget=choice.result,
        rounded=choice.rounded,
        allocation=_allocation(goal, pruner.removable, kept, sets, choice.result),
    )
    return small, report


def _allocation(goal, removable, kept, sets, result):
    """Returns the allocation that was given or chosen, or None."""
    if sets is None:
        return goal if isinstance(goal, Allocation) else None
    return allocation_of(removable, kept, sets, result)


def _compacted(pruner, batches, round_to):
    if round_to == 1:
        return compact(pruner.model, data=batches.few())
    return compact_to(pruner.model, pruner.kept, batches.few())  # unused channels stay, for the multiples


def _goal(sparsity, target, model):
    """Returns the sparsity as a float, the budget, or the allocation."""
    if is_allocation(sparsity, model):
        return sparsity if isinstance(sparsity, Allocation) else Allocation(sparsity)
    if not is_budget(sparsity):
        if not 0 <= checks.number("sparsity", sparsity) < 1:
            raise ValueError(f"sparsity must be in [0, 1): received {sparsity}.")
        return float(sparsity)
    if target != "weights":
        raise ValueError(
            f"target is the unit of a fraction, and a budget names its own: received target={target!r} with "
            f"{sparsity}. Leave target out."
        )
    return Budget.of(sparsity)


def _check_without_data(criterion, compensate, scope, goal):
    if scope not in ("global", "local") or isinstance(goal, Allocation):
        raise ValueError(
            "data is None, so nothing tells how much the outputs bear of each layer: pass a few hundred "
            'inputs as data, or scope="local" or "global" and a sparsity or budget.'
        )
    if criterion != "reconstruction" or compensate is not True:
        raise ValueError(
            "data is None, so similar neurons are merged by their weights alone, which needs the default "
            f"criterion and compensate=True: received criterion={criterion!r}, compensate={compensate!r}. "
            "Pass a few hundred inputs as data for other ones."
        )


def _report_of_merging(model, merging, planned, seconds):
    layers = [
        RefittedLayer(
            layer.path, layer.inputs, (0, 0), layer.error_before, layer.error_after, 0, 0, layer.seconds
        )
        for layer in merging.layers
    ]
    return PruneOnceReport(
        layers=tuple(_with_units(layers, model, merging.model)),
        unpruned=tuple((row.path, row.reason) for row in planned.rows() if row.weight and row.reason),
        weights=(_weight_count(model), _weight_count(merging.model)),
        flops=(_flops(model), _flops(merging.model)),
        samples=0,
        recalibrated=False,
        seconds=seconds,
        merges=tuple(merging.merges),
        budget=merging.budget,
        rounded=merging.rounded,
    )


def _checked_granularity(granularity, data, criterion, scope, goal):
    if granularity is None:
        measured = scope.has_heads if isinstance(scope, Sensitivity) else scope == "allocated"
        with_heads = data is not None and (measured or isinstance(goal, Allocation))
        return every_unit(criterion) if with_heads else "neuron"
    checks.choice("granularity", granularity, ("neuron", "head", "unit"))
    if granularity != "neuron" and data is None:
        raise ValueError(
            f"granularity='{granularity}' needs inputs as data, because no weights tell which heads are "
            "similar: received no data. Pass a few hundred inputs."
        )
    return granularity


def _check_arguments(target, scope, compensate, recalibrate, ridge):
    checks.choice("target", target, _TARGETS)
    if not isinstance(scope, Sensitivity):
        checks.choice("scope", scope, ("global", "local", "isomorphic", "allocated"))
    checks.choice("compensate", compensate, _COMPENSATIONS)
    checks.choice("recalibrate", recalibrate, (True, False))
    if checks.number("ridge", ridge) < 0:
        raise ValueError(f"ridge must be a number >= 0: received {ridge}.")


class _Pruner:
    """Decides which channels of a copy of a model are removed, and takes them out of their consumers.

    Attributes:
        model: The copy. Its shapes stay; the weights that consume removed channels become zero.
        removable: Its `RemovableChannels`.
        kept: Boolean array: the channel groups that are kept, after `remove`.
    """

    def __init__(self, model, batches, settings, planned, ridge):
        self._settings, self._planned, self._ridge = settings, planned, ridge
        self._inputs = Repeatable(batches.inputs)
        self.removable = RemovableChannels(model, planned)
        self.model, self._liveness = self.removable.model, self.removable.liveness
        self._consumers, self._sets = self.removable.consumers, self.removable.sets

    @property
    def steps(self):
        """Integer. About how many steps the progress bar shows."""
        return len(self._consumers)

    @property
    def _measures_errors(self):
        return "removal_errors" in self._settings.criterion.needs

    def unpruned(self):
        """Yields `(path, reason)` of layers whose channels are all kept."""
        for row in self._planned.rows():
            if row.weight and row.reason:
                yield row.path, row.reason

    # -- which channels --------------------------------------------------------------------------------

    def scores(self, data, progress):
        """Returns the scores of the groups of each set: those with the lowest are removed first."""
        errors = self._removal_errors(progress) if self._measures_errors else None
        scores = ChannelScores(self.model, self._settings.criterion, self._planned, self._liveness, errors)
        by_group = scores.by_group(self._inputs, data)
        return [by_group[groups] for groups in self._sets]

    def _removal_errors(self, progress):
        """Returns what the removal of each group adds to the errors of its consumers: float array.

        With the same fraction for every layer, sets that are chosen again need no errors before.
        """
        is_local = self._settings.scope == "local"
        sets = [groups for groups in self._sets if not (is_local and self._only_consumer(groups))]
        readers = self.removable.readers
        found = removal_errors(self.model, self._inputs, sets, readers, self._ridge, progress.advance)
        errors = np.zeros(self.removable.channels.size)
        errors[list(found)] = list(found.values())
        return errors

    def allocated_sets(self, model, data, batches, compensate):
        """Measures the losses of the coupled sets of the given model. Returns a list of `AllocatedSet`."""
        settings = self._settings
        sensitivity = output_sensitivity(
            model, self.removable, data, batches, self._planned, settings.criterion, compensate, self._ridge
        )
        return allocated_sets(self.removable, sensitivity)

    def _sweep(self, consumers, done):
        if consumers:
            paths = [consumer.path for consumer in consumers]
            Sweep(self.model, self._inputs, paths).run(consumers, done)

    # -- the refit -------------------------------------------------------------------------------------

    def remove(self, kept, compensate, progress):
        """Takes removed channels out of their consumers. Returns a list of `RefittedLayer`."""
        self.kept = kept.copy()  # `_choose_again` changes it
        self.removable.clear_reads(kept)
        rows = []

        def done(reader):
            if isinstance(reader, Normalizer):
                return
            rows.append(self._refit(reader, compensate))
            reader.forget()
            progress.advance()

        readers = self.removable.readers.values()
        self._sweep([reader for reader in readers if not self.kept[reader.groups].all()], done)
        self.removable.clear_made(kept)
        if compensate is True:
            self.removable.scale_kept(kept, self._ridge)
        return rows

    def _refit(self, consumer: Consumer, compensate):
        start = time.monotonic()
        problems = consumer.problems(self._ridge)
        if self._measures_errors:
            self._choose_again(consumer, problems)
        removed = [~self.kept[problem.groups] for problem in problems]
        plain = [problem.without(marks) for problem, marks in zip(problems, removed)]
        fitted = plain
        if compensate is True:
            fitted = [problem.refit(marks) for problem, marks in zip(problems, removed)]
        consumer.write(fitted, problems, fold=bool(compensate))
        consumer.clear(~self.kept[consumer.groups])
        errors = [
            sum(relative(problem.error(weights), problem.scale) for problem, weights in zip(problems, each))
            for each in (plain, fitted)
        ]
        return RefittedLayer(
            path=consumer.path,
            inputs=(len(consumer.groups), int(self.kept[consumer.groups].sum())),
            units=(0, 0),
            error_before=errors[0],
            error_after=errors[1],
            rows=consumer.rows,
            fitted_units=consumer.most_units,
            seconds=time.monotonic() - start,
        )

    def _only_consumer(self, groups):
        """Returns the path of the only layer that consumes a set, or None.

        None also if a grouped convolution needs as many channels of every group, if a recurrent layer reads
        some of them itself, or if they are normalized together.
        """
        if not self.removable.normalized.isdisjoint(groups.tolist()):
            return None
        for path, matrix in self._liveness.linear_maps.items():
            sides = self._liveness.groups(path) if isinstance(matrix, Grouped) else ()
            if self._liveness.is_recurrent(path):
                sides = self._liveness.groups(path)[1:]
            if any(side is not None and np.isin(side, groups).any() for side in sides):
                return None
        paths = consuming(groups, self._consumers)
        return paths[0] if len(paths) == 1 else None

    def _choose_again(self, consumer, problems):
        """Chooses as many channels as before, on the activations of the layers before as they are now."""
        for groups in self._sets:
            removed = int((~self.kept[groups]).sum())
            if removed and self._only_consumer(groups) == consumer.path:
                order = removal_order(problems, groups, removed)
                self.kept[groups] = True
                self.kept[order.groups] = False


def _with_units(layers, model, small):
    before, after = Graph(model), Graph(small)
    for layer in layers:
        units = _units(before, layer.path), _units(after, layer.path)
        yield dataclasses.replace(layer, units=units)


def _units(graph, path):
    call = graph.calls_of[path][0]
    return call.outputs[0].shape[channel_axis(call.layer)]


def _weight_count(model):
    layers = (layer for _, layer in Graph(model).layers())
    return sum(math.prod(weight.shape) for layer in layers for weight in keras_compat.weights_of(layer))


def _flops(model):
    try:
        return flops(model)
    except ValueError:  # they depend on undefined dimensions
        return None
