"""Shrinks a trained model to a budget, in one call."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import check_repeatable
from tfap.budgets.budget import Budget
from tfap.compaction.channel_scores import check_labeled
from tfap.compaction.choosing import Choice
from tfap.compaction.input_batches import InputBatches, is_labeled
from tfap.compaction.planned_units import PlannedUnits
from tfap.compaction.removable import RemovableChannels
from tfap.compaction.sensitivity import RATES, Options, fingerprint
from tfap.compensation.refit import RIDGE
from tfap.criteria import Criterion
from tfap.keras_compat import equality
from tfap.keras_compat.types import Data, Model
from tfap.pruning.plan import LayerSelection
from tfap.reporting.labeled import read_labeled
from tfap.shrinking.result import ShrinkResult
from tfap.shrinking.stages import Stages
from tfap.shrinking.store import StageStore
from tfap.shrinking.targets import Targets, use_of
from tfap.utils import checks

_SCOPES = ("allocated", "local", "global", "isomorphic")
_STAGES = 4


def shrink(
    model: Model,
    data: Data,
    budget: Budget | Mapping[str, Any],
    fit: Callable[[Any], Any] | None = None,
    max_drop: float | None = None,
    validation: Data = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    teacher: bool = False,
    stages: int | None = None,
    round_to: int | None = None,
    metric: Callable[[Any, Any], float] | None = None,
    criterion: Criterion | str = "reconstruction",
    scope: str = "allocated",
    rates: Sequence[float] = RATES,
    samples: int = 2048,
    batch_size: int = 32,
    skip: LayerSelection = (),
    ridge: float = RIDGE,
    seed: int = 0,
) -> ShrinkResult:
    """Makes a trained model as small or as fast as a budget asks for.

    It measures how much the outputs bear of each layer (`tfap.sensitivity`), allocates the budget
    (`tfap.allocate`), and prunes and refits the model (`tfap.prune_once`). With `fit`, this is done in stages
    with training after each: the model shrinks by the same factor per stage.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        data: Inputs to measure and refit on, as in `tfap.prune_once`. A few hundred suffice.
        budget: Dict such as `{"flops": 0.5}`, `{"weights": 50_000}`, `{"bytes": 300_000}`,
            `{"latency_ms": 2.0}` or `{"speedup": 2.0, "runtime": "onnx"}`, as in `tfap.prune_once`. It is the
            budget of the model at the end, relative to the given one.
        fit: Function of a compiled model that trains it for a few epochs. The compile settings are those of
            the given model, with a fresh optimizer. None does not train.
        max_drop: Float >= 0. The largest loss of the metric: 0.01 is one percentage point of accuracy. The
            smallest model that loses at most as much is returned. Without `fit`, it is searched for by
            bisection; with `fit`, the first stage that loses more is the last. None has no limit.
        validation: Samples `(x, y)` on which to compute the metric, as `data` in `tfap.report`. None uses
            `data` if it is `(x, y)`, and else there is no metric.
        directory: Folder in which to store each finished stage. A second call with the same arguments resumes
            after the last one, also after an interruption, and ends with the same model. tfap cannot detect
            changes to functions. None stores nothing.
        teacher: Boolean. Whether to train with the given model as the teacher: `fit` gets a
            `keras.distillation.Distiller`, on tf_keras a model with the same loss, which trains the smaller
            model. The loss is half that of the model, and half the divergence from the teacher's outputs at a
            temperature of 3.
        stages: Integer >= 1. Number of stages with `fit`, or of models to try for `max_drop` without. None
            for 4, or for 1 if neither is given.
        round_to: Integer >= 1. Layers keep a multiple of so many channels, as in `tfap.prune_once`.
        metric: Function of `(y, outputs)` that returns a number; larger is better. None for the accuracy.
        criterion: As in `tfap.prune_once`.
        scope: "allocated", or "local", "global" or "isomorphic" as in `tfap.prune_once`, which measure no
            sensitivity.
        rates: As in `tfap.sensitivity`.
        samples: As in `tfap.prune_once`.
        batch_size: As in `tfap.prune_once`.
        skip: As in `tfap.prune_once`.
        ridge: As in `tfap.prune_once`.
        seed: Integer >= 0. Seeds of both Kerases, NumPy, and Python are set from it before each stage.

    Returns:
        A `ShrinkResult`: the `model`, its `stages` with their figures, a `report` that compares it with the
        given model, and a `verdict`. It prints as a table.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid; if the budget cannot be met, with the least that can be asked for;
            if the data does not fit; or if the folder is of another call. All are raised before any stage.
        ImportError: If the runtime of the budget is not installed.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.layers.Dense(32, "relu", name="hidden"), keras.layers.Dense(3, "softmax")]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = numpy.random.default_rng(0).normal(size=(256, 8)), numpy.arange(256) % 3
    >>> def fit(model):
    ...     model.fit(x, y, epochs=1, verbose=0)
    >>> result = tfap.shrink(model, (x, y), {"weights": 0.5}, fit, stages=2)
    >>> [stage.weights for stage in result.stages]
    [387, 267, 183]
    >>> result.meets_budget, result.model.count_params()
    (True, 183)

    References:
        - Frantar et al., *SPDY*, ICML 2022 (arXiv 2201.13096), for the search by a table of losses
        - Hinton et al., *Distilling the knowledge in a neural network*, 2015 (arXiv 1503.02531)
    """
    keras_compat.check_plain(model, "tfap.shrink")
    equality.check_comparable(model)
    wanted = Budget.of(budget)
    count = _check_arguments(model, fit, max_drop, teacher, stages, scope, metric, seed)
    check_repeatable("data", data, "stage")
    options = Options.checked(rates, (True,), criterion, samples, ridge)
    check_labeled(options.pruning.criterion, data)
    labeled = _labeled(model, data, validation, max_drop, metric)
    planned = PlannedUnits.of(model, options.pruning, skip)
    pruning = _arguments_of_stages(criterion, scope, options, batch_size, planned, round_to)
    described = {
        **{name: str(value) for name, value in pruning.items()},
        **{"budget": str(wanted), "fit": fit is not None, "max_drop": max_drop, "teacher": teacher},
        **{"stages": count, "metric": _metric_name(labeled, metric), "rates": options.rates},
        **{"seed": int(seed), **_fingerprints(model, data, labeled, options, batch_size)},
    }
    removable = RemovableChannels(model, planned)
    store = StageStore(directory, described, model)
    given = store.stage(0)
    if given is None:
        store.check()
        Choice(model, removable, wanted, round_to=round_to)  # raises if the budget cannot be met
    targets = Targets.of(wanted, use_of(model, wanted) if given is None else given.used)
    made = Stages(
        *(model, data, targets, fit, labeled, metric, max_drop, teacher, int(seed), store),
        pruning=pruning,
        rates=options.rates,
    )
    found = made.run(count)
    chosen = max((stage for stage in found if stage.is_accepted), key=lambda stage: stage.part).number
    unit = "ms" if wanted.is_timed else wanted.unit
    return ShrinkResult(
        *(store.model(chosen), tuple(found), str(wanted), unit, targets.limit),
        *(_metric_name(labeled, metric), max_drop, chosen, model, labeled, metric),
    )


def _arguments_of_stages(criterion, scope, options, batch_size, planned, round_to):
    """Returns the arguments of `prune_once` that are the same in all stages."""
    return {
        "criterion": criterion,
        "scope": scope,
        "samples": options.samples,
        "batch_size": checks.integer("batch_size", batch_size),
        "skip": planned.skipped(),  # also in models of later stages
        "granularity": options.pruning.granularity,
        "ridge": options.ridge,
        "round_to": None if round_to is None else checks.integer("round_to", round_to),
    }


def _fingerprints(model, data, labeled, options, batch_size):
    """Returns strings that change with the model and the data."""
    inputs = InputBatches(model, data, options.samples, batch_size).arrays()
    labels = [] if labeled is None else keras_compat.tree.flatten(labeled[1])
    validation = [] if labeled is None else labeled[0]
    return {
        "weights": fingerprint(model.get_weights()),
        "inputs": fingerprint(inputs),
        "validation": fingerprint([*validation, *map(np.asarray, labels)]),
    }


def _check_arguments(model, fit, max_drop, teacher, stages, scope, metric, seed):
    """Returns the number of stages."""
    checks.choice("scope", scope, _SCOPES)
    checks.choice("teacher", teacher, (True, False))
    checks.integer("seed", seed, least=0)
    for name, value in (("fit", fit), ("metric", metric)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function or None: received {value!r}.")
    if max_drop is not None and checks.number("max_drop", max_drop) < 0:
        raise ValueError(f"max_drop must be a number >= 0: received {max_drop}.")
    if fit is not None and not keras_compat.is_compiled(model):
        raise ValueError(
            "fit gets a model that is compiled like the given one, and that is not compiled: call compile() "
            "first."
        )
    if teacher:
        reason = "fit is None" if fit is None else keras_compat.why_not_distilled(model)
        if reason:
            raise ValueError(f"teacher=True trains the smaller models with a teacher, but {reason}.")
    if stages is None:
        return 1 if fit is None and max_drop is None else _STAGES
    if checks.integer("stages", stages) > 1 and fit is None and max_drop is None:
        raise ValueError(
            f"stages are for fit or max_drop: received stages={stages} and neither of them. Leave it out."
        )
    return int(stages)


def _labeled(model, data, validation, max_drop, metric):
    """Returns `(inputs, labels)` for the metric, or None without labels."""
    names = [spec.name for spec in keras_compat.inputs_of(model)]
    if validation is None and is_labeled(model, data):
        validation = tuple(data[:2])
    if validation is None:
        if max_drop is not None or metric is not None:
            name = "max_drop" if max_drop is not None else "metric"
            raise ValueError(f"{name} needs labels: pass validation=(x, y), or data=(x, y).")
        return None
    inputs, labels = read_labeled(validation, names)
    sizes = {len(array) for array in [*inputs, *map(np.asarray, keras_compat.tree.flatten(labels))]}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"validation must have as many labels as samples, and at least one: received {sorted(sizes)}."
        )
    return inputs, labels


def _metric_name(labeled, metric):
    if labeled is None:
        return None
    return "accuracy" if metric is None else getattr(metric, "__name__", "metric")
