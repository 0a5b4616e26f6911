"""Group Taylor: channels whose removal, with all that is coupled, changes the loss least are pruned first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.criteria.base import Criterion, built_in
from tfap.graph import layer_types
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap, produced_by
from tfap.graph.kernel import Kernel, KernelSpec, neuron_count
from tfap.graph.layer_types import ChannelRule, ConstantRule


class CoupledParameters:
    """Finds the parameters that produce the channels of each coupled group.

    These are the incoming weights of the channels, their biases, and the scale and shift of
    BatchNormalization layers.

    Args:
        graph: The `Graph` of a model, wrapped or not.
        channel_map: Its `ChannelMap`.

    Attributes:
        variables: List of variables, each once.
    """

    def __init__(self, graph: Graph, channel_map: ChannelMap) -> None:
        self._size = channel_map.size
        self._groups: dict[int, np.ndarray] = {}
        self._specs: dict[int, KernelSpec] = {}
        self._produced: dict[tuple[str, str], np.ndarray] = {}
        self.variables: list[Any] = []
        for path, layer in graph.layers():
            call, layer = graph.calls_of[path][0], unwrap(layer)
            row = layer_types.of(layer)
            if row.channels in (ChannelRule.LINEAR, ChannelRule.DEPTHWISE):
                self._add_kernels(path, layer, call, channel_map)
            elif row.constants is ConstantRule.NORMALIZED:
                channels = channel_map.of(call.outputs[0])
                for variable in (layer.gamma, layer.beta):
                    if variable is not None and channels is not None:
                        self._add(variable, channels.groups)

    def _add_kernels(self, path, layer, call, channel_map):
        for spec in layer_types.kernel_specs(layer):
            variable = spec.find(layer)
            if not keras_compat.is_variable(variable):
                continue
            groups = produced_by(call, spec, neuron_count(spec, variable.shape), channel_map)
            if groups is None:
                continue
            self._produced[path, spec.name] = groups
            self._specs[id(variable)] = spec
            self._add(variable, groups)
            bias = KernelSpec(".".join([*spec.name.split(".")[:-1], "bias"])).find(layer)
            if keras_compat.is_variable(bias) and np.prod(bias.shape) % len(groups) == 0:
                self._add(bias, groups)

    def _add(self, variable, groups):
        if id(variable) not in self._groups:  # the kernels of an LSTM share a bias
            self.variables.append(variable)
            self._groups[id(variable)] = groups

    def changes(self, gradients: Sequence[np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
        """Sums weight x gradient over the parameters of every group.

        Args:
            gradients: One array per variable of `variables`.

        Returns:
            Dict by `(path, name of the weight)` of arrays, shape `(neurons,)`.
        """
        total = np.zeros(self._size)
        for variable, gradient in zip(self.variables, gradients, strict=True):
            groups, values = self._groups[id(variable)], np.array(variable, np.float64) * gradient
            spec = self._specs.get(id(variable))
            if spec is None:
                sums = values.reshape(-1, len(groups)).sum(axis=0)  # the gates of a neuron are apart
            else:
                sums = Kernel("", spec, values, np.ones(values.shape, np.uint8)).neuron_sums(values)
            total += np.bincount(groups, sums, self._size)
        return {key: total[groups] for key, groups in self._produced.items()}


def loss_change_of(kernel: Kernel, found: np.ndarray | None) -> np.ndarray:
    """Returns what the removal of each neuron of a kernel changes.

    Args:
        kernel: A `Kernel` with gradients. They alone count if tfap cannot follow its neurons.
        found: Its entry of `CoupledParameters.changes`. None if it has none.
    """
    return kernel.neuron_sums(kernel.weights * kernel.gradients) if found is None else found


@built_in
class GroupTaylor(Criterion):
    """Scores neurons by the first-order change of the loss if they are removed with all that is coupled.

    The score is `|sum of w * dL/dw|` over the parameters that produce the channel: its incoming weights and
    bias, the scale and shift of BatchNormalization, and the same of every layer whose channel is coupled with
    it, such as those of a residual sum. Terms of the sum may cancel out, unlike in `tfap.Gradient`, which
    takes the absolute value per weight. L is the mean compiled loss, as in `tfap.Gradient`, over the same
    data. So scores do not depend on how the data is split into batches.

    It supports `granularity="neuron"` only. Without a graph, as in a subclassed model, the sum is over the
    incoming weights alone.

    Example:

    >>> import numpy, tfap
    >>> weights, mask = numpy.array([[1.0, -2.0]]), numpy.ones((1, 2), "uint8")
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, mask, loss_changes=numpy.array([-0.5, 0.25]))
    >>> GroupTaylor().scores(kernel)
    array([[0.5 , 0.25]])

    References:
        - Molchanov et al., *Importance estimation for neural network pruning*, CVPR 2019, section 3.1
    """

    granularity = "neuron"
    granularities = ("neuron",)
    needs = frozenset({"gradients", "loss_changes"})

    def scores(self, kernel: Kernel) -> np.ndarray:
        if kernel.loss_changes is None:
            raise ValueError(f"{self} needs the loss changes of '{kernel.path}': received None.")
        return np.broadcast_to(kernel.per_neuron(np.abs(kernel.loss_changes)), kernel.weights.shape)
