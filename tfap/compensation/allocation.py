"""How many channels to remove where, for a sparsity of the whole model."""

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np

from tfap.graph import composite, layer_types
from tfap.graph.flops import layer_flops
from tfap.graph.layer_types import ChannelRule
from tfap.graph.liveness import Liveness

_ROUNDING = 1e-6  # costs are integers, computed in floating point


@dataclasses.dataclass(frozen=True, eq=False)
class _LayerCost:
    """What a layer costs: kept inputs x kept outputs x `each`. Groups are None if they cannot be removed."""

    inputs: np.ndarray | None
    outputs: np.ndarray | None
    each: float

    def of(self, kept):
        rows = 1 if self.inputs is None else kept[self.inputs].sum()
        columns = 1 if self.outputs is None else kept[self.outputs].sum()
        return rows * columns * self.each


class ModelCost:
    """What the layers of a model cost if only some channel groups are kept.

    Args:
        model: The model without wrappers.
        liveness: Its `Liveness`.
        target: "weights" for the weights of kernels, "flops" for FLOPs, "neurons" for neurons and channels.
        prunable: Set of the paths of layers whose neurons count for "neurons".
        with_heads: Set of the paths of layers whose heads count for "neurons".
    """

    def __init__(
        self,
        model,
        liveness: Liveness,
        target: str,
        prunable: set[str],
        with_heads: Collection[str] = (),
    ) -> None:
        self._size = liveness.channels.size
        by_flops = layer_flops(model) if target == "flops" else {}
        self._layers = []
        for path, layer in liveness.graph.layers():
            cost = _kernel_size(layer) if target == "weights" else by_flops.get(path, 0)
            if target == "neurons" and path in with_heads:
                self._layers.append(_LayerCost(None, liveness.channels.heads(path), 1))
            if target == "neurons" and path not in prunable:
                continue
            inside = list(_inner_costs(path, layer, liveness, target, cost))
            self._layers += inside
            if target != "neurons":
                cost -= sum(each.each * len(each.outputs) for each in inside)
            inputs, outputs = self._sides(path, layer, liveness)
            heads = liveness.channels.heads(path)
            if heads is not None and target != "neurons":
                self._layers += _attention_costs(
                    liveness.linear_maps[path], liveness.groups(path), heads, cost
                )
                continue
            if target != "neurons" and path in liveness.linear_maps and liveness.is_recurrent(path):
                self._layers += _recurrent_costs(liveness.linear_maps[path], inputs, outputs, cost)
                continue
            if target == "neurons":
                inputs, cost = None, 0 if outputs is None else len(outputs)
            if cost:
                self._layers.append(_LayerCost(inputs, outputs, cost / _pairs(inputs, outputs)))
        self.total = self.of(np.ones(self._size, bool))

    def _sides(self, path, layer, liveness):
        rule = layer_types.of(layer).channels
        if rule not in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE):
            return None, None
        consumed, produced = liveness.groups(path)
        if rule is ChannelRule.DEPTHWISE or layer_types.kernel_specs(layer)[0].reads_input is False:
            return None, produced
        return consumed, produced

    def of(self, kept: np.ndarray) -> float:
        """Computes the cost with the kept groups: boolean array, shape `(groups,)`."""
        return float(sum(layer.of(kept) for layer in self._layers))


def _inner_costs(path, layer, liveness, target, cost):
    """Lists the `_LayerCost` of the units inside a composite layer, in proportion to its kernels."""
    whole = _kernel_size(layer)
    for entry, groups in liveness.channels.units_of(path).items():
        kernels = sum(size for its, size, is_kernel in composite.costs(layer) if its == entry and is_kernel)
        yield _LayerCost(None, groups, 1 if target == "neurons" else cost * kernels / whole / len(groups))


def _recurrent_costs(linear_map, inputs, outputs, cost):
    """Lists the `_LayerCost` of each kernel of a recurrent layer, in proportion to its weights."""
    parts = linear_map.costs()
    each = cost / sum(weights for _, _, weights in parts)
    for reads_inputs, part, weights in parts:
        columns = outputs[part]
        rows = inputs if reads_inputs else columns
        yield _LayerCost(rows, columns, weights * each / _pairs(rows, columns))


def _attention_costs(linear_map, sides, heads, cost):
    """Lists the `_LayerCost` of each kernel of an attention layer, in proportion to its weights."""
    parts = linear_map.costs(sides[0], heads, sides[1])
    each = cost / sum(weights for _, _, weights in parts)
    for inputs, outputs, weights in parts:
        yield _LayerCost(inputs, outputs, weights * each / _pairs(inputs, outputs))


def _pairs(inputs, outputs):
    return (1 if inputs is None else len(inputs)) * (1 if outputs is None else len(outputs))


