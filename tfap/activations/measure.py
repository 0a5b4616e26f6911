"""Activation counts of a model's neurons on given data, with fixed weights."""

import contextlib
import functools
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfap import keras_compat
from tfap.activations.batches import EMPTY, Batches
from tfap.graph import layer_types
from tfap.graph.calls import Graph, channel_axis, unwrap
from tfap.graph.counts import ActivationCounts
from tfap.keras_compat import private
from tfap.keras_compat.types import Data, Model
from tfap.utils import checks


def measure_activations(
    model: Model,
    data: Data,
    batch_size: int = 32,
    threshold: float = 0.0,
    steps: int | None = None,
    positions: bool = False,
    heads: bool = False,
) -> dict[str, ActivationCounts]:
    """Counts how often each neuron of a model fires on data, in inference mode.

    tfap counts where `tfap.prune` would: at the activation output of a layer, after BatchNormalization, Add
    and similar layers. Layers without such an activation are left out, such as the output layer.

    Args:
        model: A built Sequential or Functional model of either Keras, with or without tfap's pruning
            wrappers. The model and the counts of its wrappers do not change.
        data: An array, a list or dict of arrays for several inputs, or batches of `x`, `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a `keras.utils.PyDataset`, or a
            `tf_keras.utils.Sequence`.
        batch_size: Integer >= 1. Samples per batch, for arrays only.
        threshold: Float. A neuron fires if its activation > `threshold`.
        steps: Integer >= 1. Maximum number of batches. None for all batches.
        positions: Boolean. Whether to count at every position of a channel, such as the output pixels of a
            convolution, instead of once per neuron or channel.
        heads: Boolean. Whether to count heads of attention layers instead of neurons: the query positions at
            which a head attends elsewhere than everywhere alike. It does if its largest attention weight is
            more than `2 x (1 + threshold) / keys`, of the keys that the position may attend to. In
            GroupedQueryAttention, these are the query heads.

    Returns:
        Dict of layer path, such as `inner/dense` in a nested model, to `ActivationCounts`, in graph order.

        `counts` is an int64 array of shape `(neurons,)`, and `seen` is samples x positions x calls. With
        `positions`, the shape is `(positions * neurons,)` in channels-last order, so that
        `counts.reshape(height, width, channels)` is an image, and `seen` is samples x calls.

        The counts of a shared layer are the sum over its calls. Layers that fire in the same place share one
        `ActivationCounts`, such as two convolutions that are added before their ReLU.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is subclassed, unbuilt, or has tfmot's wrappers. If the data is empty,
            infinite, or has another number of arrays than the model has inputs. With `positions`, if the
            number of positions of a layer is undefined or differs between its calls.

    Example:

    >>> import keras, numpy
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(2, "relu", kernel_initializer="identity", name="hidden")]
    ... )
    >>> counts = measure_activations(model, numpy.array([[1.0, -1.0], [2.0, 0.5], [3.0, -2.0]]))["hidden"]
    >>> counts.counts, counts.seen
    (array([3, 1]), 3)
    """
    meter = ActivationMeter(model, "tfap.measure_activations", threshold, positions, heads)
    return meter.measure(Batches(model, data, batch_size, steps))


class ActivationMeter:
    """Counts how often the neurons of a model fire, repeatedly, with a forward pass that is traced once.

    Args:
        model: A model as in `measure_activations`. Its layers must not change afterwards.
        user: String. Name of the calling function, for messages.
        threshold: Float. A neuron fires if its activation > `threshold`.
        positions: Boolean. Whether to count at every position of a channel.
        heads: Boolean. Whether to count heads instead of neurons.

    Raises:
        TypeError: If `model` is not a model, or `threshold` is not a number.
        ValueError: If the model is not supported.
    """

    def __init__(
        self, model: Model, user: str, threshold: float = 0.0, positions: bool = False, heads: bool = False
    ) -> None:
        keras_compat.check_measurable(model, user)
        threshold = checks.number("threshold", threshold)
        self._model = model
        graph = Graph(model)
        self._places = _places_of_heads(graph) if heads else _places(graph)
        if positions:
            _check_positions(graph, self._places)
        backend = keras_compat.backend_of(model)
        count = backend.firing_by_position if positions else backend.firing
        counter = functools.partial(_HeadCounter, backend.attention_excess) if heads else _OutputCounter
        self._counters = _counters(graph, self._places, functools.partial(counter, count, threshold))
        # A partial, because TensorFlow warns of retracing if many functions share their code.
        self._forward = backend.compiled(model, functools.partial(_counts_of_batch, model, self._counters))

    @property
    def paths(self) -> list[str]:
        """List of strings. Paths of the layers whose neurons are counted, in graph order."""
        return list(self._places)

    def measure(self, batches: Iterable[Any]) -> dict[str, ActivationCounts]:
        """Counts over batches of inputs.

        Args:
            batches: Iterable of model inputs.

        Returns:
            Dict of layer path to `ActivationCounts`. See `measure_activations`.

        Raises:
            ValueError: If there are no batches.
        """
        for counter in self._counters.values():
            counter.reset()
        with keras_compat.unchanged(self._model):
            self._run(batches)
        counts = {place: self._counts(*place) for place in set(self._places.values())}
        return {path: counts[place] for path, place in self._places.items()}

    def _run(self, batches):
        is_empty = True
        for batch in batches:  # not counted here, where a generator may call the model itself
            with contextlib.ExitStack() as stack:
                for counter in self._counters.values():
                    stack.enter_context(counter.counting())
                counted = self._forward(batch)
            for counter, calls in zip(self._counters.values(), counted):
                counter.add(calls)
            is_empty = False
        if is_empty:
            raise ValueError(EMPTY)

    def _counts(self, sites, axis):
        return functools.reduce(
            operator.add, [self._counters[site.path, axis].counts_of(site) for site in sites]
        )


