"""The table of layer types: one row with all that tfap knows about a type of layer.

tfap finds the row of a layer by its class and by which Keras owns the class. A custom class with the name of
a Keras layer, such as `Dropout`, does not get the row of that layer. A subclass has the row of its base
unless it overrides what the base computes. If it overrides `call`, its kernels are known, but its channels
are not.

To support another layer type, add a row to `LAYERS`. Rows of functions are in `function_types.FUNCTIONS`.
Users register theirs with `register_prunable_layer` or `register_pass_through_layer`.
"""

import dataclasses
import functools
from typing import Any

from tfap import keras_compat
from tfap.graph import multiply_adds as products
from tfap.graph.function_types import FUNCTIONS
from tfap.graph.kernel import KernelSpec
from tfap.graph.layer_rules import (
    MERGE,
    OVER_CHANNELS,
    RESHAPE,
    UNKNOWN,
    ChannelRule,
    ConstantRule,
    LayerType,
    same,
)
from tfap.graph.units import Units

# What a TimeDistributed may not hold: weights with an axis less than the output, or a config that changes.
_NOT_AT_TIME_STEPS = (ConstantRule.PRELU, ConstantRule.GROUP_NORMALIZED, *OVER_CHANNELS)


# -- kernels -----------------------------------------------------------------------------------------


def _depthwise(layer):
    name = "kernel" if keras_compat.is_keras3(layer) else "depthwise_kernel"
    return (KernelSpec(name, neuron_axes=(-2, -1)),)


def _einsum(layer):
    """Finds the kernel axes of an EinsumDense from its equation: `abc,cd->abd` consumes c and produces d."""
    inputs, kernel, outputs = layer.equation.replace(" ", "").replace("->", ",").split(",")
    consumed = tuple(axis for axis, letter in enumerate(kernel) if letter in inputs and letter not in outputs)
    produced = tuple(axis for axis, letter in enumerate(kernel) if letter in outputs and letter not in inputs)
    if not produced:  # the kernel has only axes of the input, as in a depthwise product
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


def _within(attribute, spec):
    """Returns the spec of a kernel of the inner layer at an attribute."""
    return dataclasses.replace(spec, name=f"{attribute}.{spec.name}")


def _inside(*attributes):
    """Returns a function that lists the kernels of the inner layers at these attributes."""

    def specs(layer):
        return tuple(
            _within(attribute, spec)
            for attribute in attributes
            for spec in kernel_specs(getattr(layer, attribute))
        )

    return specs


def _units(layer):
    """Lists the kernels of a recurrent layer, whose neurons are its output."""
    return tuple(dataclasses.replace(spec, first_neuron=0) for spec in _inside("cell")(layer))


def _both_directions(layer):
    """Lists the kernels of a Bidirectional. The backward units may come after the forward ones."""
    specs = _inside("forward_layer", "backward_layer")(layer)
    if layer.merge_mode != "concat" or any(spec.first_neuron is None for spec in specs):
        return specs
    units = getattr(layer.forward_layer, of(layer.forward_layer).units)
    return tuple(
        dataclasses.replace(spec, first_neuron=units) if spec.name.startswith("backward_layer") else spec
        for spec in specs
    )


def _stacked_cells(layer):
    """Lists the kernels of the cells that are stacked in a recurrent layer. Unknown cells have none."""
    return tuple(
        dataclasses.replace(spec, name=f"cells.{at}.{spec.name}")
        for at, cell in enumerate(layer.cells)
        for spec in kernel_specs(cell)
    )


def _attention(layer):
    names = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
    return tuple(
        KernelSpec(
            f"{name}.kernel",
            neuron_axes=(-1,) if name == "_output_dense" else (-2, -1),
            input_axes=(0, 1) if name == "_output_dense" else (0,),
            feeds_output=name == "_output_dense",
            reads_input=False,
        )
        for name in names
    )


def head_specs(layer):
    """Lists the kernels of an attention layer, with its heads as neurons. Empty for other layers.

    Several query heads may share a head of keys and values.
    """
    if not of(layer).attention:
        return ()
    return tuple(
        dataclasses.replace(
            spec,
            neuron_axes=(0,) if spec.name.startswith("_output_dense") else (1,),
            input_axes=(1,) if spec.name.startswith("_output_dense") else (0,),
            feeds_output=False,
            heads=True,
        )
        for spec in kernel_specs(layer)
    )


def query_heads(layer):
    """Returns the number of heads of the query of an attention layer. 0 for other layers."""
    specs = head_specs(layer)
    return specs[0].find(layer).shape[1] if specs else 0


