"""The time of a model by its kept channels, from measured times of its layers."""

import dataclasses
import functools
import json
from typing import Any

import numpy as np

from tfap.budgets import attention_times
from tfap.budgets.budget import Budget
from tfap.budgets.costs import ROUNDING
from tfap.budgets.latency_table import LatencyTable, alone
from tfap.budgets.meters import UNDEFINED_SIZE
from tfap.graph import layer_types, recurrent
from tfap.graph.linear import Depthwise, Embedding, Grouped
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model

FRACTIONS = (0.25, 0.5, 1.0)  # of the channels on both sides, at which layers are measured
_ALIGNED = 8  # measured shapes have multiples of it, because others are slower than larger ones
_NOT_IN_KEY = ("name", "trainable", "dtype", "activation", "activity_regularizer")


@dataclasses.dataclass(frozen=True, eq=False)
class _LayerTime:
    """The time of one call of a layer, by the fraction of its channels that is kept."""

    inputs: np.ndarray | None
    outputs: np.ndarray | None
    fractions: np.ndarray
    times: np.ndarray

    def of(self, kept):
        fractions = [kept[side].mean() for side in (self.inputs, self.outputs) if side is not None]
        # The work is a product of both: as much as with the same fraction on both sides.
        fraction = float(np.prod(fractions)) ** (1 / len(fractions)) if fractions else 1.0
        return float(np.interp(fraction, self.fractions, self.times))


class LatencyCost:
    """The predicted milliseconds per call of a model, by its kept channels.

    It adds up the measured times of layers, interpolated between fractions of their channels. What lies
    between layers is left out, so only measurements of the whole model tell the latency; see `search`.

    Args:
        model: The model without wrappers.
        liveness: Its `Liveness`.
        budget: The `Budget`.
        table: The `LatencyTable`.
    """

    def __init__(self, model: Model, liveness: Liveness, budget: Budget, table: LatencyTable) -> None:
        self._table, self._liveness, self._budget = table, liveness, budget

    @functools.cached_property
    def _layers(self):  # measured when it is first asked for, after a budget was found to be reachable
        return self._measured()

    @functools.cached_property
    def total(self) -> float:
        """Float. The predicted time of the whole model."""
        return self.of(np.ones(self._liveness.channels.size, bool))

    @property
    def limit(self) -> float:
        """Float. The time that a smaller model may take."""
        return self._budget.limit(self.total)

    def of(self, kept: np.ndarray) -> float:
        """Predicts the milliseconds with the kept groups: boolean array, shape `(groups,)`."""
        return sum(layer.of(kept) for layer in self._layers)

    def allows(self, kept: np.ndarray) -> bool:
        """Returns whether the predicted time with the kept groups is within the limit."""
        return self.of(kept) <= self.limit * (1 + ROUNDING)

    def _measured(self):
        shapes = list(self._shapes())
        times = self._table.times([entry for _, _, points in shapes for _, entry in points])
        found, at = [], 0
        for inputs, outputs, points in shapes:
            its = np.array(times[at : at + len(points)])
            at += len(points)
            fractions = np.array([fraction for fraction, _ in points])
            known = np.isfinite(its)
            if known.any():
                found.append(_LayerTime(inputs, outputs, *_curve(fractions[known], its[known])))
        return found

    def _shapes(self):
        """Yields the groups on both sides of each call, and what to measure: `[(fraction, entry)]`."""
        liveness = self._liveness
        for path in (*liveness.linear_maps, *liveness.depthwise):
            linear_map = liveness.linear_map(path)
            sides = liveness.groups(path)
            pinned = list(liveness.channels.pinned)
            free = [side is not None and not np.isin(side, pinned).all() for side in sides]
            if liveness.channels.heads(path) is not None:
                yield from self._of_heads(path, linear_map, sides, free)
                continue
            if isinstance(linear_map, Embedding) or not any(free):
                continue
            fractions = FRACTIONS if _channels(sides, free) > 1 else (1.0,)
            for call in liveness.graph.calls_of[path]:
                points = {}
                for fraction in fractions:
                    entry, actual = self._entry(call, linear_map, sides, free, fraction)
                    points[actual] = entry
                inputs, outputs = (side if is_free else None for side, is_free in zip(sides, free))
                if isinstance(linear_map, Depthwise):
                    inputs = None
                yield inputs, outputs, sorted(points.items(), key=lambda point: point[0])

    def _of_heads(self, path, linear_map, sides, free):
        """Yields the same of an attention layer: the channels on both sides together, and its heads.

        The work of a projection is a product of its channels and the heads.
        """
        heads = self._liveness.channels.heads(path)
        if not any(free) and np.isin(heads, list(self._liveness.channels.pinned)).all():
            return
        around = [side for side, is_free in zip(sides, free) if is_free]
        fractions = FRACTIONS if len(heads) > 1 else (1.0,)
        for call in self._liveness.graph.calls_of[path]:
            points = {}
            for fraction in fractions:
                changes, actual = attention_times.fewer_heads(linear_map, fraction)
                description = {
                    "type": type(call.layer).__name__,
                    "config": _config_of(call.layer, changes),
                    "shape": attention_times.shapes_of(call),
                }
                mean = actual ** (1 / 2 if around else 1)  # all channels are there
                points[mean] = description, attention_times.alone(call, changes)
            joined = np.concatenate(around) if around else None
            yield joined, heads, sorted(points.items(), key=lambda point: point[0])

    def _entry(self, call, linear_map, sides, free, fraction):
        """Returns what to measure for a fraction of the channels, and the fraction that it really has."""
        shape = [UNDEFINED_SIZE if size is None else size for size in call.inputs[0].shape[1:]]
        consumed, produced = sides
        groups = getattr(linear_map, "groups", 1) if isinstance(linear_map, Grouped) else 1
        inputs = np.ones(linear_map.nonzero.shape[0], bool)
        outputs = np.ones(len(produced), bool)
        actual = []
        if free[0] and consumed is not None:
            inputs = _marks(len(consumed), fraction, groups)
            axis = self._liveness.channels.of(call.inputs[0]).axis
            shape[axis - 1] = int(inputs.sum())
            actual.append(inputs.mean())
        if free[1] and not isinstance(linear_map, Depthwise):
            halves = layer_types.of(linear_map.layer).recurrent and recurrent.is_concatenated(
                linear_map.layer
            )
            outputs = _marks(len(produced), fraction, 2 if halves else groups)
            actual.append(outputs.mean())
        is_depthwise = isinstance(linear_map, Depthwise)
        changes = {} if is_depthwise else linear_map.config(inputs, outputs)
        layer = linear_map.layer
        if "activation" in layer.get_config():
            changes["activation"] = None
        description = {
            "type": type(layer).__name__,
            "config": _config_of(layer, changes),
            "shape": shape,
        }
        mean = float(np.prod(actual)) ** (1 / len(actual)) if actual else 1.0
        return (description, lambda: alone(layer, changes, tuple(shape))), mean


