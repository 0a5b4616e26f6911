"""Training that gets cheaper as neurons die: prune, compact, train on in the smaller model."""

import dataclasses
import math
import numbers

import numpy as np
from absl import logging

from tfap import keras_compat, schedules
from tfap.compaction.compact import compact, smaller
from tfap.graph import liveness
from tfap.graph.calls import Graph, unwrap
from tfap.graph.kernel import neuron_count
from tfap.keras_compat import equality
from tfap.layers.find import is_pruning_wrapper
from tfap.pruning.prune import prune, strip_pruning
from tfap.schedules.timetable import Rescaled, RescaledIntervals
from tfap.training import mask_update
from tfap.training.callbacks import UpdatePruningStep
from tfap.utils import checks


@dataclasses.dataclass(frozen=True, eq=False)
class ShrunkFit:
    """What `fit_and_compact` gives back.

    Attributes:
        model: the trained, plain and compacted model, compiled like the given one.
        history: `{name: one value an epoch}`, as `History.history`; `sparsity` is the share of the
            weights that the stage began with, and `weights` what the model had in that epoch.
    """

    model: object
    history: dict


def fit_and_compact(
    model,
    pruning_schedule,
    *data,
    stages=None,
    criterion="activation_count",
    scope="local",
    include=(),
    skip=(),
    min_weights_per_layer=0,
    sample_every=1,
    target="weights",
    gradient_data=None,
    gradient_steps=None,
    **fit_arguments,
):
    """Trains a model while it prunes whole neurons, and goes on in a smaller model several times.

    The epochs are divided into stages. After each, the dead neurons are removed as by `tfap.compact`, and
    training goes on in the smaller model with the same masks, activation counts, steps and optimizer state,
    so that its steps get cheaper.

    Args:
        model: a compiled Sequential or Functional model of either Keras. It is not changed.
        pruning_schedule: as in `tfap.prune`. Its sparsities are shares of the given model's weights, a
            neuron counting with its incoming ones; the outgoing ones go too, so the model ends smaller.
        *data: `x` and `y`, or what else `fit` takes first.
        stages: how often to compact, at least 1; each time costs tracing the training step anew. None is 5,
            or the number of epochs if that is less.
        scope: as in `tfap.prune`, but "local" by itself: every layer loses the same share, which keeps narrow
            layers from collapsing.
        criterion, include, skip, min_weights_per_layer, sample_every, target: as in `tfap.prune`.
        gradient_data, gradient_steps: as in `tfap.UpdatePruningStep`, which comes by itself here.
        **fit_arguments: everything else for `fit`, such as `epochs` and `callbacks`. Callbacks see a fit for
            each stage, with `epochs` and `initial_epoch` of that stage.

    Returns:
        A `ShrunkFit`. Its model has a fresh optimizer.

    Raises:
        ValueError: fewer epochs than stages, a model that is not compiled, or an `UpdatePruningStep` among
            the callbacks. And what `tfap.prune` and `tfap.UpdatePruningStep` raise.

    >>> import keras, numpy, tfap
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)]
    ... )
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.random.default_rng(0).normal(size=(64, 8)), numpy.zeros(64)
    >>> fit = tfap.fit_and_compact(model, 0.75, x, y, stages=2, epochs=4, verbose=0)
    >>> fit.model.layers[0].units
    8
    """
    epochs = checks.whole("epochs", fit_arguments.pop("epochs", 1))
    first = checks.whole("initial_epoch", fit_arguments.pop("initial_epoch", 0), least=0)
    callbacks = _callbacks(fit_arguments.pop("callbacks", None))
    stages = min(5, epochs - first) if stages is None else stages
    _check(model, stages, epochs - first)
    options = {
        "criterion": criterion,
        "scope": scope,
        "granularity": "neuron",
        "include": include,
        "skip": skip,
        "min_weights_per_layer": min_weights_per_layer,
        "sample_every": sample_every,
        "target": target,
    }
    current = prune(model, pruning_schedule, **options)
    if getattr(current, "optimizer", None) is None:
        raise ValueError(
            "The settings of compile() cannot be copied, as a warning above says: fit_and_compact needs them."
        )
    whole, history = _cost(current), {}
    gradients = {"gradient_data": gradient_data, "gradient_steps": gradient_steps}
    ends = first + np.round(np.arange(1, stages + 1) * (epochs - first) / stages).astype(int)
    for begin, end in zip([first, *ends], ends):
        pruning = _UpdateRescaled(whole / _cost(current), epochs - first, **gradients)
        fitted = current.fit(
            *data,
            initial_epoch=int(begin),
            epochs=int(end),
            callbacks=[pruning, *callbacks],
            **fit_arguments,
        )
        _extend(history, fitted.history, _weights(current))
        if end == epochs or current.stop_training:
            break
        current = _continued(current, pruning_schedule, options)
    return ShrunkFit(compact(strip_pruning(current)), history)


class _UpdateRescaled(UpdatePruningStep):
    """Prunes by a schedule that means the model as it was given, spread over all stages."""

    def __init__(self, times_smaller, epochs, **gradients):
        super().__init__(**gradients)
        self._times_smaller = times_smaller
        self._epochs = epochs

    def _schedule_of(self, wrapper, before):
        schedule = wrapper.pruning_schedule
        if isinstance(schedule, float):
            schedule = schedules.over_fit(schedule, self._epochs * self.params["steps"])
        kind = RescaledIntervals if schedules.by_epochs(schedule) else Rescaled
        return kind(schedule, self._times_smaller)

    def _check_fit_length(self):
        if not (self.params or {}).get("steps"):
            raise ValueError(
                "A float as the pruning schedule is spread over the fit, whose length is unknown here: pass "
                "steps_per_epoch, or a schedule in steps such as tfap.PolynomialDecay(...)."
            )

    def _warn_of_missing_updates(self):
        """A stage may well prune nothing."""


