"""The penalty on the weights of channel groups, as a tensor of the training step."""

from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.regularization.channel_groups import ChannelGroups, Member


class GroupPenalty:
    """Computes `scale * sum_g factor_g * norm_g`, where `norm_g` is the norm of the weights of group g.

    If `squared`, half the square of the norm takes its place. `scale` and `factor` are variables, which the
    host sets between steps.

    Args:
        model: The model.
        groups: Its `ChannelGroups`.
        members: The `Member`s that the norms are of.
        squared: Whether to take half the squares of the norms.
    """

    def __init__(
        self, model: Any, groups: ChannelGroups, members: list[Member], squared: bool = False
    ) -> None:
        self._ops, self._count = keras_compat.operations(model), groups.count
        self._members, self._squared = members, squared
        self._segments = np.concatenate([member.groups.ravel() for member in members]).astype(np.int32)
        self.scale = keras_compat.step_state(model, np.zeros((), np.float32), "penalty_scale")
        self.factors = keras_compat.step_state(model, np.zeros(groups.count, np.float32), "penalty_factors")
        self.states = [self.scale, self.factors]

    def __call__(self) -> Any:
        """Returns the penalty: a float32 scalar tensor."""
        ops = self._ops
        squares = [ops.reshape(self._along(member), (-1,)) for member in self._members]
        sums = ops.segment_sum(ops.concatenate(squares), self._segments, self._count + 1)[: self._count]
        if self._squared:
            norms = sums / 2
        else:  # the gradient of a square root is infinite at zero, where 0 is a subgradient
            positive = sums > 0
            norms = ops.where(positive, ops.sqrt(ops.where(positive, sums, 1.0)), 0.0)
        return ops.cast(self.scale, "float32") * ops.sum(ops.cast(self.factors, "float32") * norms)

    def _along(self, member):
        """Sums the squares of a weight over the axes along which the group does not change."""
        axes = [axis for axis, size in enumerate(member.groups.shape) if size == 1]
        squares = self._ops.square(self._ops.cast(member.variable, "float32"))
        return self._ops.sum(squares, axis=axes) if axes else squares
