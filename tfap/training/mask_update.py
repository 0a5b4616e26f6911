"""Mask updates: gather the kernels, score them, make masks, write them to the model."""

import collections
import dataclasses
import math
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compensation import removal
from tfap.compensation.removal import RemovalErrors
from tfap.criteria.gradient import MISSING, MeanGradients
from tfap.criteria.lookahead import AdjacentLayers
from tfap.graph import flops
from tfap.graph.coupling import Coupling
from tfap.graph.kernel import Kernel, neuron_count
from tfap.keras_compat.types import Model
from tfap.layers.find import FoundWrapper, find_wrappers
from tfap.masks.weights import Scored, score
from tfap.training import disconnected
from tfap.utils import checks

OF_ADJACENT_LAYERS = {"input_norms", "neuron_norms"}  # fields of a `Kernel` that other layers fill in


@dataclasses.dataclass(frozen=True, eq=False)
class PrunedWeight:
    """A prunable weight in a model.

    Attributes:
        found: The `FoundWrapper` of its layer.
        spec: Its `tfap.KernelSpec`.
        variable: Its variable.
        mask: The variable of its mask.
        neuron_groups: As in its `tfap.Kernel`, and so are `input_groups`, `cost` and `neuron_cost`.
        adjacent_layers: All kernels of its part of the model; None if its criterion does not need them, or
            if no graph has the layer.
    """

    found: FoundWrapper
    spec: Any
    variable: Any
    mask: Any
    neuron_groups: np.ndarray | None = None
    input_groups: np.ndarray | None = None
    cost: float = 1
    adjacent_layers: AdjacentLayers | None = None

    @property
    def path(self) -> str:
        """The path of its layer."""
        return self.found.path

    @property
    def wrapper(self) -> Any:
        """Its pruning wrapper."""
        return self.found.wrapper

    @property
    def size(self) -> int:
        return math.prod(self.mask.shape)

    @property
    def neurons(self) -> int:
        return neuron_count(self.spec, self.mask.shape)

    @property
    def neuron_cost(self) -> int:
        is_recurrence = self.spec.first_neuron is not None and not self.spec.reads_input
        is_repeated = is_recurrence or getattr(self.spec, "is_repeated", False)
        return int(self.wrapper.settings.target == "neurons" and not is_repeated)  # neurons cost once

    @property
    def dense_cost(self) -> float:
        """The cost of the weight without pruning or compaction, in the unit of the target."""
        size, neurons = self.wrapper.dense_sizes.get(self.spec.name, (self.size, self.neurons))
        return size * self.cost / self.fan_in_scale + neurons * self.neuron_cost

    @property
    def fan_in_scale(self) -> float:
        """How many weights of the given model an incoming weight stands for after compaction."""
        if self.input_groups is not None:
            return 1  # removed inputs have been counted themselves
        return self.wrapper.fan_in_scale.get(self.spec.name, 1)

    def gather(self):
        """Reads the weight as plain data.

        Returns:
            A `tfap.Kernel`.

        Raises:
            ValueError: If the criterion needs counts that are missing, or the mask has invalid values.
        """
        mask = self.mask.numpy()
        if mask.max(initial=0) > 1:
            raise ValueError(f"The mask of '{self.path}' has other values than 0 and 1: the masks stay.")
        activations = self._activations() if self.wrapper.criterion.counts else None
        return Kernel(
            self.path,
            self.spec,
            self.variable.numpy(),
            mask,
            activations,
            self.neuron_groups,
            self.input_groups,
            self.cost,
            self.neuron_cost,
            updates=int(self.wrapper.updates_made.numpy()),
            previous=self.wrapper.previous(self.spec) if self.wrapper.keeps_previous else None,
            dense_cost=self.dense_cost,
            fan_in_scale=self.fan_in_scale,
        )

    def _activations(self):
        activations = self.wrapper.remembered()
        if activations is None:
            raise ValueError(
                f"Nothing counts the activations of '{self.path}': give the layer an activation, or let "
                "a tfap.layers.CountActivations layer follow it in a Sequential or Functional model."
            )
        if not activations.seen:
            raise ValueError(
                f"No activations of '{self.path}' have been counted yet: train for a step before the "
                "first mask update."
            )
        return self.spec.of_output(activations, self.neurons)

    def write(self, mask, weights):
        self.variable.assign(weights * mask)  # first: a file written in between has no pruned weight
        self.mask.assign(mask)
        self.wrapper.zero_biases()

    def zero_pruned(self):
        """Zeroes kernels that the constraint misses: frozen ones, and those an average has overwritten."""
        self.variable.assign(self.variable.numpy() * self.mask.numpy())
        self.wrapper.zero_biases()


