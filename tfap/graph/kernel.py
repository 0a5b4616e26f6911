"""A prunable weight: which axes of it number neurons and inputs, and its values as plain data."""

import dataclasses
import math
import numbers

import numpy as np

from tfap.graph.counts import ActivationCounts
from tfap.utils import checks


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """One prunable weight of a layer type.

    Attributes:
        name: attribute under which the layer keeps the variable, such as `kernel` or `cell.kernel`, or
            `blocks.0.dense.kernel` inside the first of a list.
        neuron_axes: axes that number the neurons or channels that the weight feeds.
        input_axes: axes that number the neurons that it reads.
        gates: neurons follow each other this many times along the neuron axis (4 in an LSTM).
        feeds_output: True if these neurons are the channels of the layer's output. Where they fire is
            then known; otherwise criteria that count the output side leave the weight alone.
        reads_input: True if the inputs are the channels of the layer's input, likewise.
    """

    name: str = "kernel"
    neuron_axes: tuple[int, ...] = (-1,)
    input_axes: tuple[int, ...] = (-2,)
    gates: int = 1
    feeds_output: bool = True
    reads_input: bool = True

    def __post_init__(self):
        checks.text("name", self.name)
        checks.whole("gates", self.gates)
        for name in ("neuron_axes", "input_axes"):
            axes = getattr(self, name)
            listed = isinstance(axes, tuple | list)
            if not listed or not all(isinstance(axis, numbers.Integral) for axis in axes):
                raise TypeError(f"{name} must be a tuple of whole numbers: received {axes!r}.")

    def find(self, layer):
        """The layer's variable, or None while it is not built."""
        for name in self.name.split("."):
            layer = _part(layer, name)
        return layer

    def countable(self, side):
        """True if a criterion that counts this side ("output", "input" or None) can rank the weight."""
        return {"output": self.feeds_output, "input": self.reads_input, None: True}[side]


def _part(thing, name):
    """What a layer keeps under an attribute, or a list under a number; None if nothing is there yet."""
    if not name.isdecimal():
        return getattr(thing, name, None)
    return thing[int(name)] if thing is not None and int(name) < len(thing) else None


def neuron_count(spec, shape):
    """How many neurons a kernel of this shape feeds."""
    return math.prod(shape[axis] for axis in spec.neuron_axes) // spec.gates


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One prunable weight as plain data: what a criterion gets to see.

    Attributes:
        path: of its layer, such as `inner/dense`.
        spec: which of its axes are which.
        weights: float32 or float64 array; float32 where the layer's are of 16 bits.
        mask: uint8 array of the same shape, 1 where the weight is alive.
        activations: `ActivationCounts` of the neurons on the side that the criterion asked for, or
            None if it asked for none.
        neuron_groups: int array `(neurons,)`: neurons with the same number, here or in other kernels, go
            together or not at all; None if each goes by itself.
        input_groups: int array `(inputs,)`: the weights of an input go with the neuron group of this
            number; None if they stay.
        cost: of one weight, in the unit of the target: weights, neurons or floating-point operations.
        neuron_cost: what a neuron costs besides its weights.
        updates: how many mask updates there have been.

    Filled in for criteria that need them (see `Criterion.needs`), each broadcasting against the kernel:

    Attributes:
        gradients: of the mean loss with respect to the weights.
        previous: the weights when masks last changed, at `prune()` or after a rewind, whichever was last.
        input_norms: of the weights of other layers into each input; 1 where nothing feeds it.
        neuron_norms: of the weights of other layers out of each neuron; 1 where nothing reads it.
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

    def __post_init__(self):
        if self.weights.dtype.itemsize < 4:  # NumPy cannot rank every kind of them
            object.__setattr__(self, "weights", self.weights.astype(np.float32))

    def per_neuron(self, values):
        """Shape `(neurons,)` -> one that broadcasts against the kernel."""
        shape = [1] * self.weights.ndim
        for axis in self.spec.neuron_axes:
            shape[axis] = self.weights.shape[axis]
        return np.reshape(np.tile(values, self.spec.gates), shape)

    def per_input(self, values):
        """Shape `(input neurons,)` -> one that broadcasts against the kernel, grouped ones too."""
        (axis,) = self.spec.input_axes
        width = self.weights.shape[axis]
        if len(values) == width:
            shape = [1] * self.weights.ndim
            shape[axis] = width
            return np.reshape(values, shape)
        # A grouped convolution (..., inputs a group, outputs): each group of outputs has its inputs.
        groups = np.reshape(values, (-1, width))
        return np.repeat(groups.T, self.weights.shape[-1] // len(groups), axis=1)

    def neuron_sums(self, values):
        """Sums an array of the kernel's shape over each neuron's weights -> `(neurons,)`."""
        ndim = self.weights.ndim
        kept = {axis % ndim for axis in self.spec.neuron_axes}
        sums = values.sum(axis=tuple(set(range(ndim)) - kept))
        return sums.reshape(self.spec.gates, -1).sum(axis=0)

    def input_sums(self, values, inputs):
        """Sums an array of the kernel's shape over the weights of each of so many inputs -> `(inputs,)`."""
        places = np.broadcast_to(self.per_input(np.arange(inputs)), values.shape)
        return np.bincount(places.ravel(), values.ravel(), inputs)

    def pair_sums(self, values, inputs, neurons):
        """Sums an array of the kernel's shape over the weights between groups of inputs and of neurons.

        Args:
            values: array of the kernel's shape.
            inputs: the group of each input, numbered from 0; None puts all in one.
            neurons: the group of each neuron, numbered from 0.

        Returns:
            int64 array `(groups of inputs, groups of neurons)`.
        """
        ndim, kept = (
            values.ndim,
            (*self.spec.neuron_axes, *(self.spec.input_axes if inputs is not None else ())),
        )
        others = set(range(ndim)) - {axis % ndim for axis in kept}
        sums = values.sum(axis=tuple(others), keepdims=True, dtype=np.int64)
        rows = np.zeros(1, int) if inputs is None else self.per_input(inputs)
        shape = rows.max() + 1, max(neurons) + 1
        pairs = np.broadcast_to(rows * shape[1] + self.per_neuron(neurons), sums.shape)
        return np.bincount(pairs.ravel(), sums.ravel(), math.prod(shape)).astype(np.int64).reshape(shape)
