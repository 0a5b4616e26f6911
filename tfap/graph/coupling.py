"""Which neurons of a model's kernels have to be pruned together so that they can be removed."""

import math

from tfap import keras_compat
from tfap.graph import channels, layer_types, linear
from tfap.graph.calls import Graph, unwrap
from tfap.graph.layer_types import ChannelRule


class Coupling:
    """The neuron groups of every kernel of a model.

    A channel of a residual sum is removed from all branches or from none, and one in front of a depthwise
    convolution together with its window there. A subclassed model has no graph, so no ties.
    """

    def __init__(self, model):
        self._layers = None
        if keras_compat.is_graph_model(model) and keras_compat.is_built(model):
            self._layers = Graph(model)
            self._channels = channels.ChannelMap(self._layers)

    def of_neurons(self, path, spec, neurons):
        """int array `(neurons,)`: the group of each neuron that a weight feeds; None if they are not tied."""
        call = self._call(path)
        if call is None or not spec.feeds_output:
            return None
        made = self._channels.of(call.outputs[0])
        return made.groups if made is not None and len(made.groups) == neurons else None

    def of_inputs(self, path, spec, shape):
        """int array `(inputs,)`: the group that takes an input's weights along; None if they stay.

        A pruned neuron may still be a constant other than zero. Padding and strides keep a convolution
        from taking it into its bias, so its weights there have to go too.
        """
        call = self._call(path)
        if call is None or not spec.reads_input or len(spec.input_axes) != 1 or not call.inputs:
            return None
        layer = unwrap(call.layer)
        windowed = math.prod(shape[:-2]) > 1 or linear.is_transposed(layer)
        read, made = self._channels.of(call.inputs[0]), self._channels.of(call.outputs[0])
        if layer_types.of(layer).channels is not ChannelRule.LINEAR or not windowed or None in (read, made):
            return None
        return read.groups if read.axis == made.axis else None

    def _call(self, path):
        calls = self._layers.calls_of.get(path) if self._layers else None
        return calls[0] if calls else None
