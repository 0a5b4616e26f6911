"""Prunes a trained model once, without training, and refits the weights that are kept."""

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np

from tfap import keras_compat
from tfap.activations import batch_norm
from tfap.activations.batches import EMPTY, Batches
from tfap.activations.recalibration import recalibrate as recalibrated
from tfap.compaction.channel_scores import ChannelScores
from tfap.compaction.compact import compact
from tfap.compaction.merging import merge_similar
from tfap.compaction.prune_once_report import PruneOnceReport, RefittedLayer
from tfap.compaction.removable import RemovableChannels
from tfap.compensation.allocation import Allocation, ModelCost
from tfap.compensation.consumers import Consumer
from tfap.compensation.refit import RIDGE, relative
from tfap.compensation.removal import Repeatable, consuming, removal_errors
from tfap.compensation.selection import removal_order
from tfap.compensation.sweep import Sweep
from tfap.criteria import Criterion
from tfap.graph.calls import Graph, channel_axis
from tfap.graph.flops import flops
from tfap.graph.linear import Grouped
from tfap.keras_compat import eager, equality
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection, make_plan
from tfap.utils import checks
from tfap.utils.progress import Progress

_TARGETS = ("weights", "flops", "neurons")
_COMPENSATIONS = (True, False, "mean")


@overload
def prune_once(
    model: Model,
    data: Data,
    sparsity: float,
    criterion: Criterion | str = ...,
    target: str = ...,
    scope: str = ...,
    compensate: bool | str = ...,
    recalibrate: bool = ...,
    samples: int = ...,
    batch_size: int = ...,
    skip: LayerSelection = ...,
    ridge: float = ...,
    return_report: Literal[False] = ...,
) -> Model: ...


@overload
def prune_once(
    model: Model,
    data: Data,
    sparsity: float,
    criterion: Criterion | str = ...,
    target: str = ...,
    scope: str = ...,
    compensate: bool | str = ...,
    recalibrate: bool = ...,
    samples: int = ...,
    batch_size: int = ...,
    skip: LayerSelection = ...,
    ridge: float = ...,
    *,
    return_report: Literal[True],
) -> tuple[Model, PruneOnceReport]: ...


def prune_once(
    model: Model,
    data: Data,
    sparsity: float,
    criterion: Criterion | str = "reconstruction",
    target: str = "weights",
    scope: str = "local",
    compensate: bool | str = True,
    recalibrate: bool = True,
    samples: int = 2048,
    batch_size: int = 32,
    skip: LayerSelection = (),
    ridge: float = RIDGE,
    return_report: bool = False,
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
            `x`, `(x, y)` or `(x, y, sample_weight)`, as in `tfap.measure_activations`. Only `tfap.Gradient`
            reads labels. None merges similar neurons instead, by their weights alone.
        sparsity: Float in [0, 1). The fraction of the target that is removed at most.
        criterion: A `tfap.Criterion` or its name: which channels are removed.
        target: Unit of the sparsity: "weights" (of the kernels of the model), "flops" (of the model), or
            "neurons" (of the layers that can be pruned).
        scope: "local" removes the same fraction of channels from every layer; "global" ranks the channels of
            all layers together.
        compensate: Boolean. Whether to refit the weights that are kept. "mean" only adds the mean of what
            removed channels contributed to the biases, and False does neither.
        recalibrate: Boolean. Whether to compute the statistics of BatchNormalization layers anew at the end,
            as `tfap.recalibrate` does.
        samples: Integer >= 1. The largest number of inputs to use, the first ones.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        skip: Layers whose neurons are kept, as in `tfap.prune`.
        ridge: Float >= 0. Strength of the ridge, relative to the mean square of the activations. Larger
            values change weights less.
        return_report: Boolean. Whether to also return a `PruneOnceReport`.

    Returns:
        A new model of the same Keras with fewer units, compiled alike, with a fresh optimizer. With
        `return_report`, a tuple `(model, report)`. The report says per layer how many units are kept and how
        well its sums are reproduced, and prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid; if the model is wrapped, stateful, subclassed, or unbuilt, or has
            no removable channels; if the data is empty, does not fit the inputs, or has NaN or infinity; or
            if the criterion needs what the data does not give, such as labels for `tfap.Gradient`.

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
    _check_arguments(sparsity, target, scope, compensate, recalibrate, ridge)
    settings = PruningSettings(0.0, criterion, scope, "neuron", target=target)
    if data is None:
        _check_without_data(criterion, compensate)
        plan = make_plan(model, settings, (), skip)
        merging = merge_similar(model, float(sparsity), plan, target, scope)
        if not return_report:
            return merging.model
        return merging.model, _report_of_merging(model, merging, plan, time.monotonic() - start)
    batches = _InputBatches(model, data, checks.integer("samples", samples), batch_size)
    pruner = _Pruner(model, batches, settings, make_plan(model, settings, (), skip), float(ridge))
    with Progress("Pruning", pruner.steps) as progress:
        kept = pruner.kept_groups(float(sparsity), data, progress)
        layers = pruner.remove(kept, compensate, progress)
    small = compact(pruner.model, data=batches.few())
    is_recalibrated = recalibrate and bool(batch_norm.normalizations(small))
    if is_recalibrated:
        small = recalibrated(small, batches)
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
    )
    return small, report


