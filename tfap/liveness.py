"""Which channels of a model matter for its outputs, and why the others cannot always go.

A channel group is alive if an output, or a layer that tfap cannot see through, reads one of its
channels, or if a layer with weights reads one for a channel that is alive: with a weight that is not
zero, and not as a constant that the layer's bias can take.
"""

import dataclasses

import numpy as np

from tfap import affine, constants, graph
from tfap.channels import AFFINE, DEPTHWISE, ZERO_PADDINGS, ChannelMap
from tfap.keras_compat import kind_of


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
    """The analysis of a plain Sequential or Functional model.

    Attributes:
        layers: its `graph.Graph`.
        channels: its `ChannelMap`.
        affines: `affine.Affine` by layer path.
        constants: its `constants.ConstantMap`.
        alive: bool, one a channel group.
    """

    def __init__(self, model, silent=None):
        self.layers = graph.Graph(model)
        self.channels = ChannelMap(self.layers)
        self.affines = {
            path: affine.read(layer)
            for path, layer in self.layers.layers()
            if kind_of(layer) in AFFINE and self.channels.of(self._output(path)) is not None
        }
        self.constants = constants.ConstantMap(self.layers, self.channels, self.affines, silent)
        self.alive = self._alive()

    def _output(self, path):
        return self.layers.calls_of[path][0].outputs[0]

    def groups(self, path):
        """`(groups of the input channels, groups of the output channels)` of a layer; None where unknown."""
        call = self.layers.calls_of[path][0]
        read = self.channels.of(call.inputs[0]) if call.inputs else None
        made = self.channels.of(call.outputs[0])
        if read is not None and made is not None and path in self.affines and read.axis != made.axis:
            read = None  # it reads the value along another axis
        return (None if read is None else read.groups), (None if made is None else made.groups)

    def foldable_inputs(self, path):
        """The `Constants` of an affine layer's inputs that its bias can take; None if nothing is known."""
        read = self.constants.inputs_of(self.layers.calls_of[path])
        if read is None:
            return None
        return constants.Constants.of(read.foldable_into(self.affines[path]), read.values)

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
        for path, layer in self.affines.items():
            read, made = self.groups(path)
            if read is None:
                continue
            foldable = self.foldable_inputs(path)
            needs = layer.nonzero if foldable is None else layer.nonzero & ~foldable.known[:, None]
            yield read, made, needs

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
            read, _ = self.groups(reader)
            if read is None or group not in read:
                continue
            inputs = self.constants.inputs_of(self.layers.calls_of[reader])
            unfoldable = inputs.known & ~inputs.foldable_into(self.affines[reader])
            if unfoldable[read == group].any():
                return f"a constant that is not zero cannot go into the bias of '{reader}', which pads"
        for call in self.layers.calls:
            if _pads(call) and self._meets_zeros(call.inputs[0], group):
                return f"a constant that is not zero meets the zeros with which '{call.path}' pads"
        return "it is joined with channels that are not constant"

    def _meets_zeros(self, value, group):
        made, read = self.channels.of(value), self.constants.of(value)
        return read is not None and bool((read.known & ~read.zero)[made.groups == group].any())


def _pads(call):
    """True for a layer without an `Affine` that puts zeros around its input."""
    layer = graph.unwrap(call.layer)
    if kind_of(layer) in DEPTHWISE:
        return not affine.same_everywhere(layer, layer.kernel_size)
    return kind_of(layer) in ZERO_PADDINGS
