"""Trains, prunes, and compacts a model in stages, so that training gets faster as neurons are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfap import keras_compat
from tfap.budgets.budget import Budget, is_budget
from tfap.budgets.search import BudgetResult
from tfap.compaction.budget_of_fit import BudgetOfFit
from tfap.compaction.carried_state import rounded_up
from tfap.compaction.compact import compact, compact_to, remove_dead_channels
from tfap.compaction.one_shot import OneShotBatches
from tfap.compaction.silent import check_counted, liveness_of
from tfap.compaction.staged_training import StagedTraining, stage_borders
from tfap.criteria import Criterion
from tfap.graph.liveness import Liveness
from tfap.keras_compat import equality
from tfap.keras_compat.types import Data, Model
from tfap.pruning.plan import LayerSelection
from tfap.pruning.prune import prune, strip_pruning
from tfap.training.callbacks import UpdatePruningStep
from tfap.training.normalization import NormalizationStatistics
from tfap.utils import checks

if TYPE_CHECKING:
    from tfap.schedules import PruningSchedule

_DEFAULT_STAGES = 5
_GENERATED = ("TensorSpec", "RaggedTensorSpec", "SparseTensorSpec")  # by tf.data.Dataset.from_generator


@dataclasses.dataclass(frozen=True, eq=False)
class ShrunkFit:
    """The result of `tfap.fit_and_compact`.

    Attributes:
        model: The trained and compacted model without wrappers, compiled alike, with a fresh optimizer.
        history: Dict of name to a list with one value per epoch, as `History.history` in Keras. `sparsity` is
            a fraction of the weights at the start of the stage. `weights` is the number of weights.
        budget: `BudgetResult`: what the budget asked for, and what the model measures. None without one.
    """

    model: Model
    history: dict[str, list[float]]
    budget: BudgetResult | None = None


def fit_and_compact(
    model: Model,
    pruning_schedule: PruningSchedule | float | Mapping[str, Any],
    *data: Data,
    stages: int | None = None,
    criterion: Criterion | str = "activation_count",
    scope: str = "local",
    include: LayerSelection = (),
    skip: LayerSelection = (),
    min_weights_per_layer: int = 0,
    sample_every: int = 1,
    target: str = "weights",
    gradient_data: Data = None,
    gradient_steps: int | None = None,
    recalibrate: Data = None,
    compensate: Data = None,
    round_to: int | None = None,
    drop_silent: bool = False,
    granularity: str = "neuron",
    teacher: Model | None = None,
    temperature: float = 3.0,
    alpha: float = 0.5,
    **fit_arguments: Any,
) -> ShrunkFit:
    """Trains a model, prunes its neurons or heads, and compacts it after each stage of the training.

    The epochs are divided into stages. After each stage, removable neurons are removed as in `tfap.compact`.
    Training resumes in the smaller model with the same masks, activation counts, steps, and optimizer state.

    Args:
        model: A compiled Sequential or Functional model of either Keras. Unchanged.
        pruning_schedule: A `PruningSchedule`, or the final sparsity: a float in [0, 1). The sparsity is a
            fraction of the weights of the given model, where a neuron counts with its incoming weights. The
            outgoing weights of a pruned neuron are removed too, so the final model is smaller. Or a budget of
            the whole model, such as `{"flops": 0.5}` or `{"speedup": 2.0}`, as in `tfap.prune_once`: the
            final sparsity with which the model meets it is found before the training. It needs
            `scope="local"`.
        *data: `x` and `y`, or other first arguments of `fit()`. The stages go through a generator, or a
            dataset without end, as one fit would. Both need `steps_per_epoch`.
        stages: Integer. Number of times to compact, at least 1. Each stage traces the training step again.
            None is 5, or the number of epochs if that is less.
        criterion: As in `tfap.prune`.
        scope: As in `tfap.prune`, but "local" by default. It prunes the same fraction per layer, so that
            narrow layers do not collapse.
        include: As in `tfap.prune`.
        skip: As in `tfap.prune`.
        min_weights_per_layer: As in `tfap.prune`.
        sample_every: As in `tfap.prune`.
        target: As in `tfap.prune`.
        gradient_data: As in `tfap.UpdatePruningStep`, which this function adds to the callbacks.
        gradient_steps: As in `tfap.UpdatePruningStep`.
        recalibrate: As in `tfap.UpdatePruningStep`, at the end of the last stage.
        compensate: As in `tfap.UpdatePruningStep`.
        round_to: As in `tfap.prune_once`. What a multiple needs is kept when the model is compacted.
        drop_silent: Whether to also remove, after each stage, the ReLU neurons that never fired in the last
            epoch of the stage. They may fire on other inputs, so the outputs may change. It needs a criterion
            that counts every step, such as `tfap.ActivationCount()`.
        granularity: "neuron" prunes neurons and channels; "head", whole heads of attention layers; "unit",
            heads of attention layers and the neurons of all other layers.
        teacher: A model of the same Keras, inputs and output, whose outputs the smaller models learn, such as
            `model` after training. Logits, or probabilities of a softmax. Unchanged. None has no teacher.
        temperature: Float > 0. Both outputs are softened by it, as in `tfap.shrink`.
        alpha: Float in [0, 1]. The loss is alpha times that of the model, plus 1 - alpha times the divergence
            from the outputs of the teacher. On tf_keras, `history` has the loss of the model alone.
        **fit_arguments: Other arguments of `fit()`, such as `epochs` and `callbacks`. Callbacks see one fit
            per stage, with its own `initial_epoch` and `epochs`.

    Returns:
        A `ShrunkFit` with the trained `model` and its `history`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, there are fewer epochs than stages, the model is not compiled, the
            callbacks contain an `UpdatePruningStep`, `validation_data` is a generator, or `tfap.prune` or
            `tfap.UpdatePruningStep` raises, `drop_silent` needs counts that the criterion does not have, or
            the teacher does not fit the model.

    Example:

    >>> import keras, numpy, tfap
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.random.default_rng(0).normal(size=(64, 8)), numpy.zeros(64)
    >>> fit = tfap.fit_and_compact(model, 0.75, x, y, stages=2, epochs=4, verbose=0)
    >>> fit.model.layers[0].units
    8
    """
    last_epoch = checks.integer("epochs", fit_arguments.pop("epochs", 1))
    first_epoch = checks.integer("initial_epoch", fit_arguments.pop("initial_epoch", 0), least=0)
    callbacks = _callbacks(fit_arguments.pop("callbacks", None))
    epochs = last_epoch - first_epoch
    stages = min(_DEFAULT_STAGES, epochs) if stages is None else stages
    checks.choice("granularity", granularity, ("neuron", "head", "unit"))
    _check(model, data, stages, epochs)
    options = {
        **{"criterion": criterion, "scope": scope, "granularity": granularity, "target": target},
        **{"include": include, "skip": skip, "min_weights_per_layer": min_weights_per_layer},
        **{"sample_every": sample_every, "round_to": 1 if round_to is None else round_to},
    }
    goal = None
    if is_budget(pruning_schedule):
        goal = BudgetOfFit(model, Budget.of(pruning_schedule), {**options, "round_to": round_to})
        pruning_schedule, options["round_to"] = goal.sparsity, goal.round_to
    comparison_data = _comparison_data(model, data, fit_arguments)
    statistics = NormalizationStatistics(recalibrate)
    statistics.check(model)
    lesson = _lesson(model, teacher, temperature, alpha)
    training = StagedTraining(
        model=_wrapped(model, pruning_schedule, options, drop_silent),
        pruning_schedule=pruning_schedule,
        options=options,
        borders=stage_borders(first_epoch, epochs, stages),
        data=data,
        batches=_one_shot_batches(model, data, fit_arguments) if stages > 1 else None,
        callbacks=callbacks,
        update={"gradient_data": gradient_data, "gradient_steps": gradient_steps, "compensate": compensate},
        statistics=statistics,
        lesson=lesson,
        drop_silent=drop_silent,
        fit_arguments=fit_arguments,
    )
    _tell_total_epochs(callbacks, last_epoch)
    silent = training.run()
    small = _compacted_at_end(strip_pruning(training.model), silent, options["round_to"], comparison_data)
    return ShrunkFit(small, training.history, None if goal is None else goal.finished(small))


def _compacted_at_end(stripped, counts, round_to, comparison_data):
    if counts is not None:
        liveness = liveness_of(stripped, counts)
        staying = None if round_to == 1 else rounded_up(liveness, round_to)
        stripped = remove_dead_channels(stripped, liveness, staying).model
    if round_to == 1:
        return compact(stripped, data=comparison_data)
    return compact_to(stripped, rounded_up(Liveness(stripped), round_to), comparison_data)


def _callbacks(callbacks):
    callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks else []
    if any(isinstance(callback, UpdatePruningStep) for callback in callbacks):
        raise ValueError("fit_and_compact adds UpdatePruningStep itself: remove it from callbacks.")
    return callbacks


def _check(model, data, stages, epochs):
    if not keras_compat.is_model(model):
        raise TypeError(f"fit_and_compact takes a Keras model: received {type(model).__name__}.")
    if getattr(model, "optimizer", None) is None:
        raise ValueError("fit_and_compact trains the model: call compile() on it first.")
    equality.check_comparable(model)
    if checks.integer("stages", stages) > epochs:
        raise ValueError(
            f"stages must be an integer from 1 to the number of epochs, {epochs}: received {stages!r}."
        )


def _one_shot_batches(model, data, fit_arguments):
    """`OneShotBatches` if each stage must go on in the data where the last one has stopped, else None."""
    if hasattr(fit_arguments.get("validation_data"), "__next__"):
        raise ValueError(
            "validation_data is a one-shot iterator, of which Keras would lose batches between stages: pass "
            "arrays or a re-iterable dataset, or stages=1."
        )
    x = _x(data, fit_arguments)
    is_endless = keras_compat.is_infinite(x)
    if not is_endless and not hasattr(x, "__next__"):
        return None
    if fit_arguments.get("steps_per_epoch") is None:
        raise ValueError(
            "steps_per_epoch must be an integer >= 1 for a generator or an endless dataset, whose length is "
            "unknown: received None."
        )
    checks.integer("steps_per_epoch", fit_arguments["steps_per_epoch"])
    if not is_endless:
        return OneShotBatches(model, x)
    if not all(type(spec).__name__ in _GENERATED for spec in keras_compat.tree.flatten(x.element_spec)):
        return None
    return OneShotBatches(model, iter(x), x.element_spec)


def _x(data, fit_arguments):
    return data[0] if data else fit_arguments.get("x")


def _comparison_data(model, data, fit_arguments):
    """The first training samples for `tfap.compact`, if they are arrays; None if random inputs will do.

    Raises:
        ValueError: If the result could not be checked.
    """
    try:
        with keras_compat.unchanged(model):
            equality.comparison_inputs(model)
        return None
    except ValueError:
        x = _x(data, fit_arguments)
        if not hasattr(x, "__array__"):
            raise
        return np.asarray(x[: equality.SAMPLES])


def _wrapped(model, pruning_schedule, options, drop_silent):
    wrapped = prune(model, pruning_schedule, **options)
    if getattr(wrapped, "optimizer", None) is None:
        raise ValueError(
            "fit_and_compact needs the settings of compile(), which cannot be copied: the warning above says "
            "why."
        )
    if drop_silent:
        check_counted(wrapped)
    return wrapped


def _lesson(model, teacher, temperature, alpha):
    """Returns a function that makes a model learn from the teacher in its `fit`."""
    if checks.number("temperature", temperature) <= 0:
        raise ValueError(f"temperature must be a number > 0: received {temperature}.")
    if not 0 <= checks.number("alpha", alpha) <= 1:
        raise ValueError(f"alpha must be in [0, 1]: received {alpha}.")
    if teacher is None:
        return lambda student: None
    return keras_compat.Lesson(model, teacher, temperature, alpha).give


def _tell_total_epochs(callbacks, epochs):
    """Tells callbacks such as `tfap.GroupLasso`, which see the epochs of one stage only."""
    for callback in callbacks:
        if hasattr(callback, "set_total_epochs"):
            callback.set_total_epochs(epochs)