# -- counting in the model's own layers ------------------------------------------------------------


def _places(graph):
    """Returns `{path: (firing sites, channel axis)}` of every layer with a kernel and known sites."""
    places = {}
    for path, layer in graph.layers():
        layer = unwrap(layer)
        if any(spec.feeds_output for spec in layer_types.kernel_specs(layer)):
            sites = graph.firing(path).sites
            if sites:
                places[path] = sites, channel_axis(layer)
    return places


def _places_of_heads(graph):
    """Returns the same for the heads of every attention layer."""
    heads = {path: layer_types.query_heads(unwrap(layer)) for path, layer in graph.layers()}
    return {path: (graph.firing(path, count).sites, -1) for path, count in heads.items() if count}


def _check_positions(graph, places):
    for path, (sites, axis) in places.items():
        calls = [call for site in sites for call in graph.calls_of[site.path]]
        shapes = {_positions(call.outputs[0].shape, axis) for call in calls}
        if len(shapes) > 1:
            raise ValueError(
                f"The layer '{path}' has different positions in its calls, {sorted(shapes, key=str)}, whose "
                "counts cannot be added: pass positions=False."
            )
        if None in shapes.pop():
            raise ValueError(
                f"The layer '{path}' has an undefined number of positions: pass positions=False, or build "
                "the model with input shapes without None."
            )


def _positions(shape, axis):
    """Returns the sizes of all axes except the batch and the channel axis."""
    return tuple(size for index, size in enumerate(shape) if index not in (0, axis % len(shape)))


def _counters(graph, places, counter):
    """Returns `{(path of a site, channel axis): _OutputCounter}`: layers in the same place share one."""
    counters = {}
    for sites, axis in places.values():
        for site in sites:
            if (site.path, axis) not in counters:
                call = graph.calls_of[site.path][0]
                counters[site.path, axis] = counter(call, axis)
    return counters


def _counts_of_batch(model, counters, batch):
    """Calls the model on a batch; returns the `(counts, seen)` of each call of each counter's layer."""
    model(batch, training=False)
    return [counter.taken() for counter in counters.values()]


class _OutputCounter:
    """Counts the outputs of a layer above a threshold, inside the `counting` context."""

    def __init__(self, count, threshold, call, axis):
        self._layer, self._axis, self._count, self._threshold = call.layer, axis, count, threshold
        self._batch = []  # (counts, seen) of each call in one batch
        self.reset()

    def reset(self):
        self._counts, self._seen = 0, 0

    def taken(self):
        """Returns the `(counts, seen)` of each call since the last time, which may be symbolic."""
        batch, self._batch = self._batch, []
        return batch

    def add(self, batch):
        """Adds what `taken` returned, as arrays."""
        for counts, seen in batch:
            self._counts = self._counts + counts.astype(np.int64)
            self._seen += int(seen)

    def counts_of(self, site):
        counts = self._counts[..., site.start : site.stop]
        return ActivationCounts(counts.ravel(), self._seen, self._threshold)

    @contextlib.contextmanager
    def counting(self):
        # Both Kerases look `call` up on the instance. It is set in the instance's dict, because Keras tracks
        # attributes that are set.
        name = "quantized_call" if getattr(self._layer, "quantization_mode", None) else "call"
        attributes, call = vars(self._layer), getattr(self._layer, name)
        saved = {name: attributes[name]} if name in attributes else {}

        def counting_call(*args, **kwargs):
            outputs = call(*args, **kwargs)
            self._batch.append(self._count(outputs, self._axis, self._threshold))
            return outputs

        attributes[name] = counting_call
        try:
            yield
        finally:
            self._batch = []
            del attributes[name]
            attributes.update(saved)


class _HeadCounter(_OutputCounter):
    """Counts the heads of an attention layer, by how far they are from attending everywhere alike."""

    def __init__(self, excess, *arguments):
        super().__init__(*arguments)
        self._layer, self._excess = unwrap(self._layer), excess

    @contextlib.contextmanager
    def counting(self):
        def note(*attended):
            self._batch.append(self._count(self._excess(*attended), self._axis, self._threshold))

        with private.attention_watched(self._layer, note):
            try:
                yield
            finally:
                self._batch = []