_FORWARD = (KernelSpec(),)
_TRANSPOSED = (KernelSpec(neuron_axes=(-2,), input_axes=(-1,)),)
_SEPARABLE = (
    KernelSpec("depthwise_kernel", neuron_axes=(-2, -1), feeds_output=False),
    KernelSpec("pointwise_kernel", reads_input=False),
)

# -- the rows ----------------------------------------------------------------------------------------


def _linear(kernels, rule, units="filters"):
    return LayerType(kernels, rule, ChannelRule.LINEAR, units=units, adds_bias=True)


_CONVOLUTION = _linear(_FORWARD, products.at_output_positions)
_TRANSPOSED_CONVOLUTION = _linear(_TRANSPOSED, products.at_input_positions)
_SEPARABLE_CONVOLUTION = _linear(_SEPARABLE, products.at_output_positions)
_DEPTHWISE_CONVOLUTION = LayerType(_depthwise, products.at_output_positions, ChannelRule.DEPTHWISE)
_LOCALLY_CONNECTED = LayerType((KernelSpec(feeds_output=False, reads_input=False),))
_RECURRENT = LayerType(_units, products.at_time_steps, ChannelRule.LINEAR, units="units", recurrent=True)
_RECURRENT_CONVOLUTION = dataclasses.replace(
    _RECURRENT,
    kernels=tuple(dataclasses.replace(_within("cell", spec), first_neuron=0) for spec in _recurrent(gates=4)),
    units="filters",
)
_ATTENTION = LayerType(_attention, products.attention, ChannelRule.LINEAR, attention=True)
_ACTIVATION = same(ConstantRule.APPLIED, is_activation=True)
_DROPOUT = same(ConstantRule.KEPT, random_in_training=True)
_POOLING = same(ConstantRule.KEPT)
_PADDING = same(ConstantRule.ZERO_KEPT)
_BATCH_NORMALIZATION = same(ConstantRule.NORMALIZED, random_in_training=True)

_DIMENSIONS = (1, 2, 3)

# Rows of the layers of Keras 3 and tf_keras, by class name.
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
    # tf_keras only. Every output position has weights of its own, in a layout that `implementation` decides.
    "LocallyConnected1D": _LOCALLY_CONNECTED,
    "LocallyConnected2D": _LOCALLY_CONNECTED,
    "SimpleRNNCell": LayerType(_recurrent(gates=1)),
    "GRUCell": LayerType(_recurrent(gates=3)),
    "LSTMCell": LayerType(_recurrent(gates=4)),
    "StackedRNNCells": LayerType(_stacked_cells),
    "SimpleRNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    **{f"ConvLSTM{d}D": _RECURRENT_CONVOLUTION for d in _DIMENSIONS},
    "RNN": LayerType(_inside("cell"), products.at_time_steps),
    "Bidirectional": dataclasses.replace(_RECURRENT, kernels=_both_directions),
    "TimeDistributed": LayerType(_inside("layer"), per_time_step=True),
    "MultiHeadAttention": _ATTENTION,
    "GroupedQueryAttention": _ATTENTION,
    # Activations
    **dict.fromkeys(("ELU", "LeakyReLU", "ReLU", "ThresholdedReLU"), _ACTIVATION),
    "PReLU": same(ConstantRule.PRELU, is_activation=True, elementwise_weights=True),
    "Activation": same(ConstantRule.APPLIED),
    # Random in training
    **dict.fromkeys(("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"), _DROPOUT),
    **{f"SpatialDropout{d}D": _DROPOUT for d in _DIMENSIONS},
    "ActivityRegularization": _DROPOUT,
    "Identity": same(ConstantRule.KEPT),
    "RepeatVector": same(ConstantRule.KEPT, keeps_neurons=False),
    # Normalization
    "BatchNormalization": _BATCH_NORMALIZATION,
    "SyncBatchNormalization": _BATCH_NORMALIZATION,
    "GroupNormalization": same(ConstantRule.GROUP_NORMALIZED, elementwise_weights=True),
    "LayerNormalization": same(ConstantRule.LAYER_NORMALIZED, elementwise_weights=True),
    "RMSNormalization": same(ConstantRule.RMS_NORMALIZED, keeps_neurons=False, elementwise_weights=True),
    "UnitNormalization": same(ConstantRule.UNIT_NORMALIZED, keeps_neurons=False),
    "Normalization": LayerType(elementwise_weights=True),
    # Windows on each channel
    **{
        f"{kind}{d}D": _POOLING
        for kind in ("AveragePooling", "MaxPooling", "GlobalAveragePooling", "GlobalMaxPooling")
        for d in _DIMENSIONS
    },
    **{f"{kind}{d}D": _POOLING for kind in ("Cropping", "UpSampling") for d in _DIMENSIONS},
    **{f"ZeroPadding{d}D": _PADDING for d in _DIMENSIONS},
    # Merging and reshaping
    **dict.fromkeys(("Add", "Average", "Maximum", "Minimum", "Subtract"), MERGE),
    "Multiply": dataclasses.replace(MERGE, keeps_neurons=False),
    "Concatenate": LayerType(channels=ChannelRule.CONCATENATED),
    "Dot": LayerType(channels=ChannelRule.CONTRACTED),
    "Resizing": _POOLING,
    "Softmax": LayerType(channels=ChannelRule.ALONG_AXIS),
    "Flatten": LayerType(channels=ChannelRule.RESHAPED),
    "Reshape": RESHAPE,
    "Permute": LayerType(channels=ChannelRule.PERMUTED),
}


