"""Growing regularization: a penalty that grows on the channels to be pruned next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tfap.layers.find import find_wrappers
from tfap.regularization.regularizer import NeuronRegularizer
from tfap.schedules import base as schedules
from tfap.training.mask_update import decide_update, groups, pruned_weights
from tfap.utils import checks

if TYPE_CHECKING:
    from tfap.regularization.channel_groups import ChannelGroups, Member
    from tfap.schedules import PruningSchedule

NOT_WRAPPED = (
    "rank_by=\"criterion\" ranks channels by the criterion of tfap.prune, and the model '{name}' has no "
    'pruning wrappers: call tfap.prune(..., granularity="neuron") first, or pass rank_by="norm".'
)
NEEDS_DATA = (
    'rank_by="criterion" needs a criterion without data of its own, such as tfap.ActivationCount or '
    'tfap.Magnitude: received {criterion}. Pass rank_by="norm".'
)
NEEDS_SPARSITY = (
    "sparsity=None takes the final sparsity of the schedule of tfap.prune, but {reason}: pass the sparsity."
)


class GrowingRegularization(NeuronRegularizer):
    """Adds the squares of the weights of the channels to be pruned to the loss, more and more.

    The penalty is `strength / 2 * sum_g norm(w_g)**2` over the chosen groups of coupled channels. At the
    beginning of each epoch it chooses the channels with the lowest rank, up to `sparsity`. Their weights
    decay to zero while those of other channels take over, so pruning costs less than at once.

    Args:
        strength: As in `tfap.NeuronRegularizer`. The largest L2 penalty.
        sparsity: Float in (0, 1). The fraction of channels to choose. With `rank_by="criterion"`, it is the
            sparsity of `tfap.prune`, in its unit, and None takes the sparsity that its schedule has at the
            end of the fit. So does a budget of `tfap.fit_and_compact`.
        rank_by: "norm" ranks the channels of each layer by the root mean square of all weights of their
            group. "criterion" chooses what the criterion of a model from `tfap.prune` would prune next; it
            chooses none until activations have been counted.
        begin_step: As in `tfap.NeuronRegularizer`.
        end_step: As in `tfap.NeuronRegularizer`.
        frequency: As in `tfap.NeuronRegularizer`.
        zero_below: As in `tfap.NeuronRegularizer`.
        skip: As in `tfap.NeuronRegularizer`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of its range. At the beginning of the fit, as for
            `tfap.NeuronRegularizer`, or if `rank_by="criterion"` and the model has no pruning wrappers for
            whole neurons, or the criterion needs data of its own.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> data = {"x": numpy.ones((32, 4)), "y": numpy.ones((32, 1)), "batch_size": 8, "verbose": 0}
    >>> growing = tfap.GrowingRegularization(2.0, sparsity=0.5)
    >>> history = model.fit(**data, epochs=20, callbacks=[growing])
    >>> tfap.compact(model).layers[0].units
    4

    References:
        - Wang et al., *Neural pruning via growing regularization*, ICLR 2021 (arXiv 2012.09243), section 3.2
    """

    squared = True

    def __init__(
        self,
        strength: float | PruningSchedule,
        sparsity: float | None = None,
        rank_by: str = "norm",
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 10,
        zero_below: float = 0.01,
        skip: Iterable[str] = (),
    ) -> None:
        super().__init__(strength, begin_step, end_step, frequency, zero_below, skip)
        self._rank_by = checks.choice("rank_by", rank_by, ("norm", "criterion"))
        self._sparsity = None if sparsity is None else checks.number("sparsity", sparsity)
        if sparsity is None and rank_by == "norm":
            raise ValueError(NEEDS_SPARSITY.format(reason='rank_by="norm" needs no tfap.prune'))
        if self._sparsity is not None and not 0 < self._sparsity < 1:
            raise ValueError(f"sparsity must be between 0 and 1: received {sparsity}.")

    def on_train_begin(self, logs=None):
        if self._rank_by == "criterion":
            wrappers = [found.wrapper for found in find_wrappers(self.model)]
            if not any(wrapper.settings.pattern.couples_neurons for wrapper in wrappers):
                raise ValueError(NOT_WRAPPED.format(name=self.model.name))
            for wrapper in wrappers:
                if wrapper.criterion.needs & {"gradients", "removal_errors"}:
                    raise ValueError(NEEDS_DATA.format(criterion=wrapper.criterion))
                if self._sparsity is None:
                    self._check_schedule(wrapper.pruning_schedule)
        super().on_train_begin(logs)

    def _check_schedule(self, schedule):
        if isinstance(schedule, float):
            return
        if schedules.by_epochs(schedule):
            reason = f"{type(schedule).__name__} decides at the end of epochs"
            raise ValueError(NEEDS_SPARSITY.format(reason=reason))
        if not (self.params or {}).get("steps"):
            raise ValueError(NEEDS_SPARSITY.format(reason="the length of the fit is unknown"))

    def factors(self, groups: ChannelGroups, members: list[Member]) -> np.ndarray:
        by_norm = self._rank_by == "norm"
        return (self._lowest(groups, members) if by_norm else self._next_pruned(groups)).astype(float)

    def _lowest(self, groups, members):
        """Chooses the lowest channels of each layer, of which at least one stays."""
        squares, chosen = groups.mean_squares(members), np.zeros(groups.count, bool)
        for layer in np.unique(groups.layer_of):
            its = np.flatnonzero(groups.layer_of == layer)
            number = min(round(self._sparsity * len(its)), len(its) - 1)
            chosen[its[np.argsort(squares[its], kind="stable")[:number]]] = True
        return chosen

    def _next_pruned(self, channel_groups):
        """Chooses the channels whose kernels lose all weights in a mask update to the sparsity."""
        chosen = np.zeros(channel_groups.count + 1, bool)
        kept = np.zeros_like(chosen)
        for weights in groups(pruned_weights(self.model)):
            counted = weights[0].wrapper.criterion.counts is None or all(
                int(weight.wrapper.activations_seen.numpy()) for weight in weights
            )
            if not counted or not weights[0].wrapper.settings.pattern.couples_neurons:
                continue
            update = decide_update(weights, self._final_sparsity(weights[0].wrapper.pruning_schedule))
            for weight, kernel, mask in zip(update.weights, update.kernels, update.masks, strict=True):
                if not weight.spec.makes_channels:
                    continue
                produced = weight.spec.of_output(channel_groups.of_layer(weight.path), weight.neurons)
                empty = kernel.neuron_sums(mask.astype(np.int64)) == 0
                chosen[produced[empty]] = True
                kept[produced[~empty]] = True
        return (chosen & ~kept)[:-1]

    def _final_sparsity(self, schedule):
        if self._sparsity is not None or isinstance(schedule, float):
            return schedule if self._sparsity is None else self._sparsity
        return float(np.asarray(schedules.evaluate(schedule, self._last_step)[1]))
