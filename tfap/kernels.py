"""What tfap knows about layer types: which weights can be pruned, and which axis numbers the neurons."""

import dataclasses
import math
import numbers

import numpy as np

from tfap import checks, keras_compat
from tfap.activations import ActivationCounts


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


def _depthwise(layer):
    # Output channel = input * multiplier + offset.
    name = "kernel" if keras_compat.is_keras3(layer) else "depthwise_kernel"
    return (KernelSpec(name, neuron_axes=(-2, -1)),)


def _einsum(layer):
    """The axes of an EinsumDense kernel, from its equation: `abc,cd->abd` reads c and feeds d."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    read = tuple(axis for axis, letter in enumerate(kernel) if letter in inputs and letter not in outputs)
    fed = tuple(axis for axis, letter in enumerate(kernel) if letter in outputs and letter not in inputs)
    if not fed:  # every axis of the kernel is shared with the input, as in a depthwise product
        fed = tuple(range(len(kernel)))
    return (
        KernelSpec(
            neuron_axes=fed,
            input_axes=read,
            feeds_output=[kernel[axis] for axis in fed] == [outputs[-1]],
            reads_input=[kernel[axis] for axis in read] == [inputs[-1]],
        ),
    )


def _recurrent(gates):
    return (
        KernelSpec("kernel", gates=gates, feeds_output=False),
        KernelSpec("recurrent_kernel", gates=gates, feeds_output=False, reads_input=False),
    )


def _inside(*attributes):
    """The weights of layers that a layer keeps under these attributes."""

    def specs(layer):
        return tuple(
            dataclasses.replace(spec, name=f"{attribute}.{spec.name}")
            for attribute in attributes
            for spec in kernel_specs(getattr(layer, attribute))
        )

    return specs


def _attention(layer):
    names = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
    return tuple(
        KernelSpec(
            f"{name}.kernel",
            neuron_axes=(-1,) if name == "_output_dense" else (-2, -1),
            input_axes=(0, 1) if name == "_output_dense" else (0,),
            feeds_output=False,
            reads_input=False,
        )
        for name in names
    )


_FORWARD = (KernelSpec(),)
_TRANSPOSED = (KernelSpec(neuron_axes=(-2,), input_axes=(-1,)),)
_SEPARABLE = (
    KernelSpec("depthwise_kernel", neuron_axes=(-2, -1), feeds_output=False),
    KernelSpec("pointwise_kernel", reads_input=False),
)
_CELL = _inside("cell")

# What each layer type of Keras's own has to prune: specs, or a function of the layer that gives them.
PRUNABLE_LAYERS = {
    "Dense": _FORWARD,
    "Conv1D": _FORWARD,
    "Conv2D": _FORWARD,
    "Conv3D": _FORWARD,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "Embedding": (KernelSpec("embeddings", reads_input=False),),
    "EinsumDense": _einsum,
    "SimpleRNNCell": _recurrent(gates=1),
    "GRUCell": _recurrent(gates=3),
    "LSTMCell": _recurrent(gates=4),
    "SimpleRNN": _CELL,
    "GRU": _CELL,
    "LSTM": _CELL,
    "RNN": _CELL,
    "Bidirectional": _inside("forward_layer", "backward_layer"),
    "TimeDistributed": _inside("layer"),
    "MultiHeadAttention": _attention,
}
_REGISTERED = {}

# Why a criterion that counts one side leaves a weight alone.
NOT_COUNTABLE = {
    "output": "the neurons that it feeds have no activation to count",
    "input": "the neurons that it reads are not the layer's inputs",
}


def register_prunable_layer(layer_class, kernels):
    """Tells tfap which weights of a custom layer can be pruned.

    Args:
        layer_class: the layer class, of either Keras; subclasses are included.
        kernels: list of `tfap.KernelSpec`: the attribute that holds each weight, and which of its axes
            number the neurons it feeds and the inputs it reads.

    Raises:
        TypeError: not a class, or not a list of `KernelSpec`s.

    >>> import keras, tfap
    >>> class Mixer(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(8, shape[-1]), name="w")  # (neurons, inputs)
    ...     def call(self, x):
    ...         return keras.ops.matmul(x, keras.ops.transpose(self.w))
    >>> tfap.register_prunable_layer(Mixer, [tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))])
    >>> tfap.prune(Mixer(name="mixer"), 0.5, criterion="magnitude").name
    'mixer'
    """
    if not keras_compat.is_layer_class(layer_class):
        raise TypeError(f"layer_class must be a layer class: received {layer_class!r}.")
    listed = isinstance(kernels, list | tuple) and kernels
    if not listed or not all(isinstance(spec, KernelSpec) for spec in kernels):
        raise TypeError(f"kernels must be a list of tfap.KernelSpec: received {kernels!r}.")
    _REGISTERED[layer_class] = tuple(kernels)


def kernel_specs(layer):
    """The `KernelSpec`s of a layer of either Keras, subclasses included; () if it has none."""
    for cls in type(layer).__mro__:
        known = _REGISTERED.get(cls)
        if known is None and cls.__module__.split(".")[0] in ("keras", "tf_keras"):
            known = PRUNABLE_LAYERS.get(cls.__name__)
        if known is not None:
            return known(layer) if callable(known) else known
    return ()


def why_not_prunable(layer):
    """The reason why `layer` has nothing to prune, or None if it has."""
    kind = type(layer).__name__
    specs = kernel_specs(layer)
    if not specs:
        if layer.built and not layer.weights:
            return "it has no weights"
        return f"{kind} layers have no kernel that tfap knows"
    for spec in specs:
        kernel = spec.find(layer)
        if layer.built and not keras_compat.is_variable(kernel):
            return f"its {spec.name} is no variable but computed from others, as with LoRA"
        if kernel is not None and "float" not in str(kernel.dtype):
            return f"its {spec.name} is quantized to {kernel.dtype}"
    return None


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
