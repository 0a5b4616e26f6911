"""What tfap knows about layer types: which weights can be pruned, and which axis numbers the neurons."""

import dataclasses

from tfap import keras_compat
from tfap.graph.kernel import KernelSpec


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
