"""Kernels: the prunable weights, with the axes that index neurons and inputs."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from tfap.graph.counts import ActivationCounts
from tfap.utils import checks


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """Describes a prunable weight of a layer type.

    Pass it to `tfap.register_prunable_layer`.

    Attributes:
        name: String. The attribute of the layer that holds the variable, such as `"kernel"`, `"cell.kernel"`,
            or `"blocks.0.dense.kernel"` for the first layer of a list.
        neuron_axes: Tuple of integers. The axes that index the neurons or channels that the weight produces.
        input_axes: Tuple of integers. The axes that index the inputs that it consumes.
        gates: Integer. How often the neurons are repeated along the neuron axis: 4 in an LSTM.
        feeds_output: Whether the neurons are the channels of the layer's output. If not, tfap cannot find
            where they fire, and criteria that count the output side do not prune the weight.
        reads_input: Whether the inputs are the channels of the layer's input. If not, criteria that count the
            input side do not prune the weight.
        first_neuron: Integer. For recurrent layers: the channel of the layer's output that the first neuron
            is. Criteria then count the output side for whole neurons only. None for all other layers.
        heads: Whether the neurons are the heads of an attention layer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `gates` is less than 1.

    Example:

    >>> import tfap
    >>> kernel = tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))  # a kernel (neurons, inputs)
    >>> kernel.feeds_output
    True
    """

    name: str = "kernel"
    neuron_axes: tuple[int, ...] = (-1,)
    input_axes: tuple[int, ...] = (-2,)
    gates: int = 1
    feeds_output: bool = True
    reads_input: bool = True
    first_neuron: int | None = None
    heads: bool = False

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        checks.integer("gates", self.gates)
        for name in ("neuron_axes", "input_axes"):
            axes = getattr(self, name)
            listed = isinstance(axes, tuple | list)
            if not listed or not all(isinstance(axis, numbers.Integral) for axis in axes):
                raise TypeError(f"{name} must be a tuple of integers: received {axes!r}.")

    def find(self, layer: Any) -> Any:
        """Returns the layer's variable. None if the layer is not built."""
        for name in self.name.split("."):
            layer = _part(layer, name)
        return layer

    def countable(self, side: str | None, whole_neurons: bool = False) -> bool:
        """Returns whether a criterion can rank the weight.

        Args:
            side: String. The side that the criterion counts, "output" or "input". None if it does not count.
            whole_neurons: Whether whole neurons are pruned.
        """
        of_output = self.feeds_output or self.heads or (whole_neurons and self.first_neuron is not None)
        return {"output": of_output, "input": self.reads_input, None: True}[side]

    @property
    def makes_channels(self) -> bool:
        """Whether its neurons are channels of the layer's output, counted or not."""
        return self.feeds_output or self.first_neuron is not None

    @property
    def repeats_neurons(self) -> bool:
        """Whether its neurons are those of another kernel of the layer, which counts them."""
        if self.heads:
            return not self.name.startswith("_key_dense")  # as many as can be removed
        return self.first_neuron is not None and not self.reads_input

    def of_output(self, values: Any, neurons: int) -> Any:
        """Returns the values of its neurons among those of all channels of the layer's output.

        Args:
            values: Array or `ActivationCounts` with one entry per channel. For heads, `ActivationCounts` with
                one entry per query head.
            neurons: Integer. The number of neurons of the kernel.
        """
        if self.heads:
            return _of_shared_heads(values, neurons)
        if self.first_neuron is None:
            return values
        return values[self.first_neuron : self.first_neuron + neurons]


def _of_shared_heads(activations, heads):
    """Returns the counts of heads of keys and values: those of the query heads that share them, together."""
    shared = len(activations.counts) // heads
    counts = activations.counts.reshape(heads, shared).sum(axis=1)
    return dataclasses.replace(activations, counts=counts, seen=activations.seen * shared)


def _part(owner, name):
    """Returns an attribute of a layer, or an element of a list. None if it does not exist yet."""
    if not name.isdecimal():
        return getattr(owner, name, None)
    return owner[int(name)] if owner is not None and int(name) < len(owner) else None


