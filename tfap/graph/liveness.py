"""Which channels of a model matter for its outputs, and why the others cannot always go.

A channel group is alive if an output, or a layer that tfap cannot see through, reads one of its
channels, or if a layer with weights reads one for a channel that is alive: with a weight that is not
zero, and not as a constant that the layer's bias can take.

In a model in training other weights than masked ones may come to be other than zero, and a layer can
only lose weights where a mask keeps them zero.
"""

import dataclasses

import numpy as np

from tfap.graph import constants, layer_types, linear
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap
from tfap.graph.layer_types import ChannelRule, ConstantRule


@dataclasses.dataclass(frozen=True)
class Kept:
    """Constant channels of one layer that have to stay.

    Attributes:
        path: of the layer.
        channels: how many of its channels.
        reason: why.
    """

    path: str
    channels: int
    reason: str


class Liveness:
    """The analysis of a Sequential or Functional model.

    Args:
        model: a plain model; or, with masks, a wrapped one.
        silent: see `constants.ConstantMap`.
        masks: `{path: {weight name: mask}}` of the layers that are pruned, in a model in training; None takes
            the weights as they are.
        may_change: paths of those layers that may lose more weights. Without masks all may, and get a bias
            where they need one.

    Attributes:
        layers: its `calls.Graph`.
        channels: its `ChannelMap`.
        affines: `linear.Affine` by layer path.
        depthwise: `linear.Depthwise` by layer path.
        constants: its `constants.ConstantMap`.
        alive: bool, one a channel group.
    """

    def __init__(self, model, silent=None, masks=None, may_change=()):
        self.layers = Graph(model, plain=True)
        self.channels = ChannelMap(self.layers)
        self._masks, self._may_change = masks, may_change
        self.affines, self.depthwise = (
            self._matrices(ChannelRule.LINEAR),
            self._matrices(ChannelRule.DEPTHWISE),
        )
        matrices = {**self.affines, **self.depthwise}
        self.constants = constants.ConstantMap(
            self.layers, self.channels, matrices, silent, training=masks is not None
        )
        self.alive = self._alive()

    def _matrices(self, kind):
        return {
            path: linear.read(layer, None if self._masks is None else self._masks.get(path, {}))
            for path, layer in self.layers.layers()
            if layer_types.of(layer).channels is kind and self.channels.of(self._output(path)) is not None
        }

    def _output(self, path):
        return self.layers.calls_of[path][0].outputs[0]

    def groups(self, path):
        """`(groups of the input channels, groups of the output channels)` of a layer; None where unknown."""
        call = self.layers.calls_of[path][0]
        read = self.channels.of(call.inputs[0]) if call.inputs else None
        made = self.channels.of(call.outputs[0])
        if read is not None and made is not None and self.matrix(path) and read.axis != made.axis:
            read = None  # it reads the value along another axis
        return (None if read is None else read.groups), (None if made is None else made.groups)

    def matrix(self, path):
        """The `linear.Affine` or `linear.Depthwise` of a layer, None for others."""
        return self.affines.get(path) or self.depthwise.get(path)

    def foldable_inputs(self, path):
        """The `Constants` of an affine layer's inputs that its bias can take; None if nothing is known."""
        read = self.constants.inputs_of(self.layers.calls_of[path])
        if read is None or not self.may_change(path):
            return None
        known = read.foldable_into(self.matrix(path)) if self._takes_more_than_zeros(path) else read.zero
        return constants.Constants.of(known, read.values)

    def may_change(self, path):
        return self._masks is None or path in self._may_change

    def _takes_more_than_zeros(self, path):
        return self._masks is None or self.matrix(path).bias is not None

    def folded(self, path, gone):
        """The `Affine` of a layer without the weights of some inputs and of its dead outputs.

        What the constants among these inputs add goes into the bias of the outputs that are alive.

        Args:
            path: of the layer, which has to be asked for but once.
            gone: bool array `(inputs,)`.
        """
        matrix, foldable = self.matrix(path), self.foldable_inputs(path)
        outputs = self.alive[self.groups(path)[1]]
        if foldable is not None:
            matrix.fold(foldable.known & (foldable.values != 0) & gone, foldable.values, outputs)
        matrix.without(gone, ~outputs)
        return matrix

    def _alive(self):
        alive = np.zeros(self.channels.size, bool)
        alive[list(self.channels.pinned)] = True
        reads = list(self._reads())
        while True:
            before = alive.copy()
            for read, made, needs in reversed(reads):  # consumers first: mostly one round
                alive[read[needs[:, alive[made]].any(axis=1)]] = True
            if np.array_equal(alive, before):
                return alive

    def _reads(self):
        """`(input groups, output groups, which input each output needs)` of every affine layer."""
        for path in self.affines:
            read, made = self.groups(path)
            if read is not None:
                yield read, made, self._needs(path)

    def _needs(self, path):
        nonzero, foldable = self.affines[path].nonzero, self.foldable_inputs(path)
        return nonzero if foldable is None else nonzero & ~foldable.known[:, None]

    # -- why channels that look dead stay ------------------------------------------------------------

    def kept(self):
        """Every `Kept`: the constant channels of layers with a kernel that could not go, and why."""
        found = {}
        for path in self.affines:
            _, made = self.groups(path)
            known = self.constants.of(self._output(path)).known & self.alive[made]
            for group in made[known]:
                key = path, self._why(path, int(group))
                found[key] = found.get(key, 0) + 1
        return [Kept(path, count, reason) for (path, reason), count in found.items()]

    def _why(self, path, group):
        if group in self.channels.pinned:
            return self.channels.pinned[group]
        for reader in self.affines:
            reason = self._why_reader_keeps(reader, group)
            if reason:
                return reason
        for call in self.layers.calls:
            if _pads(call) and self._meets_zeros(call.inputs[0], group):
                return f"a constant that is not zero meets the zeros with which '{call.path}' pads"
        return "it is joined with channels that are not constant"

    def _why_reader_keeps(self, reader, group):
        read, made = self.groups(reader)
        if read is None or group not in read:
            return None
        inputs = self.constants.inputs_of(self.layers.calls_of[reader])
        needs = self._needs(reader)[:, self.alive[made]].any(axis=1)
        if not (inputs.known & needs)[read == group].any():
            return None
        if not self.may_change(reader):
            return f"'{reader}' reads it and is not pruned with remove_disconnected"
        if not self._takes_more_than_zeros(reader):
            return f"'{reader}' has no bias that could take a constant that is not zero"
        return f"a constant that is not zero cannot go into the bias of '{reader}', which pads"

    def _meets_zeros(self, value, group):
        made, read = self.channels.of(value), self.constants.of(value)
        return read is not None and bool((read.known & ~read.zero)[made.groups == group].any())


def _pads(call):
    """True for a layer without an `Affine` that puts zeros around its input."""
    layer = unwrap(call.layer)
    row = layer_types.of(layer)
    if row.channels is ChannelRule.DEPTHWISE:
        return not linear.same_everywhere(layer, layer.kernel_size)
    return row.constants is ConstantRule.ZERO_KEPT