def pruned_weights(model):
    """Lists the `PrunedWeight`s of a model, in graph order."""
    weights = [
        PrunedWeight(found, *parts)
        for found in find_wrappers(model)
        for parts in found.wrapper.kernel_and_mask()
    ]
    coupled, numbers = {}, 0  # neuron groups are numbered consecutively over the parts
    for part in dict.fromkeys(weight.found.part for weight in weights):
        for weight in _coupled(part, [weight for weight in weights if weight.found.part is part], numbers):
            coupled[weight.path, weight.spec.name] = weight
            for groups_of in (weight.neuron_groups, weight.input_groups):
                numbers = max(numbers, 0 if groups_of is None else int(groups_of.max(initial=-1)) + 1)
    weights = [coupled[weight.path, weight.spec.name] for weight in weights]
    costs = _costs(model, weights)
    return [
        dataclasses.replace(weight, cost=costs[weight.wrapper.settings.target](weight))
        if weight.wrapper.settings.pattern.couples_neurons
        else weight
        for weight in weights
    ]


def _coupled(part, weights, first_number):
    """Adds graph information to the `PrunedWeight`s of a part; `part` is None if no graph has them."""
    if part is None:
        return weights
    if any(weight.wrapper.criterion.needs & OF_ADJACENT_LAYERS for weight in weights):
        adjacent_layers = AdjacentLayers(part.model)
        weights = [dataclasses.replace(weight, adjacent_layers=adjacent_layers) for weight in weights]
    if not any(weight.wrapper.settings.pattern.couples_neurons for weight in weights):
        return weights
    coupling = Coupling(part.model)

    def numbered(numbers):
        return None if numbers is None else numbers + first_number

    return [
        dataclasses.replace(
            weight,
            neuron_groups=numbered(coupling.of_neurons(path, weight.spec, weight.neurons)),
            input_groups=numbered(coupling.of_inputs(path, weight.spec, weight.mask.shape)),
        )
        for weight in weights
        for path in (weight.found.path_in_part,)
    ]


def _costs(model, weights):
    """Returns a function per target for the cost of one weight in its unit."""
    by_flops = [weight for weight in weights if weight.wrapper.settings.target == "flops"]
    parts = dict.fromkeys(weight.found.part for weight in by_flops)
    operations = {
        (part, path): number
        for part in parts
        for path, number in flops.layer_flops(part.model if part else model).items()
    }
    for weight in by_flops:
        if (weight.found.part, weight.found.path_in_part) not in operations:
            raise ValueError(
                f"target='flops' needs the FLOPs of '{weight.path}', which tfap cannot count: pass "
                "multiply_adds to tfap.register_prunable_layer, or choose another target."
            )
    sizes = collections.Counter()
    for weight in weights:
        sizes[weight.path] += weight.size

    def flops_of_one(weight):
        its_layer = operations[weight.found.part, weight.found.path_in_part]
        return weight.fan_in_scale * its_layer / sizes[weight.path]

    return {
        "weights": lambda weight: weight.fan_in_scale,
        "neurons": lambda weight: 0,
        "flops": flops_of_one,
    }


def groups(weights):
    """Splits `PrunedWeight`s by `PruningSettings.key`. A global scope ranks each group together."""
    by_key = {}
    for weight in weights:
        by_key.setdefault(weight.wrapper.settings.key, []).append(weight)
    return list(by_key.values())