def _check_without_data(criterion, compensate):
    if criterion != "reconstruction" or compensate is not True:
        raise ValueError(
            "data is None, so similar neurons are merged by their weights alone, which needs the default "
            f"criterion and compensate=True: received criterion={criterion!r}, compensate={compensate!r}. "
            "Pass a few hundred inputs as data for other ones."
        )


def _report_of_merging(model, merging, plan, seconds):
    layers = [
        RefittedLayer(
            layer.path, layer.inputs, (0, 0), layer.error_before, layer.error_after, 0, 0, layer.seconds
        )
        for layer in merging.layers
    ]
    return PruneOnceReport(
        layers=tuple(_with_units(layers, model, merging.model)),
        unpruned=tuple((row.path, row.reason) for row in plan if row.weight and row.reason),
        weights=(_weight_count(model), _weight_count(merging.model)),
        flops=(_flops(model), _flops(merging.model)),
        samples=0,
        recalibrated=False,
        seconds=seconds,
        merges=tuple(merging.merges),
    )


def _check_arguments(sparsity, target, scope, compensate, recalibrate, ridge):
    if not 0 <= checks.number("sparsity", sparsity) < 1:
        raise ValueError(f"sparsity must be in [0, 1): received {sparsity}.")
    checks.choice("target", target, _TARGETS)
    checks.choice("scope", scope, ("global", "local"))
    checks.choice("compensate", compensate, _COMPENSATIONS)
    checks.choice("recalibrate", recalibrate, (True, False))
    if checks.number("ridge", ridge) < 0:
        raise ValueError(f"ridge must be a number >= 0: received {ridge}.")


class _InputBatches:
    """The first inputs of some data, in batches, which can be read again and again.

    Attributes:
        samples: Integer. The number of inputs.
    """

    def __init__(self, model, data, limit, batch_size):
        given = self._inputs(model, data)
        reader, self._model = eager.InputReader(model), model
        self._batches, self.samples = [], 0
        for batch in Batches(model, given, batch_size, steps=limit):
            arrays = [keras_compat.to_numpy(tensor) for tensor in reader.read(batch)]
            arrays = [array[: limit - self.samples] for array in arrays]
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
                raise ValueError(
                    "data contains NaN or infinity: expected finite inputs. Remove these samples."
                )
            self._batches.append(arrays)
            self.samples += len(arrays[0])
            if self.samples >= limit:
                break
        if not self.samples:
            raise ValueError(EMPTY)

    def _inputs(self, model, data):
        """The inputs of `(x, y)` or `(x, y, sample_weight)`; other data as it is."""
        is_labeled = isinstance(data, tuple) and len(data) in (2, 3) and len(data) != len(model.inputs)
        return data[0] if is_labeled else data

    def __iter__(self) -> Iterator[Any]:
        for arrays in self._batches:
            yield (keras_compat.packed_inputs(self._model, arrays),)

    def inputs(self):
        """Iterates over the inputs of each batch, as the model takes them."""
        return (batch for (batch,) in self)

    def few(self):
        """Returns the first inputs as a list of arrays, to compare outputs on."""
        return [array[: equality.SAMPLES] for array in self._batches[0]]


