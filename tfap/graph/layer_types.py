"""The table of layer types: all that tfap knows about a kind of layer, in one row each.

A row is found by the layer's class and by which Keras owns it, never by the bare class name: a user's class
may be called `Dropout` too. A subclass shares the row of its base as long as it computes what the base
computes; one that overrides `call` keeps its kernels, but nothing is known of its channels.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Sequence

from tfap import keras_compat
from tfap.graph import multiply_adds as products
from tfap.graph.kernel import KernelSpec


class ChannelRule(enum.Enum):
    """How the channels of a layer's output come from those of its inputs."""

    LINEAR = "weighted sums of the input channels"
    DEPTHWISE = "one window of weights on each input channel"
    SAME = "channel j of the output from channel j of the input alone"
    MERGED = "channel j of the output from channel j of each input"
    CONCATENATED = "the channels of all inputs, one after another"
    RESHAPED = "the elements of the input in the same order"
    PERMUTED = "the axes of the input in another order"


class ConstantRule(enum.Enum):
    """What a layer makes of a channel that is constant."""

    KEPT = "the same constant"
    APPLIED = "the layer, applied to the constant"
    ZERO_KEPT = "zero if it was zero; padding mixes other constants with zeros"
    NORMALIZED = "scaled and shifted by the channel's statistics"
    PRELU = "scaled by the channel's slope"


@dataclasses.dataclass(frozen=True)
class LayerType:
    """One row of the table. What is None or False is unknown, and tfap then leaves the channels alone.

    Attributes:
        kernels: The prunable weights: a tuple of `KernelSpec`s, or a function of the layer that returns one.
        multiply_adds: Function `(layer, weights, input shapes, output shape)`; see `graph/multiply_adds.py`.
        channels: A `ChannelRule`.
        constants: A `ConstantRule`, for layers of `ChannelRule.SAME`.
        keeps_neurons: Whether neurons keep their numbers through it and fire in it or further downstream.
        is_activation: Whether they fire in it.
        units: Config entry that holds the number of output channels, for layers of `ChannelRule.LINEAR`.
        adds_bias: Whether a layer without a bias can be rebuilt with one.
        random_in_training: Whether the layer computes something else with `training=True`.
        per_time_step: Whether it applies the layer that it wraps to every time step.
        elementwise_weights: Whether weights with several axes multiply element by element.
    """

    kernels: tuple[KernelSpec, ...] | Callable = ()
    multiply_adds: Callable | None = None
    channels: ChannelRule | None = None
    constants: ConstantRule | None = None
    keeps_neurons: bool = False
    is_activation: bool = False
    units: str | None = None
    adds_bias: bool = False
    random_in_training: bool = False
    per_time_step: bool = False
    elementwise_weights: bool = False

    def kernel_specs(self, layer):
        return self.kernels(layer) if callable(self.kernels) else self.kernels


UNKNOWN = LayerType()

# -- kernels -----------------------------------------------------------------------------------------


def _depthwise(layer):
    # Output channel = input * multiplier + offset.
    name = "kernel" if keras_compat.is_keras3(layer) else "depthwise_kernel"
    return (KernelSpec(name, neuron_axes=(-2, -1)),)