@dataclasses.dataclass(frozen=True, eq=False)
class MaskUpdate:
    """The masks that have been decided for one group of `PrunedWeight`s.

    Attributes:
        weights: The `PrunedWeight`s of the group.
        kernels: Their `Kernel`s at the time of the decision.
        masks: Their new masks.
        scored: Their `masks.weights.Scored`, for the thresholds that tfmot's callback logs.
    """

    weights: list[PrunedWeight]
    kernels: list[Kernel]
    masks: list[np.ndarray]
    scored: list[Scored]

    def write(self):
        """Writes the masks to the model and counts the update."""
        changed = False
        for weight, kernel, mask in zip(self.weights, self.kernels, self.masks, strict=True):
            if not np.array_equal(mask, kernel.mask):
                weight.write(mask, kernel.weights)
                changed = True
        for weight, item, mask in zip(self.weights, self.scored, self.masks, strict=True):
            weight.wrapper.note_threshold(weight.spec, item, mask)
        for wrapper in {id(weight.wrapper): weight.wrapper for weight in self.weights}.values():
            wrapper.updates_made.assign(wrapper.updates_made.numpy() + 1)
            if wrapper.remembers:
                wrapper.forget(wrapper.criterion.decay)
            if changed:
                wrapper.note_weights()


def decide_update(weights, sparsity, gradients=None, errors=None):
    """Decides the masks of one group of `PrunedWeight`s without changing anything.

    Args:
        weights: The `PrunedWeight`s of one group.
        sparsity: A float. The fraction that is pruned afterwards.
        gradients: `MeanGradients` for a criterion that needs them, else None.
        errors: `RemovalErrors` for a criterion that needs them, else None.

    Returns:
        A `MaskUpdate`.
    """
    settings = weights[0].wrapper.settings
    scored = [score(settings.criterion, kernel) for kernel in gathered(weights, gradients, errors)]
    made = [item.kernel.mask for item in scored]
    for together in _their_turn(settings, _ranked_together(settings, scored), weights):
        items = [scored[at] for at in together]
        masks = settings.criterion.new_masks(items, sparsity, settings.pattern)
        for at, mask in zip(together, masks, strict=True):
            made[at] = mask
    kernels = [item.kernel for item in scored]
    return MaskUpdate(weights, kernels, list(settings.pattern.complete(kernels, made)), scored)


def gathered(weights, gradients=None, errors=None):
    """Reads the `Kernel`s of a group with all that its criterion needs; arguments as in `decide_update`."""
    kernels, criterion = [weight.gather() for weight in weights], weights[0].wrapper.criterion
    if criterion.needs & OF_ADJACENT_LAYERS:
        norms = {found: found.norms() for found in {weight.adjacent_layers for weight in weights} - {None}}
        kernels = [
            dataclasses.replace(
                kernel,
                **norms.get(weight.adjacent_layers, {}).get(
                    (weight.found.path_in_part, weight.spec.name), {}
                ),
            )
            for weight, kernel in zip(weights, kernels)
        ]
    if "gradients" in criterion.needs:
        if gradients is None:
            raise ValueError(MISSING.format(criterion=criterion))
        found = gradients.of([weight.variable for weight in weights])
        kernels = [dataclasses.replace(kernel, gradients=its) for kernel, its in zip(kernels, found)]
    if "removal_errors" in criterion.needs:
        if errors is None:
            raise ValueError(removal.MISSING.format(criterion=criterion))
        by_path = errors.by_path()
        kernels = [
            dataclasses.replace(kernel, removal_errors=_errors_of(weight, by_path))
            for weight, kernel in zip(weights, kernels)
        ]
    return kernels


def _errors_of(weight, by_path):
    """Returns the removal errors of a weight's neurons, the largest for those that cannot be removed."""
    largest = max((its[np.isfinite(its)].max(initial=0) for its in by_path.values()), default=0)
    its = weight.spec.of_output(by_path.get(weight.path, ()), weight.neurons)
    its = its if len(its) == weight.neurons else np.full(weight.neurons, np.inf)
    return np.where(np.isfinite(its), its, 2 * largest + 1)


def _their_turn(settings, together, weights):
    """Returns all that are ranked together; in a layer-wise update, the next layer in turn."""
    if settings.scope != "layerwise":
        return together
    return [together[int(weights[0].wrapper.updates_made.numpy()) % len(together)]]


