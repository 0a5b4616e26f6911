"""What tfap knows about layer types: which weights can be pruned, and which axis numbers the neurons."""

import dataclasses
import math

import numpy as np

from tfap import keras_compat
from tfap.activations import ActivationCounts


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """One prunable weight of a layer type.

    Attributes:
        attributes: names under which the layer keeps it; the first one present counts.
        neuron_axes: axes that number the layer's own neurons or channels.
        input_axes: axes that number the neurons that the layer reads.
    """

    attributes: tuple[str, ...] = ("kernel",)
    neuron_axes: tuple[int, ...] = (-1,)
    input_axes: tuple[int, ...] = (-2,)

    def find(self, layer):
        """The layer's variable, or None while it is not built."""
        for name in self.attributes:
            if getattr(layer, name, None) is not None:
                return getattr(layer, name)
        return None

    @property
    def name(self):
        return self.attributes[0]


_FORWARD = (KernelSpec(),)
_TRANSPOSED = (KernelSpec(neuron_axes=(-2,), input_axes=(-1,)),)
# tf_keras calls it depthwise_kernel, Keras 3 kernel; output channel = input * multiplier + offset.
_DEPTHWISE = (KernelSpec(("depthwise_kernel", "kernel"), neuron_axes=(-2, -1)),)

PRUNABLE_LAYERS = {
    "Dense": _FORWARD,
    "Conv1D": _FORWARD,
    "Conv2D": _FORWARD,
    "Conv3D": _FORWARD,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
}


def kernel_specs(layer):
    """The `KernelSpec`s of a layer of either Keras, subclasses of Keras's own included; else ()."""
    for cls in type(layer).__mro__:
        if cls.__module__.split(".")[0] in ("keras", "tf_keras") and cls.__name__ in PRUNABLE_LAYERS:
            return PRUNABLE_LAYERS[cls.__name__]
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
    return math.prod(shape[axis] for axis in spec.neuron_axes)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One prunable weight as plain data: what a criterion gets to see.

    Attributes:
        path: of its layer, such as `inner/dense`.
        spec: which of its axes are which.
        weights: float array.
        mask: uint8 array of the same shape, 1 where the weight is alive.
        activations: `ActivationCounts` of the neurons on the side that the criterion asked for, or
            None if it asked for none.
    """

    path: str
    spec: KernelSpec
    weights: np.ndarray
    mask: np.ndarray
    activations: ActivationCounts | None = None

    def per_neuron(self, values):
        """Shape `(neurons,)` -> one that broadcasts against the kernel."""
        shape = [1] * self.weights.ndim
        for axis in self.spec.neuron_axes:
            shape[axis] = self.weights.shape[axis]
        return np.reshape(values, shape)

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
        return values.sum(axis=tuple(set(range(ndim)) - kept)).reshape(-1)
