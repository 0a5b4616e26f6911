"""Coupled neurons: those that must be pruned together so that they can be removed."""

import functools
import math

import numpy as np

from tfap import keras_compat
from tfap.graph import channels, layer_types, linear, recurrent
from tfap.graph.calls import Graph, unwrap
from tfap.graph.layer_types import ChannelRule
from tfap.graph.structure import Structures


class Coupling:
    """The groups of coupled neurons of every kernel of a model.

    A channel of a residual sum can only be removed from all branches together. A channel before a depthwise
    convolution can only be removed together with its window in the convolution. In a subclassed model, no
    neurons are coupled, because its graph is unknown.

    Args:
        model: A model of either Keras, with or without tfap's wrappers.
    """

    def __init__(self, model):
        self._graph = None
        if keras_compat.is_graph_model(model) and keras_compat.is_built(model):
            self._graph = Graph(model)
            self._producers = {value: call for call in self._graph.calls for value in call.outputs}
            self._channels = channels.ChannelMap(self._graph)

    def of_neurons(self, path, spec, neurons):
        """Finds the groups of the neurons that a kernel produces.

        The depthwise outputs of a separable convolution have the group of the input channel.

        Args:
            path: Path of the layer.
            spec: The `KernelSpec` of the kernel.
            neurons: Integer. The number of neurons of the kernel.

        Returns:
            Integer array, shape `(neurons,)`. None if the neurons are not channels that tfap can follow.
        """
        call = self._call(path)
        if call is not None and self._is_depthwise_part(call, spec):
            consumed = channels.consumed_by(call, self._channels)
            return None if consumed is None else np.repeat(consumed.groups, neurons // len(consumed.groups))
        return None if call is None else channels.produced_by(call, spec, neurons, self._channels)

    def structure(self, path, spec, neurons):
        """Describes the layers around the neurons of a kernel, as in `structure.Structures`.

        Args:
            path: As in `of_neurons`.
            spec: As in `of_neurons`.
            neurons: As in `of_neurons`.

        Returns:
            A tuple. None if the neurons are not channels that tfap can follow.
        """
        groups = self.of_neurons(path, spec, neurons)
        return None if groups is None else self._structures.of(groups)

    @functools.cached_property
    def _structures(self):
        return Structures(self._graph, self._channels)

    def of_inputs(self, path, spec, shape):
        """Finds the neuron groups that a kernel's input weights are pruned with.

        A pruned neuron may be a nonzero constant. A convolution with a window cannot always fold it into its
        bias, because of padding, and neither can a transposed convolution. The weights of this input must
        then be pruned together with the neuron. The same holds for a shared layer whose calls consume
        other constants, such as those of one BatchNormalization per call. The weights with which a recurrent
        layer reads its own units are always pruned with them.

        Args:
            path: Path of the layer.
            spec: The `KernelSpec` of the kernel.
            shape: Tuple. The shape of the kernel.

        Returns:
            Integer array, shape `(inputs,)`. None if the weights are kept when an input is pruned.
        """
        if spec.first_neuron is not None and not spec.reads_input:
            return self.of_neurons(path, spec, shape[-2])
        call = self._call(path)
        if call is None or not spec.reads_input or len(spec.input_axes) != 1 or not call.inputs:
            return None
        layer = unwrap(call.layer)
        windowed = math.prod(shape[:-2]) > 1 or linear.is_transposed(layer)
        row = layer_types.of(layer)
        has_bias = not row.recurrent or all(each.use_bias for each in recurrent.layers_of(layer))
        folds = not windowed and has_bias and not self._has_other_constants(path)
        if row.channels is not ChannelRule.LINEAR or folds:
            return None
        consumed = channels.consumed_by(call, self._channels)
        if consumed is None or self._channels.centering.issuperset(consumed.groups.tolist()):
            return None
        return consumed.groups

    def _has_other_constants(self, path):
        """Returns whether the calls of a layer may consume different constants in one channel."""
        return len({self._origin(call.inputs[0]) for call in self._graph.calls_of[path]}) > 1

    def _origin(self, value):
        """Describes the layers that make the constants of a value, back to those that mix channels."""
        call = self._producers.get(value)
        if call is None:
            return None
        layer = unwrap(call.layer)
        own = call.path if getattr(layer, "weights", None) else type(layer).__name__
        if layer_types.kernel_specs(layer) or layer_types.of(layer).channels is None:
            return own
        return own, *(self._origin(consumed) for consumed in call.inputs)

    def _is_depthwise_part(self, call, spec):
        """Returns whether a kernel is the first one of a separable convolution."""
        row = layer_types.of(unwrap(call.layer))
        depthwise = layer_types.is_depthwise(spec)
        return row.channels is ChannelRule.LINEAR and depthwise and not spec.feeds_output

    def _call(self, path):
        calls = self._graph.calls_of.get(path) if self._graph else None
        return calls[0] if calls else None