def neuron_count(spec: KernelSpec, shape: tuple[int, ...]) -> int:
    """Returns the number of neurons that a kernel of this shape produces."""
    return math.prod(shape[axis] for axis in spec.neuron_axes) // spec.gates


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Holds a prunable weight as plain data: the argument of `Criterion.scores`.

    `gradients`, `squared_gradients`, `previous`, `input_norms`, `neuron_norms`, `removal_errors` and
    `loss_changes` are set only for criteria that list them in `needs`. All but the last two broadcast against
    `weights`.

    Attributes:
        path: String. Path of the layer, such as `inner/dense`.
        spec: `KernelSpec`. The meaning of the axes.
        weights: float32 or float64 array. Weights of 16 bits are converted to float32.
        mask: uint8 array of the same shape: 1 for kept weights, 0 for pruned ones.
        activations: `ActivationCounts` of the neurons on the side that the criterion counts. None if it does
            not count.
        neuron_groups: Integer array, shape `(neurons,)`. Neurons with the same number, in this or another
            kernel, are coupled: they are pruned together. None if no neurons are coupled.
        input_groups: Integer array, shape `(inputs,)`. The weights of an input are pruned together with the
            neuron group of this number. None if they are not.
        cost: Float. The cost of one weight, in the unit of the target: weights, neurons, or FLOPs.
        neuron_cost: Float. The cost of a neuron in addition to its weights.
        updates: Integer. The number of mask updates so far.
        gradients: Array. The gradient of the mean loss with respect to the weights.
        previous: Array. The weights at the last mask change, `prune()`, or rewind, whichever came last.
        input_norms: Array or float. The norm of the weights of other layers that produce each input. 1 if
            there are none.
        neuron_norms: Array or float. The norm of the weights of other layers that consume each neuron. 1 if
            there are none.
        dense_cost: Float. The cost of all weights and neurons without pruning, before `tfap.fit_and_compact`
            removed some of them. None if nothing was removed.
        fan_in_scale: Float. How many weights of the model before compaction one weight stands for.
        removal_errors: Array, shape `(neurons,)`. How much the sums of the consumers change if the neuron is
            removed, for `tfap.Reconstruction`. None if nothing has measured it.
        squared_gradients: Array. The mean over batches of the squared gradient of the loss with respect to
            the weights.
        loss_changes: Array, shape `(neurons,)`. The first-order change of the loss if the neuron is removed
            with all that is coupled with it, for `tfap.GroupTaylor`. None if nothing has measured it.

    Example:

    >>> import numpy as np, tfap
    >>> weights = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> kernel = tfap.Kernel("dense", tfap.KernelSpec(), weights, np.ones((2, 2), "uint8"))
    >>> kernel.neuron_sums(np.abs(weights))
    array([4., 6.])
    """

    path: str
    spec: KernelSpec
    weights: np.ndarray
    mask: np.ndarray
    activations: ActivationCounts | None = None
    neuron_groups: np.ndarray | None = None
    input_groups: np.ndarray | None = None
    cost: float = 1
    neuron_cost: float = 0
    updates: int = 0
    gradients: np.ndarray | None = None
    previous: np.ndarray | None = None
    input_norms: np.ndarray | float = 1.0
    neuron_norms: np.ndarray | float = 1.0
    dense_cost: float | None = None
    fan_in_scale: float = 1
    removal_errors: np.ndarray | None = None
    squared_gradients: np.ndarray | None = None
    loss_changes: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.weights.dtype.itemsize < 4:  # NumPy cannot rank bfloat16
            object.__setattr__(self, "weights", self.weights.astype(np.float32))

    def per_neuron(self, values: np.ndarray) -> np.ndarray:
        """Reshapes one value per neuron to broadcast against the kernel.

        Args:
            values: Array, shape `(neurons,)`.

        Returns:
            Array of the kernel's rank, with size 1 on all axes but the neuron axes.
        """
        shape = [1] * self.weights.ndim
        for axis in self.spec.neuron_axes:
            shape[axis] = self.weights.shape[axis]
        return np.reshape(np.tile(values, self.spec.gates), shape)

    def per_input(self, values: np.ndarray) -> np.ndarray:
        """Reshapes one value per input to broadcast against the kernel.

        Args:
            values: Array, shape `(inputs,)`.

        Returns:
            Array that broadcasts against the kernel. For a grouped convolution, shape
            `(inputs per group, neurons)`.
        """
        (axis,) = self.spec.input_axes
        width = self.weights.shape[axis]
        if len(values) == width:
            shape = [1] * self.weights.ndim
            shape[axis] = width
            return np.reshape(values, shape)
        # A grouped convolution, shape (..., inputs per group, outputs): each output group has its own inputs.
        groups = np.reshape(values, (-1, width))
        return np.repeat(groups.T, self.weights.shape[-1] // len(groups), axis=1)

    def neuron_sums(self, values: np.ndarray) -> np.ndarray:
        """Sums values over the weights of each neuron.

        Args:
            values: Array of the kernel's shape.

        Returns:
            Array, shape `(neurons,)`.
        """
        ndim = self.weights.ndim
        neuron_axes = {axis % ndim for axis in self.spec.neuron_axes}
        sums = values.sum(axis=tuple(set(range(ndim)) - neuron_axes))
        return sums.reshape(self.spec.gates, -1).sum(axis=0)

    def by_neuron(self, values: np.ndarray) -> np.ndarray:
        """Arranges values by neuron.

        Args:
            values: Array of the kernel's shape.

        Returns:
            Array, shape `(neurons, weights per neuron)`. The gates of a neuron follow each other.
        """
        neurons = neuron_count(self.spec, values.shape)
        by_axes = np.transpose(values, self._neuron_axes_first)
        by_gate = by_axes.reshape(self.spec.gates, neurons, -1)
        return np.swapaxes(by_gate, 0, 1).reshape(neurons, -1)

    def from_neurons(self, rows: np.ndarray) -> np.ndarray:
        """Arranges values as in the kernel: the inverse of `by_neuron`."""
        axes, shape = self._neuron_axes_first, self.weights.shape
        by_gate = rows.reshape(len(rows), self.spec.gates, -1)
        by_axes = np.swapaxes(by_gate, 0, 1).reshape([shape[axis] for axis in axes])
        return np.transpose(by_axes, np.argsort(axes))

    @property
    def _neuron_axes_first(self):
        ndim = self.weights.ndim
        neuron_axes = sorted(axis % ndim for axis in self.spec.neuron_axes)
        return [*neuron_axes, *(axis for axis in range(ndim) if axis not in neuron_axes)]

    def input_sums(self, values: np.ndarray, inputs: int) -> np.ndarray:
        """Sums values over the weights of each input.

        Args:
            values: Array of the kernel's shape.
            inputs: Integer. The number of inputs.

        Returns:
            Array, shape `(inputs,)`.
        """
        indices = np.broadcast_to(self.per_input(np.arange(inputs)), values.shape)
        return np.bincount(indices.ravel(), values.ravel(), inputs)

    def pair_sums(self, values: np.ndarray, inputs: np.ndarray | None, neurons: np.ndarray) -> np.ndarray:
        """Sums values over the weights between each group of inputs and each group of neurons.

        Args:
            values: Array of the kernel's shape.
            inputs: Integer array, shape `(inputs,)`. The group of each input, from 0. None puts all in one.
            neurons: Integer array, shape `(neurons,)`. The group of each neuron, from 0.

        Returns:
            int64 array, shape `(input groups, neuron groups)`.
        """
        ndim = values.ndim
        axes = (*self.spec.neuron_axes, *(self.spec.input_axes if inputs is not None else ()))
        others = set(range(ndim)) - {axis % ndim for axis in axes}
        sums = values.sum(axis=tuple(others), keepdims=True, dtype=np.int64)
        rows = np.zeros(1, int) if inputs is None else self.per_input(inputs)
        shape = rows.max() + 1, max(neurons) + 1
        pairs = np.broadcast_to(rows * shape[1] + self.per_neuron(neurons), sums.shape)
        return np.bincount(pairs.ravel(), sums.ravel(), math.prod(shape)).astype(np.int64).reshape(shape)
