"""What tfap knows about a type of layer: how it computes channels, and what it does to constants.

A `LayerType` is a row of the tables `layer_types.LAYERS` and `function_types.FUNCTIONS`.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from tfap.graph.kernel import KernelSpec
from tfap.graph.units import Units


class ChannelRule(enum.Enum):
    """How a layer computes the channels of its output from those of its inputs."""

    LINEAR = "each is a weighted sum of all input channels"
    DEPTHWISE = "each applies a window of weights to one input channel"
    SAME = "channel j depends on channel j of the input only"
    ALONG_AXIS = "channel j depends on channel j of the input only, unless the layer works along that axis"
    MERGED = "channel j depends on channel j of each input only"
    CONCATENATED = "they are the channels of all inputs, one input after another"
    RESHAPED = "they hold the elements of the input in the same order"
    PERMUTED = "they are those of the input, on another axis"
    STACKED = "channel j depends on channel j of each input only, and there is a new axis"
    SELECTED = "they are some of the channels of the input, in the same order"
    CONTRACTED = "they are those of an input; channels on an axis that is summed over can go if they are zero"
    SHAPE = "none; the output holds sizes of the input"


class ConstantRule(enum.Enum):
    """What a layer outputs for a constant input channel."""

    KEPT = "the same constant"
    APPLIED = "the result of the layer for this constant"
    ZERO_KEPT = "zero if the input is zero; padding mixes other constants with zeros"
    NORMALIZED = "the constant, normalized with the channel's statistics"
    PRELU = "the constant, times the channel's slope if negative"
    GROUP_NORMALIZED = "the constant, normalized with the statistics of a group of channels"
    LAYER_NORMALIZED = "the shift of the channel, if it is zero and the channels have the sum zero"
    RMS_NORMALIZED = "zero if the input is zero; others are divided by the root mean square of all channels"
    UNIT_NORMALIZED = "zero if the input is zero; others are divided by the norm of all channels"


# Rules of layers that normalize over all channels.
OVER_CHANNELS = (ConstantRule.LAYER_NORMALIZED, ConstantRule.RMS_NORMALIZED, ConstantRule.UNIT_NORMALIZED)


@dataclasses.dataclass(frozen=True)
class LayerType:
    """A row of the table. tfap does not remove channels around a layer if their rule is unknown.

    Attributes:
        kernels: The prunable weights: a tuple of `KernelSpec`, or a function `(layer)` that returns one.
        multiply_adds: A rule of `multiply_adds.py`. None if the FLOPs are unknown.
        channels: A `ChannelRule`. None if unknown.
        constants: A `ConstantRule`, for `ChannelRule.SAME`. None if unknown.
        keeps_neurons: Whether neuron j of the output is neuron j of the input, so that the search for the
            activation of earlier layers continues after the layer.
        is_activation: Whether the neurons of earlier layers fire in this layer.
        units: String. The config entry with the number of output channels, for `ChannelRule.LINEAR`.
        adds_bias: Whether a layer without a bias can be rebuilt with one.
        random_in_training: Whether the layer computes something else with `training=True`.
        per_time_step: Whether the layer applies an inner layer to every time step. `of` then returns what the
            inner layer does to channels.
        elementwise_weights: Whether the weights multiply elementwise even if they have several axes.
        recurrent: Whether the layer reads its own output of the time step before. It consumes the last axis.
        attention: Whether the layer has heads, which read a query, a key and a value.
        inner_units: Tuple of pairs: a config entry with a number of units inside the layer, and its `Units`.
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
    recurrent: bool = False
    attention: bool = False
    inner_units: tuple[tuple[str, Units], ...] = ()

    def kernel_specs(self, layer: Any) -> tuple[KernelSpec, ...]:
        inside = [spec for entry, units in self.inner_units for spec in units.kernels(layer, entry)]
        return (*inside, *(self.kernels(layer) if callable(self.kernels) else self.kernels))


UNKNOWN = LayerType()


def same(constants, keeps_neurons=True, **others):
    return LayerType(channels=ChannelRule.SAME, constants=constants, keeps_neurons=keeps_neurons, **others)


MERGE = LayerType(channels=ChannelRule.MERGED, keeps_neurons=True)
RESHAPE = LayerType(channels=ChannelRule.RESHAPED)
