"""Layers that normalize channels together, as readers of the squares of the channels.

RMSNormalization and UnitNormalization divide by the root of a sum `r^2` of squares over all channels. Without
the channels R, the sum has only the squares of the others, so what follows is larger by a factor that depends
on the input. Each square may get a weight `w_i`, by scaling the channel (see `graph/scaling.py`):

    sum_i w_i q_i = 1 - sum_R q_i    with the shares q_i = x_i^2 / r^2

The weights of the others then take over what the squares of R contributed, as a refit does for a sum. To
first order, half of what they cannot take over is the relative change of all that follows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tfap import keras_compat
from tfap.compensation.moments import SecondMoments
from tfap.compensation.refit import RIDGE, LeastSquares
from tfap.graph import layer_types, norms
from tfap.graph.calls import Call, Graph
from tfap.graph.channels import ChannelMap
from tfap.graph.layer_types import ConstantRule
from tfap.graph.scaling import ChannelScales
from tfap.graph.values import Value

_Reader = TypeVar("_Reader")
_LEAST_WEIGHT = 0.05  # of a square: a channel that is scaled to less is hardly there
_LEAST_SQUARES = 1e-12  # UnitNormalization divides by no less


class Normalizer:
    """A layer that normalizes all channels, by the shares of the channels in the sum of squares.

    Args:
        path: Path of the layer.
        calls: List of its `Call`s.
        axis: Integer. The axis of the channels.
        groups: Integer array, shape `(channels,)`. The channel groups that it normalizes.
        scalable: Boolean. Whether all of them can be scaled.
        following: Integer. How many layers consume what it normalizes.

    Attributes:
        path: As given.
        calls: As given.
        groups: As given.
        layer: The layer.
        moments: `SecondMoments` of the shares.
    """

    def __init__(
        self, path: str, calls: list[Call], axis: int, groups: np.ndarray, scalable: bool, following: int
    ) -> None:
        self.path, self.calls, self.groups = path, calls, groups
        self.layer = calls[0].layer
        self._axis, self.scalable, self._following = axis, scalable, following
        self.forget()

    def forget(self) -> None:
        """Starts the sums of second moments again."""
        self.moments = SecondMoments(len(self.groups))

    def consumed(self, call: Call, values: Mapping[Value, Any], filled: tuple) -> Any:
        """Returns what a call consumes, as in `Consumer`."""
        return values[call.inputs[0]]

    def add(self, tensor: Any) -> None:
        """Adds a batch of what the layer normalizes."""
        values = np.moveaxis(keras_compat.to_numpy(tensor), self._axis, -1).astype(np.float64)
        squares = np.square(values.reshape(-1, values.shape[-1]))
        added = float(getattr(self.layer, "epsilon", 0.0)) * squares.shape[1]
        sums = np.maximum(squares.sum(axis=1, keepdims=True) + added, _LEAST_SQUARES)
        try:
            self.moments.add(squares / sums)
        except ValueError as error:
            raise ValueError(
                f"'{self.path}' consumes a value that is NaN or infinite on the data: check the data "
                "and the weights of the layers before it."
            ) from error

    @property
    def bytes(self) -> int:
        """Integer. The size of the second moments."""
        return 8 * len(self.groups) ** 2

    @property
    def has_scale(self) -> bool:
        """Whether the layer can multiply all channels, to make up for the mean of the change."""
        is_rms = layer_types.of(self.layer).constants is ConstantRule.RMS_NORMALIZED
        return is_rms and bool(self.layer.weights)

    def problems(self, ridge: float = RIDGE) -> list[LeastSquares]:
        """Makes the `LeastSquares` of the sum of squares: its error is that of all layers that follow.

        Channels that cannot be scaled take over nothing: each then has the error of its own square alone.
        """
        halves = np.full((len(self.groups), 1), 0.5)
        by_mean = self.has_scale and not self.scalable
        problem = LeastSquares.of(self.moments, halves, self.groups, by_mean, ridge)
        gram = problem.gram if self.scalable else np.diag(np.diagonal(problem.gram))
        scale = max(self.moments.count, 1) / max(self._following, 1)
        return [LeastSquares(gram, problem.ridge, problem.mean, halves, self.groups, scale, problem.rows)]


def normalizers_of(
    graph: Graph, channel_map: ChannelMap, consumers: Collection[str], scales: ChannelScales | None = None
) -> dict[str, Normalizer]:
    """Finds the layers that normalize channels together of which some may be removed.

    Args:
        graph: The `Graph` of a model without wrappers.
        channel_map: Its `ChannelMap`.
        consumers: The paths of the layers that consume channels as weighted sums.
        scales: The `ChannelScales` of the model. None if no channel is to be scaled.

    Returns:
        Dict of path to `Normalizer`, in graph order.
    """
    found, removable = {}, channel_map.normalized - channel_map.pinned.keys()
    for path, calls in graph.calls_of.items():
        channels = channel_map.of(calls[0].inputs[0]) if calls[0].inputs else None
        if channels is None or not norms.is_over_channels(calls[0].layer):
            continue
        if removable.isdisjoint(channels.groups.tolist()):
            continue
        scalable = scales is not None and bool(scales.possible[channels.groups].all())
        following = len(set(_following(calls, consumers, channel_map)))
        found[path] = Normalizer(path, calls, channels.axis, channels.groups, scalable, following)
    return found


def _following(calls, consumers, channels) -> Iterator[str]:
    """Yields the paths of the layers that consume what some calls make, maybe through other layers."""
    waiting, seen = [value for call in calls for value in call.outputs], set()
    while waiting:
        value = waiting.pop()
        if value in seen or channels.of(value) is None:
            continue
        seen.add(value)
        for call, _ in value.consumers:
            if call.path in consumers:
                yield call.path
            else:
                waiting += call.outputs


def in_order(graph: Graph, *readers: Mapping[str, _Reader]) -> dict[str, _Reader]:
    """Joins dicts of path to what reads channels, in graph order."""
    every = {path: reader for each in readers for path, reader in each.items()}
    return {path: every[path] for path in graph.calls_of if path in every}


def scale_kept(
    normalizers: Sequence[Normalizer],
    kept: np.ndarray,
    scales: ChannelScales,
    fixed: Collection[str],
    ridge: float = RIDGE,
) -> None:
    """Makes up for removed channels in what layers divide by, in channels that are zero already.

    Channels are scaled so that the weights of their squares take over those of the removed ones. The mean of
    the rest goes into the scale of the layer, if it has one.

    Args:
        normalizers: The layers, with what was measured before channels were removed.
        kept: Boolean array, shape `(channel groups,)`.
        scales: The `ChannelScales` of the model.
        fixed: Paths of the layers that must not change.
        ridge: Float >= 0, relative to the mean square of the shares.
    """
    measured = [each for each in normalizers if each.moments.count]
    weights = np.ones(len(kept))
    scalable = [each for each in measured if each.scalable]
    if scalable:
        gram = np.zeros((len(kept), len(kept)))
        for each in scalable:
            np.add.at(gram, np.ix_(each.groups, each.groups), each.moments.gram / each.moments.count)
        used = np.unique(np.concatenate([each.groups for each in scalable]))
        weights[used] = weights_of_squares(gram[np.ix_(used, used)], ~kept[used], ridge)
        scales.apply(np.sqrt(np.where(kept, weights, 1.0)))
    for each in measured:
        if each.has_scale and each.path not in fixed:
            changed = np.where(kept, weights, 0.0)[each.groups] - 1
            factor = np.sqrt(max(1 + float(changed @ each.moments.mean), _LEAST_SQUARES))
            gamma = each.layer.weights[0]
            gamma.assign((np.array(gamma) * factor).astype("float32"))


def weights_of_squares(gram: np.ndarray, removed: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Computes the weights of squares that take over those of removed channels, by ridge regression.

    Args:
        gram: Float array, shape `(channels, channels)`. The second moments of the squares or their shares.
        removed: Boolean array, shape `(channels,)`.
        ridge: Float >= 0, relative to the mean diagonal element of `gram`.

    Returns:
        float64 array, shape `(channels,)`: 0 for removed channels, at least 0.05 for others.

    Example:

    >>> gram = np.array([[1.0, 0.0, 1.0], [0.0, 4.0, 0.0], [1.0, 0.0, 1.0]])  # 0 and 2 are alike
    >>> weights_of_squares(gram, np.array([False, False, True]), ridge=1e-9).round(6)
    array([2., 1., 0.])
    """
    weights, free = np.where(removed, 0.0, 1.0), ~removed
    penalty = max(ridge, 1e-12) * max(float(np.mean(np.diagonal(gram))), 1e-300)
    while free.any():
        matrix = gram[np.ix_(free, free)] + penalty * np.eye(int(free.sum()))
        lost = gram[np.ix_(free, ~free)] @ (1 - weights[~free])
        weights[free] = 1 + np.linalg.lstsq(matrix, lost, rcond=None)[0]
        low = free & (weights < _LEAST_WEIGHT)
        if not low.any():
            break
        weights[low], free = _LEAST_WEIGHT, free & ~low
    return weights
