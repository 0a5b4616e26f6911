"""Demon pruning: a cycle of regularization and noise that make neurons die, which are then removed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import check_repeatable
from tfap.activations.measure import measure_activations
from tfap.regularization.channel_groups import ChannelGroups, Member, Role
from tfap.regularization.regularizer import NeuronRegularizer, weights_of_roles
from tfap.regularization.strength import Strength
from tfap.training.epoch_counts import EpochCounts
from tfap.utils import checks

if TYPE_CHECKING:
    from tfap.schedules import PruningSchedule


class DemonPruning(NeuronRegularizer):
    """Lets neurons die by a cycle of regularization, and by noise on the weights of live neurons.

    The penalty is `strength * sum_g sqrt(n_g) * norm(w_g)`. Of channels with a normalization layer, w_g has
    the scales only; of others, the kernels and biases that produce them. The strength rises linearly to its
    largest value at `peak` and falls back to 0 by a half cosine, so that the model recovers.

    Normal noise is added to the kernels of live channels, every `frequency` steps as much as in so many
    single ones. It is proportional to the learning rate, so that a decay of the rate lets the model settle. A
    channel is live unless it never fired in the epoch before, and in the first epoch of a fit, also of one
    that resumes. Dead ones get no noise, so they stay dead.
    Weights that are exactly zero, such as pruned ones, get none either, nor do frozen layers.

    A fit cannot remove neurons. Use it in `tfap.fit_and_compact(..., drop_silent=True)`, which removes the
    neurons that never fired in the last epoch of each stage, or call `tfap.compact(..., drop_silent=True)`
    after the fit.

    Args:
        strength: As in `tfap.NeuronRegularizer`. A float is the largest strength of the cycle.
        noise: Float >= 0. The standard deviation of the noise on a weight in one training step, as a multiple
            of the learning rate.
        peak: Float in (0, 1). The fraction of the cycle at which the strength is largest.
        data: Inputs as in `tfap.measure_activations`, which can be iterated repeatedly. Live channels are
            those that fire on it, measured at the end of each epoch. None uses the activation counts of a
            model from `tfap.prune`; without them, all channels are live.
        seed: Integer >= 0. Seed of the noise.
        begin_step: As in `tfap.NeuronRegularizer`. The cycle begins here, the noise with the fit.
        end_step: As in `tfap.NeuronRegularizer`. The cycle ends here, the noise with the fit.
        frequency: As in `tfap.NeuronRegularizer`. Noise is added as often.
        zero_below: As in `tfap.NeuronRegularizer`.
        skip: As in `tfap.NeuronRegularizer`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of its range, or `data` is a one-shot iterator. At the beginning of the
            fit, as for `tfap.NeuronRegularizer`.

    Example:

    >>> import keras, numpy, tfap
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential(layers)
    >>> model.compile("sgd", "mse")
    >>> x, y = numpy.random.default_rng(0).normal(size=(64, 4)), numpy.zeros((64, 1))
    >>> fit = tfap.fit_and_compact(
    ...     model, 0.0, x, y, drop_silent=True, callbacks=[tfap.DemonPruning(0.3)], epochs=5, verbose=0
    ... )
    >>> len(fit.history["silent_channels"])  # one number per epoch
    5

    References:
        - Dufort-Labbe et al., *Maxwell's Demon at Work: Efficient Pruning by Leveraging Saturation of
          Neurons*, 2024 (arXiv 2403.07688)
    """

    def __init__(
        self,
        strength: float | PruningSchedule,
        noise: float = 1e-3,
        peak: float = 0.5,
        data: Any = None,
        seed: int = 0,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 10,
        zero_below: float = 0.01,
        skip: Iterable[str] = (),
    ) -> None:
        super().__init__(strength, begin_step, end_step, frequency, zero_below, skip)
        self._strength = Strength(strength, begin_step, end_step, peak)
        self._noise = checks.number("noise", noise)
        if self._noise < 0:
            raise ValueError(f"noise must be a number >= 0: received {noise}.")
        check_repeatable("data", data)
        self._data, self._seed = data, checks.integer("seed", seed, least=0)

    def members(self, groups: ChannelGroups) -> list[Member]:
        normalized = groups.having(Role.SCALE)

        def keeps(role):
            if role is Role.SCALE:
                return normalized
            return ~normalized if role in (Role.INCOMING, Role.BIAS) else False

        return groups.chosen(keeps)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._counts = EpochCounts(self.model)
        trained = {id(weight) for weight in self.model.trainable_weights}
        found = weights_of_roles(self.groups, Role.INCOMING)
        self._kernels = [member for member in found if id(member.variable) in trained]
        self._live = np.ones(self.groups.count, bool)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._counts.begin()

    def _between_steps(self, steps):
        super()._between_steps(steps)
        if self._noise:
            self._add_noise(self._noise * keras_compat.learning_rate(self.model) * np.sqrt(steps))

    def _add_noise(self, deviation):
        """Adds noise to the kernels, which depends on the step and the seed only, so that fits resume."""
        generator, live = np.random.default_rng((self._seed, self._step)), np.append(self._live, False)
        for member in self._kernels:
            weights = member.variable.numpy()
            drawn = deviation * generator.standard_normal(weights.shape, np.float32)
            at = live[member.groups] & (weights != 0)
            member.variable.assign(np.where(at, weights + drawn.astype(weights.dtype), weights))
            if member.variable.constraint is not None:
                member.variable.assign(member.variable.constraint(member.variable))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        counts = self._counts.end() if self._data is None else measure_activations(self.model, self._data)
        self._live = self.groups.fired(counts)
        if logs is not None:
            logs["silent_channels"] = int((~self._live).sum())