def _composite(units, attention=None):
    """Makes the row of a composite layer; `attention` names its attention layers, or is a function."""

    def kernels(layer):
        names = attention(layer) if callable(attention) else [attention]
        return tuple(_within(name, spec) for name in names for spec in _attention(layer))

    return LayerType(kernels if attention else (), products.blocks, inner_units=tuple(units.items()))


def _feed_forward(*made_by, read_by="_feedforward_output_dense"):
    return {"intermediate_dim": Units(list(made_by), [read_by])}


_HUB = "keras_hub.src"
_DENSE = _feed_forward("_feedforward_intermediate_dense")
_GATED = _feed_forward("_feedforward_intermediate_dense", "_feedforward_gate_dense")
# Rows of composite layers of KerasHub, by module and class name.
KERAS_HUB = {
    (f"{_HUB}.layers.modeling.transformer_encoder", "TransformerEncoder"): _composite(
        _DENSE, "_self_attention_layer"
    ),
    (f"{_HUB}.layers.modeling.transformer_decoder", "TransformerDecoder"): _composite(
        _DENSE, "_self_attention_layer"
    ),
    (f"{_HUB}.models.llama.llama_decoder", "LlamaTransformerDecoder"): _composite(_GATED),
    (f"{_HUB}.models.mistral.mistral_transformer_decoder", "MistralTransformerDecoder"): _composite(_GATED),
    (f"{_HUB}.models.gemma.gemma_decoder_block", "GemmaDecoderBlock"): _composite(
        {"intermediate_dim": Units(["gating_ffw", "gating_ffw_2"], ["ffw_linear"])}
    ),
    # All blocks of the encoder keep as many units: unit j of each is removed together with the others.
    (f"{_HUB}.models.vit.vit_layers", "ViTEncoder"): _composite(
        {
            "mlp_dim": Units(
                lambda layer: [f"encoder_layers.{at}.mlp.dense_1" for at in range(layer.num_layers)],
                lambda layer: [f"encoder_layers.{at}.mlp.dense_2" for at in range(layer.num_layers)],
            )
        },
        lambda layer: [f"encoder_layers.{at}.mha" for at in range(layer.num_layers)],
    ),
    (f"{_HUB}.models.vit.vit_layers", "ViTEncoderBlock"): _composite(
        {"mlp_dim": Units(["mlp.dense_1"], ["mlp.dense_2"])}, "mha"
    ),
}

_REGISTERED: dict[type, LayerType] = {}

# -- lookup ------------------------------------------------------------------------------------------


def of(layer):
    """Returns the row of a layer, or of a function in a graph, of either Keras. `UNKNOWN` if it has none."""
    function = keras_compat.function_name(layer)
    if function is not None:
        return FUNCTIONS.get(function, UNKNOWN)
    row = _row_of_class(type(layer))
    return _at_time_steps(row, of(layer.layer)) if row.per_time_step else row


def inner(layer):
    """Returns the layer inside a TimeDistributed, or the layer itself."""
    return layer.layer if _row_of_class(type(layer)).per_time_step else layer


@functools.cache
def _at_time_steps(row, inner_row):
    """Returns the row of a TimeDistributed: it has the channels of the layer inside, if tfap knows them."""
    is_flatten = inner_row is LAYERS["Flatten"]
    known = inner_row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE, ChannelRule.SAME) or is_flatten
    if not known or inner_row.recurrent or inner_row.constants in _NOT_AT_TIME_STEPS:
        return row
    return dataclasses.replace(inner_row, kernels=row.kernels, per_time_step=True)


@functools.cache
def _row_of_class(cls):
    for base in cls.__mro__:
        row = _REGISTERED.get(base)
        if row is None and keras_compat.is_keras_class(base):
            row = LAYERS.get(base.__name__)
        if row is None:
            row = KERAS_HUB.get((base.__module__, base.__name__))
        if row is not None:
            return _kernels_only(row) if _overrides_computation(cls, base) else row
    return UNKNOWN


