"""Masks of whole neurons and channels from scores; coupled ones are pruned together."""

from collections.abc import Sequence

import numpy as np

from tfap.graph.kernel import Kernel, neuron_count
from tfap.masks.weights import Scored

_ROUNDING = 1e-6  # costs are integers, computed in floating point


def prune_neurons(
    scored: Sequence[Scored], sparsity: float, min_weights_per_layer: int = 0, round_to: int = 1
) -> list[np.ndarray]:
    """Makes masks in which whole neurons are pruned, lowest mean score of their kept weights first.

    The mean is used because a sum would rank layers by their fan-in, and empty the narrowest first. Coupled
    neurons (`Kernel.neuron_groups`) are pruned together, by the mean over all their weights. Every kernel
    keeps at least one neuron.

    As many neurons are pruned, in that order, as do not exceed round(sparsity x cost of all weights and
    neurons), by `Kernel.cost` and `Kernel.neuron_cost`.

    Args:
        scored: `masks.weights.Scored` kernels that are ranked together, in layer order.
        sparsity: A float. The fraction of the cost that is pruned afterwards, earlier pruning included.
        min_weights_per_layer: Integer. Weights that each kernel keeps whatever their scores.
        round_to: Integer >= 1. A kernel with at least as many neurons keeps a multiple of it, or all: those
            that would be pruned last stay. Heads are not rounded.

    Returns:
        One uint8 mask per kernel.
    """
    numbers = _Numbers([item.kernel for item in scored])
    groups = _Groups(scored, numbers)
    dead = groups.pruned(float(sparsity), min_weights_per_layer, round_to)
    return [_masked(item.kernel, dead[numbers.of_neurons(item.kernel)]) for item in scored]


