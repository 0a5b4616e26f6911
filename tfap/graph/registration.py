"""Registers custom layer types: their kernels, and layers that channels pass through."""

from collections.abc import Callable, Mapping, Sequence

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph import multiply_adds as products
from tfap.graph.kernel import KernelSpec
from tfap.graph.layer_types import ChannelRule, ConstantRule, LayerType
from tfap.graph.units import Units


def register_prunable_layer(
    layer_class: type,
    kernels: Sequence[KernelSpec],
    units: str | None = None,
    multiply_adds: Callable | None = None,
) -> None:
    """Registers the kernels of a custom layer type, so that tfap can prune them.

    Register a class before you wrap a model that contains it.

    Args:
        layer_class: A layer class of either Keras. The registration includes subclasses that do not override
            `call`.
        kernels: List of `tfap.KernelSpec`, one per prunable weight.
        units: String. The config entry with the number of neurons, such as "units". `tfap.compact` then
            removes neurons and rebuilds the layer with fewer units. The layer must compute
            `activation(inputs @ kernel + bias)` on the last axis, or a convolution, with one kernel and no
            other weight than an optional `bias`. If None, `tfap.compact` keeps every neuron.
        multiply_adds: Function `(layer, input_shapes, output_shape)` that returns the multiply-adds of one
            sample. `input_shapes` is a list. Shapes are tuples that include the batch axis. If None, the
            FLOPs of the layer are not counted.

    Raises:
        TypeError: If `layer_class` is not a layer class, `kernels` is not a list of `KernelSpec`, `units` is
            not a string, or `multiply_adds` is not a function.
        ValueError: If `units` is given and there are several kernels, or the kernel has gates, or does not
            consume the layer's input and produce its output.

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
    _check_kernels(kernels)
    if units is not None:
        _check_units(units, kernels)
    if multiply_adds is not None and not callable(multiply_adds):
        raise TypeError(f"multiply_adds must be a function or None: received {multiply_adds!r}.")

    def rule(layer, weights, inputs, output):
        return multiply_adds(layer, inputs, output)

    channels = ChannelRule.LINEAR if units else None
    row = LayerType(tuple(kernels), rule if multiply_adds else None, channels, units=units)
    layer_types.register(layer_class, row)


def register_composite_layer(
    layer_class: type,
    units: Mapping[str, Units],
    kernels: Sequence[KernelSpec] = (),
    multiply_adds: Callable | None = None,
) -> None:
    """Registers the units inside a custom layer of layers, so that tfap can prune and remove them.

    `tfap.compact` rebuilds the layer from its config with fewer units, and gives it the weights of the units
    that are kept. Input and output of the layer keep their shapes. `tfap.prune`, `tfap.plan`,
    `tfap.prune_once`, and `tfap.remove` with the path `"layer/entry"` know the units too. Register a class
    before you wrap a model that contains it.

    Args:
        layer_class: A layer class of either Keras. The registration includes subclasses that do not override
            `call`. It needs a `get_config` with the entries.
        units: Dict of config entry with a number of units, such as `"hidden_dim"`, to `tfap.Units`.
        kernels: List of `tfap.KernelSpec`: other kernels inside the layer to prune. Their neurons are kept by
            `tfap.compact`.
        multiply_adds: As in `tfap.register_prunable_layer`. If None, tfap counts every kernel in the layer
            once per position of its input, and the products inside attention layers.

    Raises:
        TypeError: If `layer_class` is not a layer class, or another argument has the wrong type.
        ValueError: If `units` is empty.

    Example:

    >>> import keras, tfap
    >>> class Gated(keras.layers.Layer):
    ...     def __init__(self, hidden_dim, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.hidden_dim = hidden_dim
    ...     def build(self, shape):
    ...         self.gate = keras.layers.Dense(self.hidden_dim, "silu")
    ...         self.up, self.down = keras.layers.Dense(self.hidden_dim), keras.layers.Dense(shape[-1])
    ...         self.gate.build(shape), self.up.build(shape)
    ...         self.down.build((*shape[:-1], self.hidden_dim))
    ...     def call(self, x):
    ...         return x + self.down(self.gate(x) * self.up(x))
    ...     def get_config(self):
    ...         return {**super().get_config(), "hidden_dim": self.hidden_dim}
    >>> tfap.register_composite_layer(Gated, {"hidden_dim": tfap.Units(["gate", "up"], ["down"])})
    >>> model = keras.Sequential([keras.Input((4,)), Gated(16, name="gated"), keras.layers.Dense(2)])
    >>> tfap.remove(model, {"gated/hidden_dim": range(6)}).get_layer("gated").hidden_dim
    10
    """
    _check_layer_class(layer_class)
    if not isinstance(units, Mapping) or not all(
        isinstance(entry, str) and isinstance(each, Units) for entry, each in units.items()
    ):
        raise TypeError(f"units must be a dict of config entry to tfap.Units: received {units!r}.")
    if not units:
        raise ValueError("units is empty: name at least one config entry with a number of units.")
    if kernels:
        _check_kernels(kernels)
    if multiply_adds is not None and not callable(multiply_adds):
        raise TypeError(f"multiply_adds must be a function or None: received {multiply_adds!r}.")

    def rule(layer, weights, inputs, output):
        return multiply_adds(layer, inputs, output)

    row = LayerType(
        tuple(kernels), rule if multiply_adds else products.blocks, inner_units=tuple(units.items())
    )
    layer_types.register(layer_class, row)


def register_pass_through_layer(
    layer_class: type, elementwise: bool = False, activation: bool = False
) -> None:
    """Registers a custom layer type that channels pass through.

    Channel j of the output must depend on channel j of the input only, and both must have the same number of
    channels, on the last axis or, with `data_format="channels_first"`, on axis 1. tfap then follows channels
    through the layer. It finds the activation of the neurons before it and prunes coupled channels together.
    `tfap.compact` removes channels on both sides, with their entries in the weights of the layer.

    Args:
        layer_class: A layer class of either Keras. The registration includes subclasses that do not override
            `call`.
        elementwise: Whether the layer applies the same function at every position, so that a constant channel
            stays constant. `tfap.compact` then also removes constant channels before the layer.
        activation: Whether the layer is an activation, in which tfap counts how often neurons fire.

    Raises:
        TypeError: If `layer_class` is not a layer class, or another argument is not a bool.

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
    row = LayerType(
        channels=ChannelRule.SAME, constants=constants, keeps_neurons=True, is_activation=activation
    )
    layer_types.register(layer_class, row)


def _check_layer_class(layer_class):
    if not keras_compat.is_layer_class(layer_class):
        raise TypeError(f"layer_class must be a layer class: received {layer_class!r}.")


def _check_kernels(kernels):
    listed = isinstance(kernels, list | tuple) and kernels
    if not listed or not all(isinstance(spec, KernelSpec) for spec in kernels):
        raise TypeError(f"kernels must be a list of tfap.KernelSpec: received {kernels!r}.")


def _check_units(units, kernels):
    if not isinstance(units, str):
        raise TypeError(f"units must be a string or None: received {units!r}.")
    first = kernels[0]
    if len(kernels) > 1 or not (first.feeds_output and first.reads_input and first.gates == 1):
        raise ValueError(
            f"units={units!r} needs one kernel that consumes the layer's input and produces its output: "
            f"received {kernels!r}."
        )
