"""The base class of regularizers that empty whole neurons: a callback that adds a term to the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfap import keras_compat
from tfap.regularization.channel_groups import ChannelGroups, Member, Role
from tfap.regularization.group_penalty import GroupPenalty
from tfap.regularization.strength import Strength
from tfap.utils import checks

if TYPE_CHECKING:
    from tfap.schedules import PruningSchedule

LENGTH_UNKNOWN = (
    "{name} reaches its strength at the end of the fit, whose length is unknown here: pass "
    "steps_per_epoch to fit(), or end_step to {name}."
)
NOT_TRAINED = "The model '{name}' has no trainable weights, so {regularizer} has nothing to regularize."


class NeuronRegularizer(keras_compat.Callback):
    """Base class of callbacks that drive whole neurons to silence during `fit`.

    They add a penalty to the loss of the model, in every training step, on the weights of groups of coupled
    channels that can be removed. The strength of the penalty is a variable of the step and changes without
    tracing it again. At the end of each epoch, channels that are almost zero are set to exactly zero, so that
    activation counts find them silent and `tfap.compact` removes them at no cost.

    Use `tfap.GroupLasso`, `tfap.GrowingRegularization` or `tfap.DemonPruning`. Subclass it for other
    penalties: override `members`, `factors`, or `squared`.

    The penalty is in the `loss` of the logs, as with any regularizer of Keras. `zeroed_channels` in the logs
    of an epoch is the number of channel groups of which all penalized weights are zero. The state depends on
    the training step and the weights only, so an interrupted fit resumes with `initial_epoch`.

    Args:
        strength: Float >= 0, or a `PruningSchedule`, whose sparsities are the strengths. A float is reached
            linearly from 0, between `begin_step` and `end_step`.
        begin_step: Integer >= 0. Up to this training step the strength is 0.
        end_step: Integer. The training step at which the strength is reached. None is the end of the fit.
        frequency: Integer >= 1. The strength changes every so many training steps.
        zero_below: Float in [0, 1). Channels are set to zero at the end of an epoch if the root mean square
            of their penalized weights is at most this fraction of the largest in their layer. 0 sets none.
        skip: Names or paths of layers whose channels are not regularized.

    Attributes:
        groups: The `ChannelGroups` of the model during a fit.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is out of its range. At the beginning of the fit, if the model is not a
            Sequential or Functional model, has no removable channels, `skip` names a layer it does not have,
            or the length of the fit is needed and unknown.
    """

    squared = False
    _one_cycle: float | None = None

    def __init__(
        self,
        strength: float | PruningSchedule,
        begin_step: int = 0,
        end_step: int | None = None,
        frequency: int = 10,
        zero_below: float = 0.01,
        skip: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self._strength = Strength(strength, begin_step, end_step, self._one_cycle)
        self._frequency = checks.integer("frequency", frequency)
        self._zero_below = checks.number("zero_below", zero_below)
        if not 0 <= self._zero_below < 1:
            raise ValueError(f"zero_below must be in [0, 1): received {zero_below}.")
        if isinstance(skip, str) or not all(isinstance(name, str) for name in skip):
            raise TypeError(f"skip must be a list of names or paths of layers: received {skip!r}.")
        self._skip = tuple(skip)
        self._total_epochs: int | None = None
        self._added: Any = None

    # -- for subclasses ------------------------------------------------------------------------------

    def members(self, groups: ChannelGroups) -> list[Member]:
        """Returns the weights to penalize: all of each group, unless overridden."""
        return groups.members

    def factors(self, groups: ChannelGroups, members: list[Member]) -> np.ndarray:
        """Returns the factor of each group, at the beginning of every epoch; until one is not 0, more often.

        Args:
            groups: The `ChannelGroups` of the model.
            members: The penalized `Member`s.

        Returns:
            Array, shape `(groups.count,)`. The square root of the number of its weights, unless overridden.
        """
        return np.sqrt(groups.sizes(members))

    # -- used by the rest of tfap ----------------------------------------------------------------------

    def set_total_epochs(self, epochs: int) -> None:
        """Spreads a float as strength over so many epochs, of which `fit` may train a part only."""
        self._total_epochs = epochs

    def penalty(self) -> float:
        """Returns the penalty at the present weights, while a fit runs."""
        return float(keras_compat.to_numpy(self._penalty()))

    # -- the fit -------------------------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        name = type(self).__name__
        keras_compat.check_measurable(self.model, name)
        if self._strength.needs_length and not (self.params or {}).get("steps"):
            raise ValueError(LENGTH_UNKNOWN.format(name=name))
        self._backend = keras_compat.backend_of(self.model)
        self.groups = ChannelGroups(self.model, self._skip)
        self._members = self.members(self.groups)
        weight = self._carrier(name)
        self._penalty = GroupPenalty(self.model, self.groups, self._members, self.squared)
        self._added = keras_compat.AddedLoss(self.model, weight, self._penalty, self._penalty.states)
        self._step: int | None = None  # known when the first epoch begins

    def _carrier(self, name):
        trained = {id(weight): weight for weight in self.model.trainable_weights}
        weights = [trained[id(m.variable)] for m in self._members if id(m.variable) in trained]
        if not weights:
            raise ValueError(NOT_TRAINED.format(name=self.model.name, regularizer=name))
        return weights[0]

    def on_epoch_begin(self, epoch, logs=None):
        if self._step is None:
            self._begin(epoch)
        self._batches = 0
        self._backend.sync(self.model)
        self._set_factors()
        self._set_strength()

    def _set_factors(self):
        factors = np.asarray(self.factors(self.groups, self._members), np.float32)
        self._penalty.factors.assign(factors)
        self._regularizes = bool(factors.any())

    def _begin(self, epoch):
        """Finds the step at which the fit begins: that of the optimizer, or of the epoch if it is new."""
        steps = (self.params or {}).get("steps")
        done = keras_compat.optimizer_updates(self.model)
        self._step = max(done, epoch * (steps or 0))
        epochs = self._total_epochs or (self.params or {}).get("epochs")
        self._last_step = None if not steps or not epochs else self._step + (epochs - epoch) * steps
        self._first_step = self._step - epoch * (steps or 0)

    def _set_strength(self):
        first = self._first_step if self._strength.needs_length else 0
        last = None if self._last_step is None else self._last_step - first
        self._penalty.scale.assign(np.float32(self._strength.at(self._step - first, last)))

    def on_train_batch_end(self, batch, logs=None):
        passed = batch + 1 - self._batches  # several with steps_per_execution
        self._batches = batch + 1
        before, self._step = self._step, self._step + passed
        if before // self._frequency != self._step // self._frequency:
            self._backend.sync(self.model)
            self._between_steps(self._frequency * (self._step // self._frequency - before // self._frequency))

    def _between_steps(self, steps):
        """Changes what the next steps read. `steps` is how many the call stands for: `frequency`, or more."""
        if not self._regularizes:  # what the factors depend on may be there now, such as counts
            self._set_factors()
        self._set_strength()

    def on_epoch_end(self, epoch, logs=None):
        squares = self._clear_small()
        if logs is not None:
            logs["zeroed_channels"] = int((squares == 0).sum())

    def _clear_small(self):
        """Sets channels that are almost zero to zero. Returns the mean squares of the weights of each."""
        squares = self.groups.mean_squares(self._members)
        largest = np.zeros(self.groups.layer_of.max() + 1)
        np.maximum.at(largest, self.groups.layer_of, squares)
        small = squares <= self._zero_below**2 * largest[self.groups.layer_of]
        if self._zero_below and small.any():
            self.groups.clear(self._members, small)
            squares = np.where(small, 0, squares)
        return squares

    def on_train_end(self, logs=None):
        if self._added is not None:
            self._penalty.scale.assign(np.float32(0))  # for functions that are traced already
            self._added.remove()
            self._added = None


def weights_of_roles(groups: ChannelGroups, *roles: Role) -> list[Member]:
    """Returns the members with one of some roles."""
    return groups.chosen(lambda role: role in roles)