def without_dead_inputs(kernels: Sequence[Kernel], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Prunes the weights that read pruned neurons, by `Kernel.input_groups`.

    Args:
        kernels: Every `Kernel` of an update, also those that were not ranked together.
        masks: Their new masks.

    Returns:
        One uint8 mask per kernel.
    """
    alive = [
        kernel.neuron_groups[kernel.neuron_sums(mask.astype(np.int64)) > 0]
        for kernel, mask in zip(kernels, masks)
        if kernel.neuron_groups is not None
    ]
    coupled = [kernel.neuron_groups for kernel in kernels if kernel.neuron_groups is not None]
    dead = np.setdiff1d(np.concatenate(coupled), np.concatenate(alive)) if coupled else []
    return [_without_inputs(kernel, mask, dead) for kernel, mask in zip(kernels, masks)]


class _Numbers:
    """Numbers the neuron groups of some kernels consecutively; an uncoupled neuron is its own group."""

    def __init__(self, kernels):
        coupled = [kernel.neuron_groups for kernel in kernels if kernel.neuron_groups is not None]
        self._coupled = np.unique(np.concatenate(coupled)) if coupled else np.zeros(0, int)
        self.size = len(self._coupled)
        self._neurons = {id(kernel): self._number(kernel) for kernel in kernels}

    def _number(self, kernel):
        if kernel.neuron_groups is not None:
            return np.searchsorted(self._coupled, kernel.neuron_groups)
        first = self.size
        self.size += neuron_count(kernel.spec, kernel.weights.shape)
        return np.arange(first, self.size)

    def of_neurons(self, kernel):
        """Returns the group of each of the kernel's neurons."""
        return self._neurons[id(kernel)]

    def of_inputs(self, kernel):
        """Returns the group that feeds each of the kernel's inputs; `size` for none."""
        if kernel.input_groups is None or not len(self._coupled):
            return None
        at = np.searchsorted(self._coupled, kernel.input_groups).clip(max=len(self._coupled) - 1)
        return np.where(self._coupled[at] == kernel.input_groups, at, self.size)


class _Groups:
    """The groups of neurons: their scores, and the weights that are pruned with them."""

    def __init__(self, scored, numbers):
        self._numbers = numbers
        self._kernels = [item.kernel for item in scored]
        self._alive, self._score, self._magnitude = np.zeros((3, numbers.size))
        self._members = [[] for _ in range(numbers.size)]  # group -> the _Weights that it prunes
        self._cost = self._total = 0
        for item in scored:
            self._rank(item.kernel, item.scores)
            self._add(item.kernel)

    def _rank(self, kernel, scores):
        groups, size = self._numbers.of_neurons(kernel), self._numbers.size
        self._alive += np.bincount(groups, kernel.neuron_sums(kernel.mask.astype(np.int64)), size)
        for total, values in ((self._score, scores), (self._magnitude, np.abs(kernel.weights))):
            masked = np.multiply(values, kernel.mask, dtype=np.float64)
            total += np.bincount(groups, kernel.neuron_sums(masked), size)

    def _add(self, kernel):
        weights = _Weights(kernel, self._numbers)
        for group in weights.groups():
            self._members[group].append(weights)
        self._cost += weights.cost
        neurons = len(self._numbers.of_neurons(kernel))
        whole_cost = kernel.weights.size * kernel.cost + neurons * kernel.neuron_cost
        self._total += whole_cost if kernel.dense_cost is None else kernel.dense_cost

    def pruned(self, sparsity, floor, multiple=1):
        """Returns a boolean array of the groups that are dead afterwards."""
        dead = self._alive == 0
        for group in np.flatnonzero(dead):
            self._remove(group)
        least, removed = self._total - round(sparsity * self._total), []
        for group in self._in_order():
            if self._cost - self._cost_of(group) < least - _ROUNDING:
                break
            if all(weights.left_without(group) >= max(floor, 1) for weights in self._members[group]):
                dead[group] = True
                self._remove(group)
                removed.append(int(group))
        return dead if multiple == 1 else self._rounded(dead, removed, multiple)

    def _rounded(self, dead, removed, multiple):
        """Keeps the groups that were removed last until every kernel has a multiple of neurons."""
        left = True
        while left:
            left = False
            for kernel in self._kernels:
                neurons = self._numbers.of_neurons(kernel)
                missing = -int((~dead[neurons]).sum()) % multiple
                if not missing or len(neurons) < multiple or kernel.spec.heads:
                    continue
                own = set(neurons.tolist())
                for group in [group for group in reversed(removed) if dead[group] and group in own]:
                    dead[group], left = False, True
                    missing -= int((neurons == group).sum())
                    if missing <= 0:
                        break
        return dead

    def _cost_of(self, group):
        return sum(weights.cost_of(group) for weights in self._members[group])

    def _remove(self, group):
        self._cost -= self._cost_of(group)
        for weights in self._members[group]:
            weights.remove(group)

    def _in_order(self):
        """Lists the groups with kept weights, lowest first; equal scores by size, then layer and neuron."""
        alive = np.flatnonzero(self._alive)
        score, magnitude = (total[alive] / self._alive[alive] for total in (self._score, self._magnitude))
        return alive[np.lexsort((self._first_seen()[alive], magnitude, score))]

    def _first_seen(self):
        every = np.concatenate([self._numbers.of_neurons(kernel) for kernel in self._kernels])
        first = np.zeros(self._numbers.size, int)
        numbered, at = np.unique(every, return_index=True)
        first[numbered] = at
        return first


class _Weights:
    """The kept weights of one kernel by the groups with which they are pruned.

    A weight may be pruned with the neuron that it feeds or with the one that it reads, but costs only once.

    Attributes:
        left: The number of kept weights.
    """

    def __init__(self, kernel, numbers):
        self._kernel = kernel
        neurons, columns = np.unique(numbers.of_neurons(kernel), return_inverse=True)
        inputs, rows = numbers.of_inputs(kernel), None
        if inputs is not None:
            inputs, rows = np.unique(inputs, return_inverse=True)
        self._column = {int(group): at for at, group in enumerate(neurons)}
        self._row = {int(group): at for at, group in enumerate([] if rows is None else inputs)}
        self._row.pop(numbers.size, None)
        self._alive = kernel.pair_sums(kernel.mask, rows, columns)
        self._neurons = np.bincount(columns, kernel.neuron_sums(kernel.mask.astype(np.int64)) > 0)
        self._by_neuron, self._by_input = self._alive.sum(axis=0), self._alive.sum(axis=1)
        self.left = int(self._alive.sum())

    @property
    def cost(self):
        return self.left * self._kernel.cost + self._neurons.sum() * self._kernel.neuron_cost

    def groups(self):
        return self._column.keys() | self._row.keys()

    def of(self, group):
        """Returns how many are pruned with a group."""
        column, row = self._column.get(group), self._row.get(group)
        fed = 0 if column is None else self._by_neuron[column]
        read = 0 if row is None else self._by_input[row]
        both = 0 if column is None or row is None else self._alive[row, column]
        return fed + read - both

    def left_without(self, group):
        """Returns how many weights of the model before compaction are kept without a group."""
        return (self.left - self.of(group)) * self._kernel.fan_in_scale

    def cost_of(self, group):
        neurons = self._neurons[self._column[group]] if group in self._column else 0
        return self.of(group) * self._kernel.cost + neurons * self._kernel.neuron_cost

    def remove(self, group):
        self.left -= self.of(group)
        column, row = self._column.get(group), self._row.get(group)
        if column is not None:
            self._by_input -= self._alive[:, column]
            self._alive[:, column] = self._by_neuron[column] = self._neurons[column] = 0
        if row is not None:
            self._by_neuron -= self._alive[row]
            self._alive[row] = self._by_input[row] = 0


def _masked(kernel, dead):
    return kernel.mask * kernel.per_neuron((~dead).astype(np.uint8))


def _without_inputs(kernel, mask, dead):
    if kernel.input_groups is None or not len(dead):
        return mask
    return mask * kernel.per_input((~np.isin(kernel.input_groups, dead)).astype(np.uint8))