def _ranked_together(settings, scored):
    """Lists positions that are ranked together: all in a global scope, else those with coupled neurons."""
    if settings.scope == "global":
        return [range(len(scored))]
    members = []
    for at, item in enumerate(scored):
        coupled = item.kernel.neuron_groups
        own = {("group", group) for group in coupled} if coupled is not None else {("kernel", at)}
        touching = [entry for entry in members if entry[0] & own]
        members = [entry for entry in members if not entry[0] & own]
        together = sorted([at, *(position for _, positions in touching for position in positions)])
        members.append((own.union(*(entry[0] for entry in touching)), together))
    return [positions for _, positions in members]


def update_masks(
    model: Model,
    sparsity: float,
    gradient_data: Any = None,
    gradient_steps: int | None = None,
    reconstruction_data: Any = None,
) -> None:
    """Updates the masks of a wrapped model once, for custom training loops and tests.

    If it raises, the model is unchanged.

    Args:
        model: A model with pruning wrappers, of either Keras.
        sparsity: A float in [0, 1). The fraction of the prunable weights that is pruned afterwards: exactly
            round(sparsity x weights), or as many whole neurons as do not exceed that. Pruned weights stay
            pruned, so a lower sparsity than before changes nothing.
        gradient_data: Data for criteria that need gradients, as in `tfap.UpdatePruningStep`.
        gradient_steps: The number of its batches, as in `tfap.UpdatePruningStep`.
        reconstruction_data: Inputs for `tfap.Reconstruction`, as in `tfap.UpdatePruningStep`.

    Raises:
        TypeError: If the sparsity is not a number, or `model` is not a Keras model.
        ValueError: If the sparsity is outside [0, 1), the model has no wrapper, no activations have been
            counted, a weight or score is not finite, a wrapper with `remove_disconnected=True` is in no
            Sequential or Functional model, or gradients are needed without data or in a model that is not
            compiled.

    Example:

    >>> import keras, tfap
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> net = tfap.prune(net, 0.5, criterion="magnitude")
    >>> tfap.update_masks(net, 0.25)
    >>> int((tfap.prunable_layers(net)[0].mask.numpy() == 0).sum())
    8
    """
    if not 0 <= checks.number("sparsity", sparsity) < 1:
        raise ValueError(f"The sparsity must be in [0, 1): received {sparsity}.")
    weights = pruned_weights(model)
    if not weights:
        raise ValueError(f"The model '{model.name}' has no pruning wrappers: call tfap.prune first.")
    wrappers = [weight.wrapper for weight in weights]
    disconnected.check(model, wrappers)
    gradients = gradients_for(model, wrappers, gradient_data, gradient_steps)
    errors = errors_for(model, wrappers, reconstruction_data)
    updates = [decide_update(group, sparsity, gradients, errors) for group in groups(weights)]
    with disconnected.undone_on_error(wrappers):
        for update in updates:
            update.write()
        disconnected.remove(model, wrappers)


def gradients_for(model, wrappers, data, steps):
    """Makes `MeanGradients` if the criterion of a wrapper needs them, else returns None.

    Raises:
        TypeError: If they are needed and the data cannot be iterated at every update.
        ValueError: If they are needed and there is no data or no loss.
    """
    needing = [wrapper.criterion for wrapper in wrappers if "gradients" in wrapper.criterion.needs]
    if not needing:
        return None
    if data is None:
        raise ValueError(MISSING.format(criterion=needing[0]))
    return MeanGradients(model, data, steps)


def errors_for(model, wrappers, data):
    """Makes `RemovalErrors` if the criterion of a wrapper needs them, else returns None.

    Raises:
        TypeError: If they are needed and the data cannot be read at every update.
        ValueError: If they are needed and there is no data, or the model has no graph.
    """
    needing = [wrapper.criterion for wrapper in wrappers if "removal_errors" in wrapper.criterion.needs]
    if not needing:
        return None
    if data is None:
        raise ValueError(removal.MISSING.format(criterion=needing[0]))
    keras_compat.check_measurable(model, str(needing[0]))
    return RemovalErrors(model, data)


def sparsity_of(weights):
    """Returns the pruned fraction of some `PrunedWeight`s."""
    total = sum(np.prod(weight.mask.shape) for weight in weights)
    return float(1 - sum(np.count_nonzero(weight.mask.numpy()) for weight in weights) / total)