def _kernel_size(layer):
    weights = [spec.find(layer) for spec in layer_types.kernel_specs(layer)]
    return sum(math.prod(weight.shape) for weight in weights if weight is not None)


class Allocation:
    """Removes groups in given orders until the cost has fallen by the sparsity.

    Args:
        cost: A `ModelCost`.
        liveness: The `Liveness` of the model.
        sets: List of integer arrays: the groups of each set of coupled layers that may be removed.
    """

    def __init__(self, cost: ModelCost, liveness: Liveness, sets: Sequence[np.ndarray]) -> None:
        self._cost, self._sets = cost, sets
        self._size = liveness.channels.size
        sides = {
            tuple(groups)
            for path in (*liveness.linear_maps, *liveness.depthwise)
            for groups in (*liveness.groups(path), liveness.channels.heads(path))
            if groups is not None
        }
        self._sides = [np.array(side, int) for side in sides]

    @property
    def sets(self) -> Sequence[np.ndarray]:
        """The groups of each set of coupled layers that may be removed, as given."""
        return self._sets

    def of_same_fraction(self, orders: Sequence[np.ndarray], sparsity: float) -> np.ndarray:
        """Removes the largest same fraction of every set. Returns the kept groups, a boolean array."""
        least, low, high = self._least(sparsity), 0.0, 1.0
        for _ in range(40):
            fraction = (low + high) / 2
            if self._cost.of(self.without(orders, fraction)) >= least:
                low = fraction
            else:
                high = fraction
        return self.without(orders, high if self._cost.of(self.without(orders, high)) >= least else low)

    def without(
        self,
        orders: Sequence[np.ndarray],
        fraction: float,
        step: int = 1,
        phases: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Removes the same fraction of every set.

        Args:
            orders: The groups of each set, in the order in which they are removed.
            fraction: Float in [0, 1].
            step: Integer >= 1. Groups of a set that are removed together.
            phases: Floats in [0, 1), one per set: where between two steps a set rounds down. With different
                ones, sets of equal size do not all lose a group at the same fraction. None is 0.

        Returns:
            The kept groups, a boolean array. Every set and every layer keeps at least one.
        """
        kept = np.ones(self._size, bool)
        for order, phase in zip(orders, phases or [0.0] * len(orders), strict=True):
            count = step * math.floor(fraction * len(order) / step + phase + 1e-9)
            kept[order[: min(len(order) - 1, count)]] = False
        return self._with_one_each(kept, orders)

    def without_counts(self, orders: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
        """Removes so many groups of every set. Returns the kept groups, a boolean array, as in `without`."""
        kept = np.ones(self._size, bool)
        for order, count in zip(orders, counts, strict=True):
            kept[order[: min(len(order) - 1, count)]] = False
        return self._with_one_each(kept, orders)

    def _with_one_each(self, kept, orders):
        """Keeps the last channel of a layer that would lose all of them."""
        for side in self._sides:
            if not kept[side].any():
                ranks = {int(group): at for order in orders for at, group in enumerate(order)}
                kept[max(side, key=lambda group: ranks.get(int(group), -1))] = True
        return kept

    def of_lowest(self, scores: Sequence[np.ndarray], sparsity: float) -> np.ndarray:
        """Removes the groups with the lowest scores of all sets. Returns the kept groups, a boolean array."""
        groups, values = np.concatenate(self._sets), np.concatenate(scores)
        order = groups[np.argsort(values, kind="stable")]
        least, low, high = self._least(sparsity), 0, len(order)
        while low < high:  # the cost falls with every removal
            count = (low + high + 1) // 2
            if self._cost.of(self.without_first(order, count)) >= least:
                low = count
            else:
                high = count - 1
        return self.without_first(order, low)

    def without_first(self, order: np.ndarray, count: int) -> np.ndarray:
        """Removes the first groups of an order over all sets. Returns the kept groups, a boolean array."""
        kept = np.ones(self._size, bool)
        kept[order[:count]] = False
        return self._with_one_each(kept, [order])

    def _least(self, sparsity):
        return self._cost.total - round(sparsity * self._cost.total) - _ROUNDING


def coupled_sets(produced: Sequence[np.ndarray], removable: np.ndarray) -> list[np.ndarray]:
    """Lists the removable groups that layers produce, in one array for layers that share some of them.

    Args:
        produced: The groups of each layer, in graph order.
        removable: Boolean array, shape `(groups,)`.
    """
    sets: list[set[int]] = []
    for groups in produced:
        own = {int(group) for group in groups}
        touching = [other for other in sets if other & own]
        if touching:
            touching[0].update(own, *touching[1:])
            sets = [other for other in sets if not any(other is merged for merged in touching[1:])]
        else:
            sets.append(own)
    arrays = [np.array(sorted(group for group in own if removable[group]), int) for own in sets]
    return [array for array in arrays if len(array) > 1]
