"""Composite layers as least-squares problems: the inner layers that read their units."""

import contextlib
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.compensation.consumers import Consumer
from tfap.compensation.moments import SecondMoments
from tfap.graph import composite, layer_types
from tfap.graph.calls import Graph
from tfap.graph.channels import ChannelMap
from tfap.graph.kernel import KernelSpec
from tfap.keras_compat import eager


def inner_consumers_of(graph: Graph, channel_map: ChannelMap) -> dict[str, Consumer]:
    """Finds the composite layers of which all units are read by Dense layers.

    Args:
        graph: The `Graph` of a model without wrappers.
        channel_map: Its `ChannelMap`.

    Returns:
        Dict of path to `InnerConsumer`, in graph order.
    """
    found: dict[str, Consumer] = {}
    for path, calls in graph.calls_of.items():
        units = channel_map.units_of(path)
        if units and all(_is_dense(*each) for each in _readers(calls[0].layer, units)):
            found[path] = InnerConsumer(path, calls, units)
    return found


def _readers(layer, units):
    """Lists the kernels that read units: tuples `(config entry, KernelSpec, inner layer)`."""
    return [
        (entry, spec, KernelSpec(spec.name.rpartition(".")[0]).find(layer) if "." in spec.name else None)
        for entry in units
        for spec in composite.kernels(layer, entry)
        if spec.reads_units
    ]


def _is_dense(entry, spec, inner):
    is_layer = inner is not None and keras_compat.is_layer(inner)
    return is_layer and keras_compat.kind_of(inner) == "Dense" and layer_types.of(inner).units == "units"


class InnerConsumer(Consumer):
    """A composite layer, by what the Dense layers inside read that read its units. One block for each.

    Args:
        path: Path of the layer.
        calls: List of its `Call`s.
        units: Dict of config entry to the channel groups of its units.
    """

    def __init__(self, path: str, calls: list[Any], units: dict[str, np.ndarray]) -> None:
        self.path, self.calls, self._by_entry = path, calls, units
        self.layer = calls[0].layer
        self.groups = self.unit_groups = np.concatenate(list(units.values()))
        starts = dict(zip(units, np.cumsum([0, *map(len, units.values())])))
        self._inner, self.blocks = [], []
        for entry, _, inner in _readers(self.layer, units):
            self._inner.append(inner)
            self.blocks.append(starts[entry] + np.arange(len(units[entry])))
        self.forget()

    def matrix(self, block):
        return np.array(self._inner[block].kernel, np.float64)

    @property
    def has_bias(self):
        return all(inner.bias is not None for inner in self._inner)

    # -- what it consumes ------------------------------------------------------------------------------

    def consumed(self, call, values, filled):
        args, kwargs = filled
        with contextlib.ExitStack() as stack:
            read = [stack.enter_context(_recorded(inner)) for inner in self._inner]
            eager.call_in_inference(self.layer, args, kwargs, call.training)
        return read

    def add(self, tensor):
        if not self.moments:
            self.moments = [SecondMoments(len(units)) for units in self.blocks]
        for moments, parts in zip(self.moments, tensor):
            for part in parts:
                self._add_rows(moments, part.reshape(-1, part.shape[-1]))

    # -- the refit -------------------------------------------------------------------------------------

    def set_matrices(self, matrices):
        for inner, matrix in zip(self._inner, matrices):
            inner.kernel.assign(matrix.astype("float32"))

    def write(self, matrices, problems, fold):
        changes = [problem.bias_change(matrix) for problem, matrix in zip(problems, matrices)]
        self.set_matrices(matrices)
        for inner, change in zip(self._inner, changes):
            if fold and inner.bias is not None:
                inner.bias.assign((np.array(inner.bias) + change).astype("float32"))

    def renewed(self):
        return InnerConsumer(self.path, self.calls, self._by_entry)

    def layers_written(self):
        return [self.layer]

    def clear(self, removed):
        parts = np.split(removed, np.cumsum([len(groups) for groups in self._by_entry.values()])[:-1])
        for entry, part in zip(self._by_entry, parts):
            composite.clear_reads(self.layer, entry, part)


@contextlib.contextmanager
def _recorded(layer):
    """Yields a list that collects what a layer is called on, as arrays."""
    read, call = [], layer.call

    def recording(inputs, *args, **kwargs):
        read.append(np.asarray(keras_compat.to_numpy(inputs), np.float32))
        return call(inputs, *args, **kwargs)

    object.__setattr__(layer, "call", recording)
    try:
        yield read
    finally:
        object.__delattr__(layer, "call")