def _callbacks(given):
    callbacks = list(given) if isinstance(given, list | tuple) else [given] if given else []
    if any(isinstance(callback, UpdatePruningStep) for callback in callbacks):
        raise ValueError("fit_and_compact adds UpdatePruningStep itself: leave it out of callbacks.")
    return callbacks


def _check(model, stages, epochs):
    if not keras_compat.is_model(model):
        raise TypeError(f"fit_and_compact takes a Keras model: received {type(model).__name__}.")
    if getattr(model, "optimizer", None) is None:
        raise ValueError("fit_and_compact trains the model: call compile() on it first.")
    equality.check_comparable(model)
    if isinstance(stages, bool) or not isinstance(stages, numbers.Integral) or not 1 <= stages <= epochs:
        raise ValueError(
            f"stages must be a whole number from 1 to the number of epochs, {epochs}: received {stages!r}."
        )


def _cost(model):
    """What the prunable weights cost in the unit of the target."""
    return sum(weight.whole_cost for weight in mask_update.pruned_weights(model))


def _weights(model):
    """How many weights the model itself has, without those of the wrappers."""
    layers = [unwrap(layer) for _, layer in Graph(model).layers()]
    return sum(math.prod(weight.shape) for layer in layers for weight in keras_compat.weights_of(layer))


def _extend(history, more, weights):
    epochs = len(next(iter(more.values()), []))
    for name, values in {**more, "weights": [weights] * epochs}.items():
        history.setdefault(name, []).extend(values)


# -- the same training in a smaller model ------------------------------------------------------------


def _continued(trained, pruning_schedule, options):
    """The wrapped model without its dead neurons, in the same state of training."""
    plain = strip_pruning(trained)
    cut = smaller(plain, liveness.Liveness(plain))
    current = prune(cut.model, pruning_schedule, **options)
    _carry_pruning(trained, current, cut)
    try:
        _carry_optimizer(trained, current, cut)
    except TypeError as error:
        logging.warning("The smaller model's optimizer begins anew: %s.", error)
    _carry_seeds(trained, current)
    return current


def _carry_pruning(trained, current, cut):
    old = dict(Graph(trained).layers())
    for path, layer in Graph(current).layers():
        if keras_compat.is_tfap_wrapper(layer) and keras_compat.is_tfap_wrapper(old.get(path)):
            _carry_counts(old[path], layer, path, cut)
            if is_pruning_wrapper(layer) and is_pruning_wrapper(old[path]):
                layer.last_update_step.assign(old[path].last_update_step.numpy())
                layer.updates_made.assign(old[path].updates_made.numpy())
                _carry_masks(old[path], layer, path, cut)
                _carry_memory(old[path], layer, path, cut)


def _carry_counts(old, new, path, cut):
    new.pruning_step.assign(old.pruning_step.numpy())
    counts = old.own_counts()
    if counts is None:
        return
    new.set_counts(counts[_counted_that_stay(new, path, cut, len(counts.counts))])


def _carry_memory(old, new, path, cut):
    if old.remembers:
        new.carry_memory(old, _counted_that_stay(new, path, cut, len(old.counted().counts)))


def _counted_that_stay(wrapper, path, cut, count):
    """bool array: which of the neurons that are counted for a layer stay."""
    by_input = getattr(wrapper, "criterion", None) and wrapper.criterion.counts == "input"
    side = cut.inputs if by_input else cut.channels
    return side.get(path, np.ones(count, bool))


def _carry_masks(old, new, path, cut):
    for (spec, kernel, mask), (_, _, new_mask) in zip(old.kernel_and_mask(), new.kernel_and_mask()):
        # A neuron goes on costing what it cost in the given model, also with fewer inputs.
        fan_in, new_fan_in = (
            math.prod(part.shape) // neuron_count(spec, part.shape) for part in (mask, new_mask)
        )
        new.fan_in_scale[spec.name] = old.fan_in_scale.get(spec.name, 1.0) * fan_in / new_fan_in
        at = next(at for at, weight in enumerate(old.layer.weights) if weight is kernel)
        new_mask.assign(_cut(mask.numpy(), path, at, cut))


def _cut(values, path, at, cut):
    """What stays of an array of the shape of a layer's weight number `at`."""
    return values.ravel()[cut.weights[path][at]] if path in cut.weights else values


def _carry_optimizer(trained, current, cut):
    names = _names(trained)
    old = {}
    for variable, index, slot in keras_compat.optimizer_slots(trained):
        old[None if index is None else names[index], slot] = variable.numpy()
    names = _names(current)
    for variable, index, slot in keras_compat.optimizer_slots(current):
        name = None if index is None else names[index]
        if (name, slot) not in old:
            continue  # of a bias that compaction has added
        value = old[name, slot] if name is None else _cut(old[name, slot], *name, cut)
        if value.shape == tuple(variable.shape):
            variable.assign(value)


def _names(model):
    """`(path, index among the layer's weights)` of every trainable variable, in order."""
    named = {
        id(weight): (path, at)
        for path, layer in Graph(model).layers()
        if keras_compat.is_layer(layer)
        for at, weight in enumerate(unwrap(layer).weights)
    }
    return [named.get(id(variable), ("", at)) for at, variable in enumerate(model.trainable_variables)]


def _carry_seeds(trained, current):
    old, new = keras_compat.SeedStates(trained), keras_compat.SeedStates(current)
    if old and len(old) == len(new):
        new.write(old.read())