def _einsum(layer):
    """The axes of an EinsumDense kernel, from its equation: `abc,cd->abd` consumes c and produces d."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    consumed = tuple(axis for axis, letter in enumerate(kernel) if letter in inputs and letter not in outputs)
    produced = tuple(axis for axis, letter in enumerate(kernel) if letter in outputs and letter not in inputs)
    if not produced:  # every axis of the kernel is shared with the input, as in a depthwise product
        produced = tuple(range(len(kernel)))
    return (
        KernelSpec(
            neuron_axes=produced,
            input_axes=consumed,
            feeds_output=[kernel[axis] for axis in produced] == [outputs[-1]],
            reads_input=[kernel[axis] for axis in consumed] == [inputs[-1]],
        ),
    )


def _recurrent(gates):
    return (
        KernelSpec("kernel", gates=gates, feeds_output=False),
        KernelSpec("recurrent_kernel", gates=gates, feeds_output=False, reads_input=False),
    )


def _inside(*attributes):
    """The kernels of the layers that a layer keeps under these attributes."""

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

# -- the rows ----------------------------------------------------------------------------------------


def _linear(kernels, rule, units="filters"):
    return LayerType(kernels, rule, ChannelRule.LINEAR, units=units, adds_bias=True)


def _same(constants, keeps_neurons=True, **others):
    return LayerType(channels=ChannelRule.SAME, constants=constants, keeps_neurons=keeps_neurons, **others)


_CONVOLUTION = _linear(_FORWARD, products.at_output_positions)
_TRANSPOSED_CONVOLUTION = _linear(_TRANSPOSED, products.at_input_positions)
_SEPARABLE_CONVOLUTION = _linear(_SEPARABLE, products.at_output_positions)
_DEPTHWISE_CONVOLUTION = LayerType(_depthwise, products.at_output_positions, ChannelRule.DEPTHWISE)
_RECURRENT = LayerType(_inside("cell"), products.at_time_steps)
_ACTIVATION = _same(ConstantRule.APPLIED, is_activation=True)
_DROPOUT = _same(ConstantRule.KEPT, random_in_training=True)
_POOLING = _same(ConstantRule.KEPT)
_PADDING = _same(ConstantRule.ZERO_KEPT)
_BATCH_NORMALIZATION = _same(ConstantRule.NORMALIZED, random_in_training=True)
# Statistics over several channels: neurons keep their numbers, but no channel can be removed.
_NORMALIZATION = LayerType(keeps_neurons=True, elementwise_weights=True)
_MERGE = LayerType(channels=ChannelRule.MERGED, keeps_neurons=True)
_RESHAPE = LayerType(channels=ChannelRule.RESHAPED)

_DIMENSIONS = (1, 2, 3)

# Rows of Keras's own layers, Keras 3 and tf_keras alike, by class name.
LAYERS = {
    # Kernels
    "Dense": _linear(_FORWARD, products.at_output_positions, units="units"),
    "EinsumDense": _linear(_einsum, products.einsum, units="output_shape"),
    "Embedding": LayerType(
        (KernelSpec("embeddings", reads_input=False),),
        products.none,
        ChannelRule.LINEAR,
        units="output_dim",
    ),
    **{f"Conv{d}D": _CONVOLUTION for d in _DIMENSIONS},
    **{f"Conv{d}DTranspose": _TRANSPOSED_CONVOLUTION for d in _DIMENSIONS},
    "SeparableConv1D": _SEPARABLE_CONVOLUTION,
    "SeparableConv2D": _SEPARABLE_CONVOLUTION,
    "DepthwiseConv1D": _DEPTHWISE_CONVOLUTION,
    "DepthwiseConv2D": _DEPTHWISE_CONVOLUTION,
    "SimpleRNNCell": LayerType(_recurrent(gates=1)),
    "GRUCell": LayerType(_recurrent(gates=3)),
    "LSTMCell": LayerType(_recurrent(gates=4)),
    "SimpleRNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "RNN": _RECURRENT,
    "Bidirectional": LayerType(_inside("forward_layer", "backward_layer"), products.at_time_steps),
    "TimeDistributed": LayerType(_inside("layer"), per_time_step=True),
    "MultiHeadAttention": LayerType(_attention, products.attention),
    # Activations
    **dict.fromkeys(("ELU", "LeakyReLU", "ReLU", "ThresholdedReLU"), _ACTIVATION),
    "PReLU": _same(ConstantRule.PRELU, is_activation=True, elementwise_weights=True),
    "Activation": _same(ConstantRule.APPLIED),
    # Random in training, the identity otherwise
    **dict.fromkeys(("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"), _DROPOUT),
    **{f"SpatialDropout{d}D": _DROPOUT for d in _DIMENSIONS},
    "ActivityRegularization": _DROPOUT,
    "Identity": _same(ConstantRule.KEPT),
    "RepeatVector": _same(ConstantRule.KEPT, keeps_neurons=False),
    # Normalization
    "BatchNormalization": _BATCH_NORMALIZATION,
    "SyncBatchNormalization": _BATCH_NORMALIZATION,
    "GroupNormalization": _NORMALIZATION,
    "LayerNormalization": _NORMALIZATION,
    "RMSNormalization": dataclasses.replace(_NORMALIZATION, keeps_neurons=False),
    "Normalization": LayerType(elementwise_weights=True),
    # Windows on each channel
    **{
        f"{kind}{d}D": _POOLING
        for kind in ("AveragePooling", "MaxPooling", "GlobalAveragePooling", "GlobalMaxPooling")
        for d in _DIMENSIONS
    },
    **{f"{kind}{d}D": _POOLING for kind in ("Cropping", "UpSampling") for d in _DIMENSIONS},
    **{f"ZeroPadding{d}D": _PADDING for d in _DIMENSIONS},
    # Several inputs, and other shapes
    **dict.fromkeys(("Add", "Average", "Maximum", "Minimum", "Subtract"), _MERGE),
    "Multiply": dataclasses.replace(_MERGE, keeps_neurons=False),
    "Concatenate": LayerType(channels=ChannelRule.CONCATENATED),
    "Flatten": _RESHAPE,
    "Reshape": _RESHAPE,
    "Permute": LayerType(channels=ChannelRule.PERMUTED),
}

# Rows of Keras 3's functions in a graph, such as `keras.ops.add`, by the name of their operation. They
# cannot count, so no neuron fires in one.
_ELEMENTWISE_FUNCTION = _same(ConstantRule.APPLIED, keeps_neurons=False)
FUNCTIONS = {
    **dict.fromkeys(("Add", "Maximum", "Minimum", "Subtract"), _MERGE),
    "Multiply": dataclasses.replace(_MERGE, keeps_neurons=False),
    **dict.fromkeys(
        (
            *("Absolute", "Celu", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu", "HardTanh"),
            *("LeakyRelu", "LogSigmoid", "Negative", "Relu", "Relu6", "Selu", "Sigmoid", "Silu"),
            *("Softplus", "Softsign", "Square", "Tanh"),
        ),
        _ELEMENTWISE_FUNCTION,
    ),
}

_REGISTERED: dict[type, LayerType] = {}

# -- lookup ------------------------------------------------------------------------------------------


def of(layer):
    """The row of a layer, or of a function in a graph, of either Keras; `UNKNOWN` if there is none."""
    return _row_of_class(type(layer))


@functools.cache
def _row_of_class(cls):
    rows = LAYERS if keras_compat.is_layer_class(cls) else FUNCTIONS
    for base in cls.__mro__:
        row = _REGISTERED.get(base)
        if row is None and keras_compat.is_keras_class(base):
            row = rows.get(base.__name__)
        if row is not None:
            return _of_another_call(row) if _overrides_call(cls, base) else row
    return UNKNOWN


def _of_another_call(row):
    """What is left to know of a subclass that computes something else: its kernels."""
    if not row.kernels:
        return UNKNOWN

    def kernels(layer):
        specs = row.kernel_specs(layer)
        return tuple(dataclasses.replace(spec, feeds_output=False, reads_input=False) for spec in specs)

    return LayerType(kernels)


# What a subclass may override and still compute what its base computes.
_OF_NO_EFFECT = {
    *("build", "build_from_config", "compute_mask", "compute_output_shape", "compute_output_spec"),
    *("count_params", "from_config", "get_build_config", "get_config", "load_own_variables"),
    "save_own_variables",
}


def _overrides_call(cls, base):
    """Whether a subclass replaces something of its base that decides what the layer computes."""
    between = cls.__mro__[: cls.__mro__.index(base)]
    names = {name for other in between for name in vars(other)}
    dunder = {name for name in names if name.startswith("__")} - {"__call__"}
    return any(
        hasattr(base, name) and (callable(getattr(cls, name)) or isinstance(getattr(cls, name), property))
        for name in names - dunder - _OF_NO_EFFECT
    )


def kernel_specs(layer):
    """The `KernelSpec`s of a layer of either Keras; () if it has none."""
    return of(layer).kernel_specs(layer)


# Why a criterion that counts one side leaves a weight alone.
NOT_COUNTABLE = {
    "output": "the neurons that it feeds have no activation to count",
    "input": "the neurons that it reads are not the layer's inputs",
}


def why_not_prunable(layer):
    """The reason why `layer` has nothing to prune, or None if it has."""
    specs = kernel_specs(layer)
    if not specs:
        if layer.built and not layer.weights:
            return "it has no weights"
        return f"{type(layer).__name__} layers have no kernel that tfap knows"
    for spec in specs:
        kernel = spec.find(layer)
        if layer.built and not keras_compat.is_variable(kernel):
            return f"its {spec.name} is no variable but computed from others, as with LoRA"
        if kernel is not None and "float" not in str(kernel.dtype):
            return f"its {spec.name} is quantized to {kernel.dtype}"
    return None


# -- registration ------------------------------------------------------------------------------------


def register_prunable_layer(
    layer_class: type,
    kernels: Sequence[KernelSpec],
    units: str | None = None,
    multiply_adds: Callable | None = None,
) -> None:
    """Registers a custom layer type, so that its weights are pruned.

    Args:
        layer_class: The layer class, of either Keras. Subclasses that do not override `call` are included.
        kernels: List of `tfap.KernelSpec`: the attribute that holds each weight, and which of its axes number
            the neurons that it feeds and the inputs that it reads.
        units: Name of the config entry that holds the number of neurons, such as "units". `tfap.compact` then
            removes neurons, and rebuilds the layer with fewer units. The layer must have one kernel with two
            axes, or a convolution's, and at most a `bias` besides, and compute
            `activation(inputs @ kernel + bias)` on the last axis. None keeps every neuron.
        multiply_adds: Function `(layer, input_shapes, output_shape)` that returns the multiply-adds of one
            sample, for FLOPs; shapes are tuples that include the batch. None leaves the layer out of FLOPs.

    Raises:
        TypeError: If `layer_class` is not a layer class, `kernels` not a list of `KernelSpec`s, `units` not a
            string, or `multiply_adds` not a function.
        ValueError: If `units` is given for several kernels, or for one that does not read the inputs and feed
            the output of the layer.

    Example:

    >>> import keras, tfap
    >>> class Mixer(keras.layers.Layer):
    ...     def __init__(self, units, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.units = units
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(self.units, shape[-1]), name="w")  # (neurons, inputs)
    ...     def call(self, x):
    ...         return keras.ops.matmul(x, keras.ops.transpose(self.w))
    ...     def get_config(self):
    ...         return {**super().get_config(), "units": self.units}
    >>> kernel = tfap.KernelSpec("w", neuron_axes=(0,), input_axes=(1,))
    >>> tfap.register_prunable_layer(Mixer, [kernel], units="units")
    >>> tfap.prune(Mixer(8, name="mixer"), 0.5, criterion="magnitude").name
    'mixer'
    """
    _check_layer_class(layer_class)
    listed = isinstance(kernels, list | tuple) and kernels
    if not listed or not all(isinstance(spec, KernelSpec) for spec in kernels):
        raise TypeError(f"kernels must be a list of tfap.KernelSpec: received {kernels!r}.")
    if units is not None and not isinstance(units, str):
        raise TypeError(f"units must be a string or None: received {units!r}.")
    if multiply_adds is not None and not callable(multiply_adds):
        raise TypeError(f"multiply_adds must be a function or None: received {multiply_adds!r}.")
    if units is not None and not (
        len(kernels) == 1 and kernels[0].feeds_output and kernels[0].reads_input and kernels[0].gates == 1
    ):
        raise ValueError(
            f"units={units!r} needs one kernel that reads the layer's inputs and feeds its output: received "
            f"{kernels!r}."
        )

    def rule(layer, weights, inputs, output):
        return multiply_adds(layer, inputs, output)

    _register(
        layer_class,
        LayerType(
            tuple(kernels),
            rule if multiply_adds else None,
            ChannelRule.LINEAR if units else None,
            units=units,
        ),
    )


def register_pass_through_layer(
    layer_class: type, elementwise: bool = False, activation: bool = False
) -> None:
    """Registers a custom layer type that channels pass through.

    Channel j of the layer's output must depend on channel j of its input alone, and both must have the same
    number of channels, on the last axis or where `data_format` says. Neurons are then found to fire past
    the layer, coupled channels are followed through it, and `tfap.compact` removes channels on both sides.
    Weights of the layer with one entry per channel are cut with them.

    Args:
        layer_class: The layer class, of either Keras. Subclasses that do not override `call` are included.
        elementwise: Whether the layer applies one function to each element, at any position, so that a
            constant channel stays constant. `tfap.compact` then removes constant channels in front of it too.
        activation: Whether the layer is the activation of the neurons before it: they are counted in it.

    Raises:
        TypeError: If `layer_class` is not a layer class, or another argument not a bool.

    Example:

    >>> import keras, tfap
    >>> class Shift(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x + 1.0
    >>> tfap.register_pass_through_layer(Shift, elementwise=True)
    >>> layers = [keras.layers.Dense(8), Shift(), keras.layers.ReLU(name="relu"), keras.layers.Dense(2)]
    >>> tfap.plan(keras.Sequential([keras.Input((4,)), *layers]))[0].fires_at
    'relu'
    """
    _check_layer_class(layer_class)
    for name, value in (("elementwise", elementwise), ("activation", activation)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False: received {value!r}.")
    constants = ConstantRule.APPLIED if elementwise else None
    _register(layer_class, _same(constants, is_activation=activation))


def _check_layer_class(layer_class):
    if not keras_compat.is_layer_class(layer_class):
        raise TypeError(f"layer_class must be a layer class: received {layer_class!r}.")


def _register(layer_class, row):
    _REGISTERED[layer_class] = row
    _row_of_class.cache_clear()
