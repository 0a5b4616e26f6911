"""Activation counts of either side of layers, by call, on batches."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.stepwise import StepwiseRun
from tfap.graph import layer_types
from tfap.graph.calls import channel_axis, unwrap
from tfap.graph.counts import ActivationCounts
from tfap.keras_compat import private


def count_activations(
    model: Any,
    batches: Iterable[Any],
    side: str = "output",
    statistic: str = "count",
    threshold: float = 0.0,
    heads: bool = False,
) -> dict[str, ActivationCounts]:
    """Counts the activations that a criterion reads, in one pass over the data.

    Args:
        model: A built Sequential or Functional model.
        batches: Iterable of model inputs.
        side: "output" for the neurons that the kernel of a layer feeds, where they fire; "input" for what it
            reads.
        statistic: "count" to count activations above the threshold, "sum" to sum them, "square" to sum the
            squares of all.
        threshold: Float.
        heads: Whether to count the heads of attention layers instead of neurons.

    Returns:
        Dict of layer path to `ActivationCounts`. Layers without neurons to count are left out.
    """
    run = _CountingRun(model, batches, side, statistic, threshold, heads)
    run.make_pass()
    return run.results()


class _CountingRun(StepwiseRun):
    def __init__(self, model, batches, side, statistic, threshold, heads):
        self._sums, self._seen = {}, {}
        self._side, self._statistic, self._threshold, self._heads = side, statistic, threshold, heads
        super().__init__(model, batches, lambda call: True)
        self._sites = {path: self._sites_of(path) for path in self.graph.calls_of}
        self._counted = {site for sites, _ in self._sites.values() for site, *_ in sites}

    def _sites_of(self, path):
        """Returns `(path, first, last)` of the places where a layer's neurons are, and their axis."""
        call = self.graph.calls_of[path][0]
        layer = unwrap(call.layer)
        if self._heads:
            heads = layer_types.query_heads(layer) if self._side == "output" else 0
            return (((path, 0, heads),), -1) if heads else ((), None)
        if not any(
            spec.countable(self._side, whole_neurons=True) for spec in layer_types.kernel_specs(layer)
        ):
            return (), None
        axis = channel_axis(layer)
        if self._side == "input":
            return ((path, 0, call.inputs[0].shape[axis]),), axis
        return tuple((site.path, site.start, site.stop) for site in self.graph.firing(path).sites), axis

    def _outputs(self, call, values):
        if self._heads and call.path in self._counted:
            return self._outputs_of_heads(call, values)
        outputs = super()._outputs(call, values)
        if call.path in self._counted:
            tensor = values[call.inputs[0]] if self._side == "input" else outputs[0]
            self._count(call, keras_compat.to_numpy(tensor))
        return outputs

    def _outputs_of_heads(self, call, values):
        layer = unwrap(call.layer)
        excess = keras_compat.backend_of(layer).attention_excess

        def note(*attended):
            self._count(call, keras_compat.to_numpy(excess(*attended)))

        with private.attention_watched(layer, note):
            return super()._outputs(call, values)

    def _count(self, call, values):
        axes = {
            axis % values.ndim for sites, axis in self._sites.values() if call.path in [s[0] for s in sites]
        }
        for axis in axes:
            others = tuple(at for at in range(values.ndim) if at != axis)
            kept = self._kept(values)
            dtype = np.int64 if self._statistic == "count" else np.float64
            key = call.path, axis - values.ndim
            self._sums[key] = self._sums.get(key, 0) + kept.sum(axis=others, dtype=dtype)
            self._seen[key] = self._seen.get(key, 0) + values.size // values.shape[axis]

    def _kept(self, values):
        if self._statistic == "square":
            return np.square(values, dtype=np.float64)
        above = values > values.dtype.type(self._threshold)
        return above if self._statistic == "count" else np.where(above, values, 0)

    def results(self):
        found = {}
        for path, (sites, axis) in self._sites.items():
            parts = [self._part(site, axis) for site in sites]
            if parts:
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                found[path] = total
        return found

    def _part(self, site, axis):
        path, start, stop = site
        ndim = len(self.graph.calls_of[path][0].outputs[0].shape)
        key = path, axis % ndim - ndim
        return ActivationCounts(self._sums[key][start:stop], self._seen[key], self._threshold)
