"""The final sparsity of a training with which the compacted model meets a budget.

With the same fraction for every layer, the number of neurons that each layer keeps does not depend on the
training. So the masks of any scores tell the final shapes. It does depend on the updates before the last one:
weights that read pruned neurons are pruned too and count, so that later updates prune fewer neurons.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap.budgets.budget import Budget
from tfap.budgets.costs import ROUNDING
from tfap.budgets.meters import SizeMeter
from tfap.budgets.parts import weight_count
from tfap.graph.coupling import Coupling
from tfap.graph.evening import evened
from tfap.graph.flops import layer_flops
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.liveness import Liveness
from tfap.keras_compat.types import Model
from tfap.layers.settings import PruningSettings
from tfap.masks.weights import Scored

_STEPS = 24
_RAMP = 40  # updates from no sparsity to all, of which each training to a sparsity passes those below it
_LAST = 8  # updates from there to the sparsity, in ever smaller steps as in cubic decay
_LARGEST = 1 - 1e-6  # a sparsity is less than 1
_MARGIN = 0.99  # of the bytes that a file may have: its size is only predicted


class TrainedChannels:
    """Kept channels after a training, by the largest cost that they may have: `search.KeptChannels`.

    Args:
        model: The model without wrappers.
        liveness: Its `Liveness`.
        cost: The cost of the model, such as a `costs.Cost`.
        settings: The `PruningSettings` of the training, with `granularity="neuron"`.
        pruned: List of `(path, weight name)` of the weights that are pruned.

    Raises:
        ValueError: If the layers are ranked together.
    """

    def __init__(
        self,
        model: Model,
        liveness: Liveness,
        cost: Any,
        settings: PruningSettings,
        pruned: Sequence[tuple[str, str]],
    ) -> None:
        if settings.scope in ("global", "isomorphic"):
            raise ValueError(
                f"With scope='{settings.scope}', training decides how many neurons each layer keeps, so no "
                "sparsity is known to meet a budget: pass scope='local', or use tfap.prune_once."
            )
        self._cost, self._liveness, self._settings = cost, liveness, settings
        self._kernels = _kernels(model, liveness, settings, pruned)
        self._together = _ranked_together(self._kernels)
        self._kept_at: dict[float, np.ndarray] = {}  # by sparsity
        self._ramp = [[np.packbits(kernel.mask) for kernel in self._kernels]]

    @property
    def cost(self) -> Any:
        """The cost, as given."""
        return self._cost

    def least(self) -> np.ndarray:
        """Returns the fewest groups that a training can keep: boolean array, shape `(groups,)`."""
        return self._at(_LARGEST)

    def within(self, limit: float) -> np.ndarray | None:
        """Returns the kept groups at the smallest sparsity whose cost is at most a limit. None if none is."""
        if self._cost.of(self._at(0.0)) <= limit + ROUNDING:
            return self._at(0.0)
        if self._cost.of(self.least()) > limit + ROUNDING:
            return None
        low, high = 0.0, _LARGEST
        for _ in range(_STEPS):
            if np.array_equal(self._at(low), self._at(high)):
                break
            middle = (low + high) / 2
            low, high = (
                (low, middle) if self._cost.of(self._at(middle)) <= limit + ROUNDING else (middle, high)
            )
        return self._at(high)

    def sparsity_of(self, kept: np.ndarray) -> float:
        """Returns a sparsity that keeps these groups, which `within` or `least` has returned."""
        found = [sparsity for sparsity, known in self._kept_at.items() if np.array_equal(known, kept)]
        return found[-1]

    def _at(self, sparsity):
        if sparsity not in self._kept_at:
            self._kept_at[sparsity] = self._kept(self._trained(sparsity))
        return self._kept_at[sparsity]

    def _trained(self, sparsity):
        """Returns the masks at the end of a training to a sparsity."""
        passed = int(sparsity * _RAMP)
        begin = passed / _RAMP
        masks = self._passed(passed)
        for step in range(1, _LAST + 1):
            part = 1 - (1 - step / _LAST) ** 3
            masks = self._updated(masks, begin + part * (sparsity - begin))
        return masks

    def _passed(self, updates):
        while len(self._ramp) <= updates:
            masks = self._updated(self._passed(len(self._ramp) - 1), len(self._ramp) / _RAMP)
            self._ramp.append([np.packbits(mask) for mask in masks])
        return [
            np.unpackbits(bits, count=kernel.mask.size).reshape(kernel.mask.shape)
            for bits, kernel in zip(self._ramp[updates], self._kernels)
        ]

    def _updated(self, masks, sparsity):
        """Returns the masks after an update to a sparsity."""
        kernels = [dataclasses.replace(kernel, mask=mask) for kernel, mask in zip(self._kernels, masks)]
        made = list(masks)
        for positions in self._together:
            scored = [Scored(kernels[at], np.abs(kernels[at].weights)) for at in positions]
            for at, mask in zip(positions, self._settings.pattern.new_masks(scored, sparsity), strict=True):
                made[at] = mask
        return self._settings.pattern.complete(kernels, made)

    def _kept(self, masks):
        """Returns the groups that compaction keeps: those of which a layer keeps a neuron."""
        size = self._liveness.channels.size
        dead, neurons = np.zeros((2, size), int)
        for kernel, mask in zip(self._kernels, masks):
            groups = _produced(self._liveness, kernel)
            if groups is not None:
                dead += np.bincount(groups[kernel.neuron_sums(mask.astype(np.int64)) == 0], minlength=size)
            if groups is not None and kernel.spec.heads:
                neurons += np.bincount(groups, minlength=size)
        for path in self._liveness.linear_maps:
            neurons += np.bincount(self._liveness.groups(path)[1], minlength=size)
        kept = dead < neurons
        kept[list(self._liveness.channels.pinned)] = True
        kept[neurons == 0] = True
        return evened(self._liveness, kept)


def sparsity_for(
    model: Model, budget: Budget, settings: PruningSettings, pruned: Sequence[tuple[str, str]]
) -> float:
    """Finds the final sparsity with which a trained, stripped and compacted model meets a budget.

    Args:
        model: The model without wrappers.
        budget: A `Budget` in weights, FLOPs or bytes. Bytes are predicted from the file of the given model.
        settings: The `PruningSettings` of the training.
        pruned: List of `(path, weight name)` of the weights that are pruned.

    Returns:
        Float in [0, 1).

    Raises:
        ValueError: If the budget cannot be met, or not be turned into a sparsity before the training.
    """
    if budget.is_timed:
        raise ValueError(
            f"tfap.prune cannot measure a budget of {budget.unit} before the training: pass the budget to "
            "tfap.prune_once or tfap.fit_and_compact, which measure smaller models."
        )
    liveness = Liveness(model)
    if settings.granularity == "weight":
        return _of_single_weights(model, budget, _variables(liveness, pruned, settings.pattern))
    cost = budget.cost(model, liveness)
    limit, unit = cost.limit, 1.0
    if budget.unit == "bytes":
        own = SizeMeter(model, budget).own()
        limit, unit = cost.total - (own - _MARGIN * budget.limit(own)) / 4, 4.0
    channels = TrainedChannels(model, liveness, cost, settings, pruned)
    kept = channels.within(limit)
    if kept is None:
        least = cost.of(channels.least())
        own = cost.total
        if budget.unit == "bytes":
            own = SizeMeter(model, budget).own()
            least = (own - unit * (cost.total - least)) / _MARGIN
        budget.check_reachable(least, own)
        raise AssertionError("unreachable")
    return channels.sparsity_of(kept)


def _of_single_weights(model, budget, variables):
    """Returns the fraction of prunable weights that are zero if no more than the budget are not."""
    if budget.unit != "weights":
        raise ValueError(
            f"granularity='weight' leaves the shapes of layers as they are, so it meets no budget of "
            f"{budget.unit}: pass granularity='neuron' and scope='local'."
        )
    total = weight_count(model)
    sizes = [int(np.prod(variable.shape)) for _, _, variable in variables]
    prunable = sum(sizes)
    budget.check_reachable(total - prunable + len(sizes), total)
    return float(np.clip((total - budget.limit(total)) / prunable, 0.0, _LARGEST))


def _variables(liveness, pruned, pattern):
    """Yields `(path, KernelSpec, variable)` of the pruned weights."""
    for path, name in pruned:
        layer = liveness.graph.calls_of[path][0].layer
        for spec in pattern.kernel_specs(layer):
            if spec.name == name:
                yield path, spec, spec.find(layer)


def _kernels(model, liveness, settings, pruned):
    """Makes the `Kernel`s of the pruned weights, as a mask update does."""
    coupling, kernels = Coupling(model), []
    by_flops = layer_flops(model) if settings.target == "flops" else {}
    found = list(_variables(liveness, pruned, settings.pattern))
    sizes: dict[str, int] = {}
    for path, _, variable in found:
        sizes[path] = sizes.get(path, 0) + int(np.prod(variable.shape))
    for path, spec, variable in found:
        weights = np.asarray(variable, np.float32)
        each = {"weights": 1.0, "neurons": 0.0, "flops": by_flops.get(path, 0) / sizes[path]}
        kernels.append(
            Kernel(
                path,
                spec,
                weights,
                np.ones(weights.shape, np.uint8),
                neuron_groups=coupling.of_neurons(path, spec, neuron_count(spec, weights.shape)),
                input_groups=coupling.of_inputs(path, spec, weights.shape),
                cost=each[settings.target],
                neuron_cost=float(settings.target == "neurons" and not spec.repeats_neurons),
            )
        )
    return kernels


def _ranked_together(kernels):
    """Lists the positions of kernels that a local scope ranks together: those with coupled neurons."""
    members: list[tuple[set, list[int]]] = []
    for at, kernel in enumerate(kernels):
        groups = kernel.neuron_groups
        own = {("kernel", at)} if groups is None else {("group", int(group)) for group in groups}
        touching = [entry for entry in members if entry[0] & own]
        members = [entry for entry in members if not entry[0] & own]
        positions = sorted([at, *(position for _, its in touching for position in its)])
        members.append((own.union(*(entry[0] for entry in touching)), positions))
    return [positions for _, positions in members]


def _produced(liveness, kernel):
    """Returns the channel groups of a kernel's neurons. None if they are not channels of the output."""
    groups = kernel.neuron_groups
    return groups if kernel.path in liveness.linear_maps and groups is not None else None
