"""Trains, prunes, and compacts a model in stages, so that training gets faster as neurons are removed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from tfap import keras_compat, schedules
from tfap.budgets.budget import Budget, is_budget
from tfap.budgets.rounding import Rounding
from tfap.budgets.search import BudgetResult
from tfap.compaction.budget_of_fit import BudgetOfFit
from tfap.compaction.compact import compact, compact_to, kept_groups, remove_dead_channels
from tfap.compaction.one_shot import OneShotBatches
from tfap.criteria import Criterion
from tfap.graph.calls import Graph, unwrap
from tfap.graph.evening import evened
from tfap.graph.kernel import neuron_count
from tfap.graph.liveness import Liveness
from tfap.keras_compat import equality
from tfap.keras_compat.types import Data, Model
from tfap.layers.find import is_pruning_wrapper
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
    **fit_arguments: Any,
) -> ShrunkFit:
    """Trains a model, prunes its neurons, and compacts it after each stage of the training.

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
        **fit_arguments: Other arguments of `fit()`, such as `epochs` and `callbacks`. Callbacks see one fit
            per stage, with its own `initial_epoch` and `epochs`.

    Returns:
        A `ShrunkFit` with the trained `model` and its `history`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid, there are fewer epochs than stages, the model is not compiled, the
            callbacks contain an `UpdatePruningStep`, `validation_data` is a generator, or `tfap.prune` or
            `tfap.UpdatePruningStep` raises.

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
    _check(model, data, stages, epochs)
    budget = Budget.of(pruning_schedule) if is_budget(pruning_schedule) else None
    options = {
        "criterion": criterion,
        "scope": scope,
        "granularity": "neuron",
        "include": include,
        "skip": skip,
        "min_weights_per_layer": min_weights_per_layer,
        "sample_every": sample_every,
        "target": target,
        "round_to": 1 if round_to is None else round_to,
    }
    update = {
        "gradient_data": gradient_data,
        "gradient_steps": gradient_steps,
        "compensate": compensate,
    }
    goal = None
    if budget is not None:
        goal = BudgetOfFit(model, budget, {**options, "round_to": round_to})
        pruning_schedule, options["round_to"] = goal.sparsity, goal.round_to
    comparison_data = _comparison_data(model, data, fit_arguments)
    statistics = NormalizationStatistics(recalibrate)
    statistics.check(model)
    wrapped: Any = _wrapped(model, pruning_schedule, options)
    batches = _one_shot_batches(model, data, fit_arguments) if stages > 1 else None
    history: dict[str, list[float]] = {}
    for stage_begin, stage_end in itertools.pairwise(_stage_borders(first_epoch, epochs, stages)):
        pruning = _UpdateOfStage(epochs, batches, statistics, **update)
        stage_arguments = {"initial_epoch": stage_begin, "epochs": stage_end, **fit_arguments}
        stage_data = data
        if batches is not None:
            steps = stage_arguments["steps_per_epoch"] * (stage_end - stage_begin)
            stage_arguments.pop("x", None)
            stage_arguments["shuffle"] = False  # Keras 3 warns that it does not shuffle a dataset
            stage_data = (batches.stage(steps), *data[1:])
        stage = wrapped.fit(*stage_data, callbacks=[pruning, *callbacks], **stage_arguments)
        _extend(history, stage.history, _weight_count(wrapped))
        if stage_end == last_epoch or wrapped.stop_training:
            break
        if batches is not None and batches.have_ended():
            logging.warning("The data ended after %d of %d epochs: training stops.", stage_end, last_epoch)
            break
        wrapped = _compacted(wrapped, pruning_schedule, options)
    statistics.end(wrapped, pruning.step)
    small = _compacted_at_end(strip_pruning(wrapped), options["round_to"], comparison_data)
    return ShrunkFit(small, history, None if goal is None else goal.finished(small))


def _compacted_at_end(stripped, round_to, comparison_data):
    if round_to == 1:
        return compact(stripped, data=comparison_data)
    return compact_to(stripped, _rounded_up(Liveness(stripped), round_to), comparison_data)


def _rounded_up(liveness, round_to):
    """Returns the channel groups that stay so that layers keep multiples: a boolean array."""
    rounding = Rounding(liveness, round_to, lambda kept: evened(liveness, kept))
    return rounding.applied(kept_groups(liveness), np.zeros(liveness.channels.size))


class _UpdateOfStage(UpdatePruningStep):
    """Prunes by a schedule that covers all stages."""

    def __init__(self, epochs, batches, statistics, **update):
        super().__init__(**update)
        self._epochs, self._batches_of_stage = epochs, batches
        self._statistics = statistics  # the same for all stages

    @property
    def step(self):
        return self._step

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self._batches_of_stage is not None:
            self._batches_of_stage.begin_training()

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


def _wrapped(model, pruning_schedule, options):
    wrapped = prune(model, pruning_schedule, **options)
    if getattr(wrapped, "optimizer", None) is None:
        raise ValueError(
            "fit_and_compact needs the settings of compile(), which cannot be copied: the warning above says "
            "why."
        )
    return wrapped


def _stage_borders(first_epoch, epochs, stages):
    """Epochs at which the stages begin, and the last epoch."""
    return [first_epoch + int(np.round(stage * epochs / stages)) for stage in range(stages + 1)]