def latency_cost(
    model: Model, liveness: Liveness, budget: Budget, table: LatencyTable | None = None
) -> LatencyCost:
    """Makes the `LatencyCost` of a model, and measures the layers of which the times are not known."""
    if table is None:
        table = LatencyTable(budget.runtime, budget.batch_size, budget.threads)
    return LatencyCost(model, liveness, budget, table)


def _channels(sides, free):
    return max(len(side) for side, is_free in zip(sides, free) if is_free)


def _marks(count, fraction, groups):
    """Marks a fraction of channels, the same number in each group, a multiple of `_ALIGNED` if it can be."""
    each = count // groups
    size = max(1, round(fraction * each))
    if size < each and size > _ALIGNED:
        size -= size % _ALIGNED
    return np.tile(np.arange(each) < size, groups)


def _curve(fractions, times):
    """Returns points between which times are interpolated, from 0 on, which never fall."""
    first = times[0]
    if len(times) > 1:
        first = max(0.0, times[0] - fractions[0] * (times[1] - times[0]) / (fractions[1] - fractions[0]))
    return np.concatenate([[0.0], fractions]), np.maximum.accumulate(np.concatenate([[first], times]))


def _config_of(layer: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a layer's config that decides its time, as plain data."""
    config = {**layer.get_config(), **changes}
    kept = {
        key: value
        for key, value in config.items()
        if key not in _NOT_IN_KEY and not key.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    precision = str(getattr(layer, "compute_dtype", "float32"))
    return json.loads(json.dumps({**kept, "precision": precision}, sort_keys=True, default=str))
