"""Lookahead: magnitudes multiplied by the norms of the adjacent layers."""

import dataclasses

import numpy as np

from tfap import keras_compat
from tfap.criteria.base import Criterion, built_in
from tfap.graph import channels, layer_types
from tfap.graph.calls import Graph, channel_axis, unwrap
from tfap.graph.kernel import Kernel, neuron_count
from tfap.graph.layer_types import ChannelRule


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """One kernel in the graph, and the channel groups that it reads and feeds; None where unknown."""

    path: str
    layer: object
    spec: object
    read: np.ndarray | None
    fed: np.ndarray | None

    @property
    def key(self):
        return self.path, self.spec.name

    def kernel(self):
        """Reads its current weights, pruned ones exactly zero."""
        weights = self.spec.find(unwrap(self.layer)).numpy().astype(np.float64)
        mask = np.ones(weights.shape, np.uint8)
        if hasattr(self.layer, "kernel_and_mask"):
            pruned = {spec.name: mask for spec, _, mask in self.layer.kernel_and_mask()}
            mask = pruned[self.spec.name].numpy() if self.spec.name in pruned else mask
        return Kernel(self.path, self.spec, weights * mask, mask)


class AdjacentLayers:
    """Finds the kernels of adjacent layers in a model, wrapped or not, by the channels between them.

    All kernels that feed the same channel group count as one, such as the branches of a residual Add, and so
    do all that read it. A subclassed model has no graph, so no kernel has neighbors.

    Args:
        model: A model of either Keras.

    Example:

    >>> import keras, numpy
    >>> layers = [keras.layers.Dense(2, use_bias=False, name=name) for name in "ab"]
    >>> model = keras.Sequential([keras.Input((1,)), *layers])
    >>> layers[0].set_weights([numpy.array([[3.0, 1.0]])]), layers[1].set_weights([numpy.eye(2) * 5])
    (None, None)
    >>> norms = AdjacentLayers(model).norms()
    >>> norms["a", "kernel"]["neuron_norms"], norms["b", "kernel"]["input_norms"].ravel()
    (array([[5., 5.]]), array([3., 1.]))
    """

    def __init__(self, model):
        self._places, self._size = [], 0
        if keras_compat.is_graph_model(model) and keras_compat.is_built(model):
            layers = Graph(model)
            found = channels.ChannelMap(layers)
            self._size = found.size
            self._places = [
                _place(path, spec, layers.calls_of[path][0], found)
                for path, layer in layers.layers()
                for spec in layer_types.kernel_specs(unwrap(layer))
                if keras_compat.is_variable(spec.find(unwrap(layer)))
            ]

    def norms(self):
        """Computes the norms of the kernels before and after every kernel.

        Returns:
            A dict by `(path, name of the weight)` of dicts with `input_norms` and `neuron_norms`: Frobenius
            norms that broadcast against the kernel, 1 where it has no neighbor.
        """
        into, out_of, gathered = np.zeros(self._size), np.zeros(self._size), []
        for place in self._places:
            kernel = place.kernel()
            squares = np.square(kernel.weights)
            if place.fed is not None:
                into += np.bincount(place.fed, kernel.neuron_sums(squares), self._size)
            if place.read is not None:
                out_of += np.bincount(place.read, kernel.input_sums(squares, len(place.read)), self._size)
            gathered.append(kernel)
        into[~self._marked("fed")] = out_of[~self._marked("read")] = 1
        return {
            place.key: {
                "input_norms": _per_input(kernel, place.read, np.sqrt(into)),
                "neuron_norms": _per_neuron(kernel, place.fed, np.sqrt(out_of)),
            }
            for place, kernel in zip(self._places, gathered)
        }

    def _marked(self, side):
        """Marks the channel groups that some kernel reads ("read") or feeds ("fed")."""
        marks = np.zeros(self._size, bool)
        for place in self._places:
            groups = getattr(place, side)
            if groups is not None:
                marks[groups] = True
        return marks


def _place(path, spec, call, found):
    layer = unwrap(call.layer)
    shape = spec.find(layer).shape
    known = layer_types.of(layer).channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE)
    read = found.of(call.inputs[0]) if known and spec.reads_input and len(spec.input_axes) == 1 else None
    fed = found.of(call.outputs[0]) if known and spec.makes_channels else None
    # A Dense layer after a channels_first tensor reads another axis than that of the channels.
    if read is not None and read.axis != channel_axis(layer) % len(call.inputs[0].shape):
        read = None
    neurons = neuron_count(spec, shape)
    produced = None if fed is None else spec.of_output(fed.groups, neurons)
    if produced is not None and len(produced) != neurons:
        produced = None
    return _Place(path, call.layer, spec, read and read.groups, produced)


def _per_input(kernel, groups, values):
    return 1.0 if groups is None else kernel.per_input(values[groups])


def _per_neuron(kernel, groups, values):
    return 1.0 if groups is None else kernel.per_neuron(values[groups])


@built_in
class Lookahead(Criterion):
    """Scores weights by their magnitude and the norms of the adjacent layers.

    The score is `|w_ij| * ||weights into i|| * ||weights out of j||`: Frobenius norms of the kept weights of
    the previous layer into neuron i and of the next layer out of neuron j. Layers that are not pruned and the
    output layer are included.

    The model's graph tells which layers are adjacent, past activations, pooling, Flatten and the like. Layers
    that feed or read the same channels, as around a residual Add, count together. A factor is 1 if tfap finds
    no such layer: at the inputs and outputs of a model, past layers that it cannot analyze, and in a
    subclassed model, where the magnitude alone ranks. Unlike in the paper, the scales of BatchNormalization
    are left out.

    Example:

    >>> import numpy, tfap
    >>> weights, mask = numpy.array([[1.0, -2.0], [3.0, 4.0]]), numpy.ones((2, 2), "uint8")
    >>> norms = {"input_norms": numpy.array([[2.0], [1.0]]), "neuron_norms": numpy.array([[1.0, 0.5]])}
    >>> Lookahead().scores(tfap.Kernel("dense", tfap.KernelSpec(), weights, mask, **norms))
    array([[2., 2.], [3., 2.]])

    References:
        - Park et al., *Lookahead: a far-sighted alternative of magnitude-based pruning*, ICLR 2020, section 2
    """

    needs = frozenset({"input_norms", "neuron_norms"})

    def scores(self, kernel: Kernel) -> np.ndarray:
        return np.abs(kernel.weights) * kernel.input_norms * kernel.neuron_norms