class _Pruner:
    """Decides which channels of a copy of a model are removed, and takes them out of their consumers.

    Attributes:
        model: The copy. Its shapes stay; the weights that consume removed channels become zero.
    """

    def __init__(self, model, batches, settings, plan, ridge):
        self._settings, self._plan, self._ridge = settings, plan, ridge
        self._inputs = Repeatable(batches.inputs)
        self._removable = RemovableChannels(model, plan)
        self.model, self._liveness = self._removable.model, self._removable.liveness
        self._consumers, self._sets = self._removable.consumers, self._removable.sets

    @property
    def steps(self):
        """Integer. About how many steps the progress bar shows."""
        return len(self._consumers) * (2 if self._measures_errors else 1)

    @property
    def _measures_errors(self):
        return "removal_errors" in self._settings.criterion.needs

    def unpruned(self):
        """Yields `(path, reason)` of layers whose channels are all kept."""
        for row in self._plan:
            if row.weight and row.reason:
                yield row.path, row.reason

    # -- which channels --------------------------------------------------------------------------------

    def kept_groups(self, sparsity, data, progress):
        """Returns which channel groups to keep: boolean array."""
        cost = ModelCost(self.model, self._liveness, self._settings.target, self._removable.prunable)
        allocation = Allocation(cost, self._liveness, self._sets)
        scores = self._scores(data, progress)
        if self._settings.scope == "global":
            kept = allocation.of_lowest(scores, sparsity)
        else:
            orders = [groups[np.argsort(its, kind="stable")] for groups, its in zip(self._sets, scores)]
            kept = allocation.of_same_fraction(orders, sparsity)
        return self._removable.evened(kept)

    def _scores(self, data, progress):
        errors = self._removal_errors(progress) if self._measures_errors else None
        scores = ChannelScores(self.model, self._settings.criterion, self._plan, self._liveness, errors)
        by_group = scores.by_group(self._inputs, data)
        return [by_group[groups] for groups in self._sets]

    def _removal_errors(self, progress):
        """Returns what the removal of each group adds to the errors of its consumers: float array.

        With the same fraction for every layer, sets that are chosen again need no errors before.
        """
        is_local = self._settings.scope == "local"
        sets = [groups for groups in self._sets if not (is_local and self._only_consumer(groups))]
        found = removal_errors(self.model, self._inputs, sets, self._consumers, self._ridge, progress.advance)
        errors = np.zeros(self._removable.channels.size)
        errors[list(found)] = list(found.values())
        return errors

    def _sweep(self, consumers, done):
        if consumers:
            paths = [consumer.path for consumer in consumers]
            Sweep(self.model, self._inputs, paths).run(consumers, done)

    # -- the refit -------------------------------------------------------------------------------------

    def remove(self, kept, compensate, progress):
        """Takes removed channels out of their consumers. Returns a list of `RefittedLayer`."""
        self._kept = kept.copy()
        self._removable.clear_recurrence(kept)
        rows = []

        def done(consumer):
            rows.append(self._refit(consumer, compensate))
            consumer.forget()
            progress.advance()

        reading = [consumer for consumer in self._consumers.values() if not self._kept[consumer.groups].all()]
        self._sweep(reading, done)
        return rows

    def _refit(self, consumer: Consumer, compensate):
        start = time.monotonic()
        problems = consumer.problems(self._ridge)
        if self._measures_errors:
            self._choose_again(consumer, problems)
        removed = [~self._kept[problem.groups] for problem in problems]
        plain = [problem.without(marks) for problem, marks in zip(problems, removed)]
        fitted = plain
        if compensate is True:
            fitted = [problem.refit(marks) for problem, marks in zip(problems, removed)]
        consumer.write(fitted, problems, fold=bool(compensate))
        consumer.clear(~self._kept[consumer.groups])
        errors = [
            sum(relative(problem.error(weights), problem.scale) for problem, weights in zip(problems, each))
            for each in (plain, fitted)
        ]
        return RefittedLayer(
            path=consumer.path,
            inputs=(len(consumer.groups), int(self._kept[consumer.groups].sum())),
            units=(0, 0),
            error_before=errors[0],
            error_after=errors[1],
            rows=consumer.rows,
            fitted_units=consumer.most_units,
            seconds=time.monotonic() - start,
        )

    def _only_consumer(self, groups):
        """Returns the path of the only layer that consumes a set, or None.

        None also if a grouped convolution needs as many channels of every group, or if a recurrent layer
        reads some of them itself.
        """
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
            removed = int((~self._kept[groups]).sum())
            if removed and self._only_consumer(groups) == consumer.path:
                order = removal_order(problems, groups, removed)
                self._kept[groups] = True
                self._kept[order.groups] = False


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
