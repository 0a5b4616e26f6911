"""Compensation during training: the layers that consume pruned neurons are refitted at each mask update.

After an update, the weights of the neurons that are kept take over what the pruned ones contributed, as in
`tfap.prune_once`, so that training goes on from a model that still works.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations import batch_norm
from tfap.activations.batches import EMPTY, Batches, check_repeatable
from tfap.compensation.finding import consumers_of
from tfap.compensation.sweep import Sweep
from tfap.graph.calls import Graph, unwrap
from tfap.graph.channels import ChannelMap
from tfap.graph.kernel import Kernel
from tfap.graph.layer_types import ChannelRule, of
from tfap.keras_compat import Replacement, eager
from tfap.layers.find import find_wrappers

SAMPLES = 2048  # the first ones of the data
_BATCH = 128


class Compensation:
    """Refits the consumers of neurons that mask updates prune.

    Args:
        data: Unlabeled data as in `tfap.recalibrate`. None for no refits.

    Raises:
        ValueError: If the data is a one-shot iterator.
    """

    def __init__(self, data: Any = None) -> None:
        check_repeatable("compensate", data)
        self._data = data
        self._copy: _PlainCopy | None = None
        self._batches: list[Any] = []

    def begin(self, model: Any, wrappers: list[Any]) -> None:
        """Prepares a fit.

        Raises:
            TypeError: If the data has the wrong type.
            ValueError: If the data does not fit the model, or has NaN or infinity, or if the model is
                subclassed, or no wrapper prunes whole neurons.
        """
        self._copy = None
        if self._data is None:
            return
        try:
            if not any(wrapper.settings.pattern.couples_neurons for wrapper in wrappers):
                raise ValueError(
                    "no layer is pruned by neurons, so no layer loses what it consumes: pass "
                    'granularity="neuron" to tfap.prune.'
                )
            keras_compat.check_measurable(model, "UpdatePruningStep")
            self._batches = list(_checked(model, self._data))
        except (TypeError, ValueError) as error:
            raise type(error)(f"compensate=: {error}") from error

    @contextlib.contextmanager
    def around(self, model: Any) -> Iterator[None]:
        """Refits after the block, which writes masks, for what was pruned in it."""
        if self._data is None:
            yield
            return
        before = _pruned_neurons(model)
        if self._copy is None:
            self._copy = _PlainCopy(model)
        self._copy.read()
        yield
        after = _pruned_neurons(model)
        if any((after[path] & ~before[path]).any() for path in after):
            self._copy.refit(after, self._batches)


def _checked(model, data):
    """Yields the inputs of the first `SAMPLES` samples, by batches."""
    reader, samples = eager.InputReader(model), 0
    for batch in Batches(model, data, _BATCH):
        arrays = [keras_compat.to_numpy(tensor)[: SAMPLES - samples] for tensor in reader.read(batch)]
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
            raise ValueError("the data contains NaN or infinity: remove these samples.")
        samples += len(arrays[0])
        yield arrays
        if samples >= SAMPLES:
            return
    if not samples:
        raise ValueError(EMPTY)


def _pruned_neurons(model):
    """`{path: boolean array, True for neurons without weights}` of the layers that are pruned by neurons."""
    found = {}
    for entry in find_wrappers(model):
        parts = {}  # the neurons of several kernels are the same, or come one after another
        for spec, _, mask in entry.wrapper.kernel_and_mask():
            if spec.makes_channels and entry.wrapper.settings.pattern.couples_neurons:
                values = np.asarray(mask.numpy())
                its = Kernel(entry.path, spec, np.zeros(values.shape, np.float32), values)
                first = spec.first_neuron or 0
                parts[first] = (its.neuron_sums(values.astype(np.int64)) == 0) & parts.get(first, True)
        if parts:
            found[entry.path] = np.concatenate([parts[first] for first in sorted(parts)])
    return found


class _PlainCopy:
    """A copy of a model in training, without wrappers."""

    def __init__(self, model):
        graph = Graph(model)
        self._live = {path: unwrap(layer) for path, layer in graph.layers()}
        self._wrappers = {entry.path: entry.wrapper for entry in find_wrappers(model)}
        tied = keras_compat.tied_layers(self._live.values())
        # A layer that cannot be copied is shared with the given model, and must not change.
        self._model = keras_compat.rebuild(
            model,
            lambda layer: (
                Replacement(unwrap(layer))
                if id(unwrap(layer)) in tied
                else keras_compat.copied(unwrap(layer))
            ),
        )
        self._layers = dict(Graph(self._model).layers())
        self._fixed = {id(layer) for layer in self._live.values()}

    def read(self):
        """Takes over the weights of the model as they are now."""
        for path, layer in self._layers.items():
            if id(layer) not in self._fixed and keras_compat.is_layer(layer):
                layer.set_weights(self._live[path].get_weights())

    def refit(self, pruned, batches):
        """Refits the consumers of pruned neurons, and writes their weights to the model.

        Args:
            pruned: As `_pruned_neurons` returns it.
            batches: List of the model inputs.
        """
        self._recalibrate(batches)
        graph = Graph(self._model)
        channel_map = ChannelMap(graph)
        removed = self._removed_groups(graph, channel_map, pruned)
        consumers = consumers_of(graph, channel_map, fixed=self._fixed)
        consuming = [each for each in consumers.values() if removed[each.groups].any()]
        consuming = [each for each in consuming if id(each.layer) not in self._fixed]
        before = {path: _values(layer) for path, layer in self._layers.items()}

        def done(consumer):
            problems = consumer.problems()
            fitted = [problem.refit(removed[problem.groups]) for problem in problems]
            consumer.write(fitted, problems, fold=True)
            consumer.clear(removed[consumer.groups])
            consumer.forget()

        Sweep(self._model, batches, [each.path for each in consuming]).run(consuming, done)
        for path, layer in self._layers.items():
            self._write(path, before[path], _values(layer))
        for wrapper in self._wrappers.values():
            wrapper.zero_biases()

    def _recalibrate(self, batches):
        """Normalizes as in training, with the statistics of the data. Moving averages may be far from it."""
        layers = {
            path: layer
            for path, layer in batch_norm.normalizations(self._model).items()
            if id(layer) not in self._fixed
        }
        if layers:
            found = batch_norm.statistics(self._model, batches, layers)
            for layer in layers.values():
                if id(layer) in found:
                    batch_norm.write(layer, *found[id(layer)])

    @staticmethod
    def _removed_groups(graph, channel_map, pruned):
        """Returns which channel groups consist of pruned neurons: boolean array."""
        removed = np.ones(channel_map.size, bool)
        produced = np.zeros(channel_map.size, bool)
        for path, calls in graph.calls_of.items():
            known = channel_map.of(calls[0].outputs[0])
            if known is not None and of(calls[0].layer).channels is ChannelRule.LINEAR:
                kept = np.zeros(len(known.groups), bool)
                marks = pruned.get(path, kept)
                marks = marks if len(marks) == len(kept) else kept
                removed[known.groups[~marks]] = False
                produced[known.groups] = True
        return removed & produced

    def _write(self, path, before, after):
        """Writes what has changed in a layer of the copy to that of the model."""
        live, wrapper = self._live[path], self._wrappers.get(path)
        masks = {} if wrapper is None else {id(kernel): mask for _, kernel, mask in wrapper.kernel_and_mask()}
        for index, (old, new) in enumerate(zip(before, after)):
            if np.array_equal(old, new):
                continue
            variable = live.weights[index]
            if eager.is_batch_normalization(live):  # its mean takes over what a bias would
                new = np.asarray(variable.numpy()) + (new - old)
            mask = masks.get(id(variable))
            variable.assign(new if mask is None else new * mask.numpy())


def _values(layer):
    return layer.get_weights() if keras_compat.is_layer(layer) else []