def _kernels_only(row):
    """Returns the row of a subclass that computes something else than its base, but has the same kernels."""
    if not row.kernels:
        return UNKNOWN

    def kernels(layer):
        specs = row.kernel_specs(layer)
        return tuple(dataclasses.replace(spec, feeds_output=False, reads_input=False) for spec in specs)

    return LayerType(kernels)


# Methods that a subclass may override without changing what the layer computes.
_WITHOUT_EFFECT = {
    *("build", "build_from_config", "compute_mask", "compute_output_shape", "compute_output_spec"),
    *("count_params", "from_config", "get_build_config", "get_config", "load_own_variables"),
    "save_own_variables",
}


def _overrides_computation(cls, base):
    """Returns whether a subclass overrides something of its base that may change what the layer computes."""
    between = cls.__mro__[: cls.__mro__.index(base)]
    names = {name for other in between for name in vars(other)}
    dunder = {name for name in names if name.startswith("__")} - {"__call__"}
    return any(
        hasattr(base, name) and (callable(getattr(cls, name)) or isinstance(getattr(cls, name), property))
        for name in names - dunder - _WITHOUT_EFFECT
    )


def kernel_specs(layer: Any) -> tuple[KernelSpec, ...]:
    """Returns the `KernelSpec`s of a layer of either Keras. Empty if it has no known kernels.

    A class that defines `get_prunable_weights()`, as for tfmot, lists its weights itself once it is built.
    """
    known = of(layer).kernel_specs(layer)
    if not _lists_own_weights(layer):
        return known
    weights = layer.get_prunable_weights() if layer.built else ()
    return tuple(_spec_of(layer, weight, known) for weight in weights)


def is_depthwise(spec: KernelSpec) -> bool:
    """Returns whether each neuron of a kernel consumes one input channel. tfmot prunes no such kernel."""
    return bool(set(spec.neuron_axes) & set(spec.input_axes))


def lists_weights(layer: Any) -> bool:
    """Returns whether a layer, or a cell or layer inside it, lists its weights, which then must be built."""
    inside = keras_compat.all_layers(layer) if callable(of(layer).kernels) else ()
    return any(map(_lists_own_weights, [layer, *inside]))


def _lists_own_weights(layer):
    """Whether the class of a layer defines `get_prunable_weights()`, as tfmot's PrunableLayer does.

    tfmot sets a method of this name on layers of Keras too, but on the object.
    """
    return hasattr(type(layer), "get_prunable_weights")


def _spec_of(layer, weight, known):
    """Returns the spec of a weight, of which only the name matters unless the layer's type is known."""
    for spec in known:
        if spec.find(layer) is weight:
            return spec
    input_axes = (-2,) if len(weight.shape) > 1 else ()
    name = keras_compat.attribute_of(layer, weight)
    return KernelSpec(name, (-1,), input_axes, feeds_output=False, reads_input=False)


# Why a criterion that counts a side cannot rank a weight.
NOT_COUNTABLE = {
    "output": "its neurons are not the channels of the layer's output, so tfap cannot count them",
    "input": "its inputs are not the channels of the layer's input, so tfap cannot count them",
}


def why_not_prunable(layer: Any) -> str | None:
    """Returns the reason why a layer has nothing to prune. None if it is prunable."""
    if not layer.built and lists_weights(layer):
        return None  # it has no weights yet
    if _lists_own_weights(layer) and _why_not_listed(layer):
        return _why_not_listed(layer)
    specs = kernel_specs(layer)
    if not specs:
        if layer.built and not layer.weights:
            return "it has no weights"
        return f"{type(layer).__name__} layers have no kernel that tfap knows"
    for spec in specs:
        kernel = spec.find(layer)
        if layer.built and kernel is None:
            return f"it has no weight {spec.name}"
        if layer.built and not keras_compat.is_variable(kernel):
            return f"its {spec.name} is not a variable but computed from other weights, as with LoRA"
        if kernel is not None and "float" not in str(kernel.dtype):
            return f"its {spec.name} is quantized to {kernel.dtype}"
    return None


def _why_not_listed(layer):
    """Returns what is wrong with the weights that a layer lists itself. None if nothing is."""
    try:
        weights = list(layer.get_prunable_weights())
    except Exception as error:  # of the user's method
        return f"its get_prunable_weights() fails: {error}"
    if not weights:
        return "its get_prunable_weights() lists no weights"
    if not all(map(keras_compat.is_variable, weights)):
        return "its get_prunable_weights() lists something else than variables of the layer"
    own = {id(weight) for weight in keras_compat.weights_of(layer)}
    if not {id(weight) for weight in weights} <= own:
        return "its get_prunable_weights() lists variables that are not among the weights of the layer"
    return None


def register(layer_class, row):
    """Adds the row of a custom layer class; see `graph/registration.py`."""
    _REGISTERED[layer_class] = row
    _row_of_class.cache_clear()