def _weight_count(model):
    """Number of weights of the model without those of the wrappers."""
    layers = [unwrap(layer) for _, layer in Graph(model).layers()]
    return sum(math.prod(weight.shape) for layer in layers for weight in keras_compat.weights_of(layer))


def _extend(history, stage_history, weight_count):
    epochs = len(next(iter(stage_history.values()), []))
    for name, values in {**stage_history, "weights": [weight_count] * epochs}.items():
        history.setdefault(name, []).extend(values)


# -- the state of the training in a smaller model ----------------------------------------------------


def _compacted(trained, pruning_schedule, options):
    """The wrapped model without its dead neurons, in the same state of training."""
    stripped = strip_pruning(trained)
    liveness, round_to = Liveness(stripped), options["round_to"]
    staying = None if round_to == 1 else _rounded_up(liveness, round_to)
    compaction = remove_dead_channels(stripped, liveness, staying)
    wrapped = prune(compaction.model, pruning_schedule, **options)
    _copy_pruning_state(trained, wrapped, compaction)
    try:
        _copy_optimizer_state(trained, wrapped, compaction)
    except TypeError as error:
        logging.warning("The optimizer of the compacted model is reset: %s.", error)
    _copy_seeds(trained, wrapped)
    return wrapped


def _copy_pruning_state(trained, compacted, compaction):
    old_layers = dict(Graph(trained).layers())
    for path, new in Graph(compacted).layers():
        old = old_layers.get(path)
        if keras_compat.is_tfap_wrapper(new) and keras_compat.is_tfap_wrapper(old):
            _copy_counts(old, new, path, compaction)
            if is_pruning_wrapper(new) and is_pruning_wrapper(old):
                new.last_update_step.assign(old.last_update_step.numpy())
                new.updates_made.assign(old.updates_made.numpy())
                _copy_masks(old, new, path, compaction)
                _copy_memory(old, new, path, compaction)


def _copy_counts(old, new, path, compaction):
    new.pruning_step.assign(old.pruning_step.numpy())
    counts = old.own_counts()
    if counts is None:
        return
    new.set_counts(counts[_kept_neurons(new, path, compaction, len(counts.counts))])


def _copy_memory(old, new, path, compaction):
    if old.remembers:
        new.carry_memory(old, _kept_neurons(new, path, compaction, len(old.counted().counts)))


def _kept_neurons(wrapper, path, compaction, count):
    """Bool array of the counted neurons of a layer that compaction kept."""
    counts_inputs = getattr(wrapper, "criterion", None) and wrapper.criterion.counts == "input"
    kept = compaction.inputs if counts_inputs else compaction.channels
    return kept.get(path, np.ones(count, bool))


def _copy_masks(old, new, path, compaction):
    for (spec, kernel, mask), (_, _, new_mask) in zip(old.kernel_and_mask(), new.kernel_and_mask()):
        # A neuron keeps the cost that it had in the given model, although it has fewer inputs.
        fan_in, new_fan_in = (
            math.prod(array.shape) // neuron_count(spec, array.shape) for array in (mask, new_mask)
        )
        new.fan_in_scale[spec.name] = old.fan_in_scale.get(spec.name, 1.0) * fan_in / new_fan_in
        sizes = math.prod(mask.shape), neuron_count(spec, mask.shape)
        new.dense_sizes[spec.name] = old.dense_sizes.get(spec.name, sizes)
        index = next(index for index, weight in enumerate(old.layer.weights) if weight is kernel)
        new_mask.assign(_kept_values(mask.numpy(), path, index, compaction))
    new.zero_biases()


def _kept_values(values, path, index, compaction):
    """The kept part of an array that has the shape of a layer's weight with this index."""
    return values.ravel()[compaction.weights[path][index]] if path in compaction.weights else values


def _copy_optimizer_state(trained, compacted, compaction):
    variable_keys = _trainable_variable_keys(trained)
    old_values = {}
    for variable, index, slot in keras_compat.optimizer_slots(trained):
        old_values[None if index is None else variable_keys[index], slot] = variable.numpy()
    variable_keys = _trainable_variable_keys(compacted)
    for variable, index, slot in keras_compat.optimizer_slots(compacted):
        key = None if index is None else variable_keys[index]
        if (key, slot) not in old_values:
            continue  # the slot of a bias that compaction added
        value = old_values[key, slot]
        if key is not None:
            value = _kept_values(value, *key, compaction)
        if value.shape == tuple(variable.shape):
            variable.assign(value)


def _trainable_variable_keys(model):
    """`(path, index among the layer's weights)` of every trainable variable, in order."""
    keys = {
        id(weight): (path, index)
        for path, layer in Graph(model).layers()
        if keras_compat.is_layer(layer)
        for index, weight in enumerate(unwrap(layer).weights)
    }
    return [keys.get(id(variable), ("", index)) for index, variable in enumerate(model.trainable_variables)]


def _copy_seeds(trained, compacted):
    old_states, new_states = keras_compat.SeedStates(trained), keras_compat.SeedStates(compacted)
    if old_states and len(old_states) == len(new_states):
        new_states.write(old_states.read())
