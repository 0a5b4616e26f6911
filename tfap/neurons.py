"""From scores to masks of whole neurons and channels; those that are tied together go as one."""

import numpy as np

from tfap.kernels import neuron_count


def prune_neurons(scored, sparsity, min_weights_per_layer=0):
    """Masks in which whole neurons are pruned, lowest mean score of their alive weights first.

    The mean, not the sum: a sum would rank layers by their fan-in, and empty the narrowest first. Tied
    neurons (`Kernel.neuron_groups`) go together or not at all, by the mean over all their weights. Every
    kernel keeps at least one neuron.

    As many neurons go, in that order, as do not exceed round(sparsity x cost of all weights), the cost of
    a weight being `Kernel.cost`.

    Args:
        scored: `masks.Scored` kernels that are ranked together, in layer order.
        sparsity: share of the cost that is pruned afterwards, what was pruned before included.
        min_weights_per_layer: alive weights that each kernel keeps whatever their scores.

    Returns:
        One uint8 mask for each kernel.
    """
    numbers = _Numbers([item.kernel for item in scored])
    groups = _Groups(scored, numbers)
    dead = groups.pruned(float(sparsity), min_weights_per_layer)
    return [_masked(item.kernel, dead, numbers) for item in scored]


class _Numbers:
    """Consecutive numbers for the neuron groups of some kernels; an untied neuron is one by itself."""

    def __init__(self, kernels):
        tied = [kernel.neuron_groups for kernel in kernels if kernel.neuron_groups is not None]
        self._tied = np.unique(np.concatenate(tied)) if tied else np.zeros(0, int)
        self.size = len(self._tied)
        self._neurons = {id(kernel): self._number(kernel) for kernel in kernels}

    def _number(self, kernel):
        if kernel.neuron_groups is not None:
            return np.searchsorted(self._tied, kernel.neuron_groups)
        first = self.size
        self.size += neuron_count(kernel.spec, kernel.weights.shape)
        return np.arange(first, self.size)

    def of_neurons(self, kernel):
        """The group of each of the kernel's neurons."""
        return self._neurons[id(kernel)]

    def of_inputs(self, kernel):
        """The group whose death takes each of the kernel's inputs along; `size` where there is none."""
        if kernel.input_groups is None or not len(self._tied):
            return None
        at = np.searchsorted(self._tied, kernel.input_groups).clip(max=len(self._tied) - 1)
        return np.where(self._tied[at] == kernel.input_groups, at, self.size)


class _Groups:
    """The groups of neurons: what they score, weigh and cost, and where they are."""

    def __init__(self, scored, numbers):
        self._numbers = numbers
        self._kernels = [item.kernel for item in scored]
        size = numbers.size
        self._cost, self._alive = np.zeros(size), np.zeros(size)
        self._score, self._magnitude = np.zeros(size), np.zeros(size)
        self._weights = []  # for each kernel: group -> its alive weights there
        for item in scored:
            self._add(item.kernel, item.scores)

    def _add(self, kernel, scores):
        groups, size = self._numbers.of_neurons(kernel), self._numbers.size
        alive = np.bincount(groups, kernel.neuron_sums(kernel.mask.astype(np.int64)), size)
        self._weights.append(alive)
        self._alive += alive
        self._cost += alive * kernel.cost
        for total, values in ((self._score, scores), (self._magnitude, np.abs(kernel.weights))):
            masked = np.multiply(values, kernel.mask, dtype=np.float64)
            total += np.bincount(groups, kernel.neuron_sums(masked), size)
        inputs = self._numbers.of_inputs(kernel)
        if inputs is not None:
            read = np.bincount(inputs, kernel.input_sums(kernel.mask.astype(np.int64)), size + 1)
            self._cost += read[:size] * kernel.cost

    def pruned(self, sparsity, floor):
        """Which groups are dead afterwards, as a boolean array."""
        budget = self._budget(sparsity)
        dead = self._alive == 0
        left = [weights.sum() for weights in self._weights]
        for group in self._in_order():
            if self._cost[group] > budget:
                break
            members = [(at, weights[group]) for at, weights in enumerate(self._weights) if weights[group]]
            if all(left[at] - weights >= max(floor, 1) for at, weights in members):
                dead[group] = True
                budget -= self._cost[group]
                for at, weights in members:
                    left[at] -= weights
        return dead

    def _budget(self, sparsity):
        total = sum(kernel.mask.size * kernel.cost for kernel in self._kernels)
        alive = sum(np.count_nonzero(kernel.mask) * kernel.cost for kernel in self._kernels)
        return round(sparsity * total) - (total - alive)

    def _in_order(self):
        """The groups with weights alive, lowest first; ties by size, then by layer and neuron."""
        alive = np.flatnonzero(self._alive)
        score, magnitude = (total[alive] / self._alive[alive] for total in (self._score, self._magnitude))
        return alive[np.lexsort((self._first_seen()[alive], magnitude, score))]

    def _first_seen(self):
        every = np.concatenate([self._numbers.of_neurons(kernel) for kernel in self._kernels])
        first = np.zeros(self._numbers.size, int)
        numbered, at = np.unique(every, return_index=True)
        first[numbered] = at
        return first


def _masked(kernel, dead, numbers):
    keep = ~dead[numbers.of_neurons(kernel)]
    mask = kernel.mask * kernel.per_neuron(keep.astype(np.uint8))
    inputs = numbers.of_inputs(kernel)
    if inputs is not None:
        mask = mask * kernel.per_input((~np.append(dead, False)[inputs]).astype(np.uint8))
    return mask
