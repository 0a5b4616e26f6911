"""Prunes a trained model once, without training, and refits the weights that are kept."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, Literal, overload

from tfap import keras_compat
from tfap.activations import batch_norm
from tfap.activations.recalibration import recalibrate as recalibrated
from tfap.compaction import prune_once_arguments as arguments
from tfap.compaction.allocation import Allocation, allocated_sets, allocation_of
from tfap.compaction.choosing import Choice
from tfap.compaction.compact import compact, compact_to
from tfap.compaction.input_batches import InputBatches
from tfap.compaction.merging import merge_similar
from tfap.compaction.planned_units import PlannedUnits
from tfap.compaction.prune_once_report import PruneOnceReport, RefittedLayer
from tfap.compaction.pruner import Pruner
from tfap.compaction.sensitivity_table import Sensitivity
from tfap.compensation.refit import RIDGE
from tfap.criteria import Criterion
from tfap.graph.calls import Graph, channel_axis
from tfap.graph.flops import flops
from tfap.keras_compat import equality
from tfap.keras_compat.types import Data, Model
from tfap.layers.settings import PruningSettings
from tfap.pruning.plan import LayerSelection
from tfap.utils import checks


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
    goal = arguments.goal_of(sparsity, target, model)
    arguments.check(target, scope, compensate, recalibrate, ridge)
    granularity = arguments.granularity_of(granularity, data, criterion, scope, goal)
    if round_to is not None:
        checks.integer("round_to", round_to)
    # What "allocated" allocates are channels per layer, of which the order is that of "local".
    ranked = scope if scope in ("global", "isomorphic") else "local"
    settings = PruningSettings(0.0, criterion, ranked, granularity, target=target)
    if data is None:
        arguments.check_without_data(criterion, compensate, scope, goal)
        planned = PlannedUnits.of(model, settings, skip)
        merging = merge_similar(model, goal, planned, target, ranked, round_to)
        if not return_report:
            return merging.model
        return merging.model, _report_of_merging(model, merging, planned, start)
    batches = InputBatches(model, data, checks.integer("samples", samples), batch_size)
    planned = PlannedUnits.of(model, settings, skip)
    pruner = Pruner(model, batches, settings, planned, float(ridge))
    choice = Choice(model, pruner.removable, goal, target, ranked, round_to)
    scores = pruner.scores(data)
    sets = _sets_to_allocate(pruner, model, data, batches, scope, goal, compensate)
    choice.losses = None if sets is None else [each.losses for each in sets]
    kept = choice.kept(scores)
    layers = pruner.remove(kept, compensate)
    small, is_recalibrated = _compacted(pruner, batches, choice.round_to, recalibrate)
    choice.finish(small)
    if not return_report:
        return small
    report = _report(
        *(model, small, layers, planned, start),
        samples=batches.samples,
        recalibrated=is_recalibrated,
        budget=choice.result,
        rounded=choice.rounded,
        allocation=_allocation(goal, pruner.removable, kept, sets, choice.result),
    )
    return small, report


def _sets_to_allocate(pruner, model, data, batches, scope, goal, compensate):
    """Returns the coupled sets with the losses of a sensitivity, given or measured. None for other scopes."""
    if isinstance(scope, Sensitivity):
        return allocated_sets(pruner.removable, scope)
    if scope == "allocated" and not isinstance(goal, Allocation):
        return pruner.allocated_sets(model, data, batches, compensate is True)
    return None


def _allocation(goal, removable, kept, sets, result):
    """Returns the allocation that was given or chosen, or None."""
    if sets is None:
        return goal if isinstance(goal, Allocation) else None
    return allocation_of(removable, kept, sets, result)


def _compacted(pruner, batches, round_to, recalibrate):
    """Returns the smaller model, and whether its BatchNormalization statistics were computed anew."""
    if round_to == 1:
        small = compact(pruner.model, data=batches.few())
    else:  # unused channels stay, for the multiples
        small = compact_to(pruner.model, pruner.kept, batches.few())
    if not recalibrate or not batch_norm.normalizations(small):
        return small, False
    return recalibrated(small, batches), True


def _report_of_merging(model, merging, planned, start):
    layers = [
        RefittedLayer(
            layer.path, layer.inputs, (0, 0), layer.error_before, layer.error_after, 0, 0, layer.seconds
        )
        for layer in merging.layers
    ]
    return _report(
        *(model, merging.model, layers, planned, start),
        samples=0,
        recalibrated=False,
        merges=tuple(merging.merges),
        budget=merging.budget,
        rounded=merging.rounded,
    )


def _report(model, small, layers, planned, start, **known):
    return PruneOnceReport(
        layers=tuple(_with_units(layers, model, small)),
        unpruned=tuple(planned.unpruned()),
        weights=(_weight_count(model), _weight_count(small)),
        flops=(_flops(model), _flops(small)),
        seconds=time.monotonic() - start,
        **known,
    )


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
