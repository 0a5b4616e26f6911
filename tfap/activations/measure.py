"""How often the neurons of a model fire on given data, at fixed weights."""

import contextlib
import functools
import math
import operator

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.activations.batches import EMPTY, Batches
from tfap.graph import layer_types
from tfap.graph.calls import Graph, channel_axis, unwrap
from tfap.graph.counts import ActivationCounts, firing
from tfap.utils import checks


def measure_activations(model, data, batch_size=32, threshold=0.0, steps=None, positions=False):
    """Counts how often each neuron of a model fires on data, in inference mode.

    A neuron fires where `tfap.prune` would count it: at its true activation, past BatchNormalization, Add
    and the like. Layers whose neurons fire nowhere, such as the output layer before its softmax, are left
    out.

    Args:
        model: a built Sequential or Functional model of either Keras, with tfap's pruning wrappers or
            without. It is not changed, nor are the wrappers' own counts.
        data: an array, or a list or dict of arrays for several inputs; or batches of `x`, `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a `keras.utils.PyDataset` or a
            `tf_keras.utils.Sequence`.
        batch_size: samples a batch, for arrays only.
        threshold: an activation above it counts as firing.
        steps: at most this many batches; None for all of them.
        positions: False for one count a neuron or channel; True for one at each of its positions, such as
            the pixels that a convolution gives out.

    Returns:
        `{layer path: ActivationCounts}` in graph order, with paths such as `inner/dense` for nested models:
        exact int64 counts of shape `(neurons,)`, and `seen`, which is samples x positions x calls. With
        `positions` the shape is `(positions * neurons,)`, in the order of a channels-last activation, so
        that `counts.reshape(height, width, channels)` is a picture, and `seen` is samples x calls. The
        places where a shared layer fires are added up. Layers that fire in the same place, such as two
        convolutions that are added before their ReLU, have one `ActivationCounts` object together.

    Raises:
        TypeError: data of another kind.
        ValueError: a model that is subclassed, not built or in tfmot's wrappers; data that is empty or has
            no end, or of another number of inputs than the model has; with `positions` a layer whose number
            of positions is open or differs between its calls.

    >>> import keras, numpy
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(2, "relu", kernel_initializer="identity", name="hidden")]
    ... )
    >>> counted = measure_activations(model, numpy.array([[1.0, -1.0], [2.0, 0.5], [3.0, -2.0]]))["hidden"]
    >>> counted.counts, counted.seen
    (array([3, 1]), 3)
    """
    meter = ActivationMeter(model, "tfap.measure_activations", threshold, positions)
    return meter.measure(Batches(model, data, batch_size, steps))


class ActivationMeter:
    """Counts how often a model's neurons fire, as often as asked, with a forward pass that is traced once.

    Args:
        model: as for `measure_activations`; its layers must stay what they are.
        user: who asks, for errors.
        threshold, positions: as for `measure_activations`.

    Raises:
        ValueError: a model that cannot be measured.
    """

    def __init__(self, model, user, threshold=0.0, positions=False):
        keras_compat.check_measurable(model, user)
        threshold = checks.number("threshold", threshold)
        self._model = model
        layers = Graph(model)
        self._fires = _where_neurons_fire(layers)
        if positions:
            _check_positions(layers, self._fires)
        self._taps = _taps(layers, self._fires, threshold, positions)
        # A partial, since TensorFlow warns of retracing where many functions have the same code.
        self._forward = tf.function(
            functools.partial(model, training=False),
            reduce_retracing=True,
            autograph=not keras_compat.is_keras3(model),  # as each Keras compiles its own steps
        )

    @property
    def paths(self):
        """The layers whose neurons are counted, in graph order."""
        return list(self._fires)

    def measure(self, batches):
        """`{layer path: ActivationCounts}` over batches of inputs; see `measure_activations`.

        Raises:
            ValueError: there are no batches.
        """
        for tap in self._taps.values():
            tap.reset()
        with _unchanged(self._model):
            self._run(batches)
        counted = {key: self._counted(*key) for key in set(self._fires.values())}
        return {path: counted[fires] for path, fires in self._fires.items()}

    def _run(self, batches):
        empty = True
        for batch in batches:  # outside the taps: a generator may call the model itself
            with contextlib.ExitStack() as stack:
                for tap in self._taps.values():
                    stack.enter_context(tap.open())
                self._forward(batch)
            empty = False
        if empty:
            raise ValueError(EMPTY)

    def _counted(self, sites, axis):
        return functools.reduce(operator.add, [self._taps[site.path, axis].counted(site) for site in sites])


@contextlib.contextmanager
def _unchanged(model):
    """Puts back what layers write in inference too: some are called with training=True for good."""
    variables = filter(keras_compat.is_variable, model.non_trainable_variables)
    before = [(variable, variable.numpy()) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(variable.numpy(), value):
                variable.assign(value)


# -- counting in the model's own layers ------------------------------------------------------------


def _where_neurons_fire(layers):
    """`{path: (sites, channel axis)}` of every layer with a kernel whose firing is known."""
    found = {}
    for path, layer in layers.layers():
        layer = unwrap(layer)
        if any(spec.feeds_output for spec in layer_types.kernel_specs(layer)):
            sites = layers.firing(path).sites
            if sites:
                found[path] = sites, channel_axis(layer)
    return found


def _check_positions(layers, fires):
    for path, (sites, axis) in fires.items():
        calls = [call for site in sites for call in layers.calls_of[site.path]]
        shapes = {_positions(call.outputs[0].shape, axis) for call in calls}
        if len(shapes) > 1:
            raise ValueError(
                f"The layer '{path}' fires at different positions in its calls, {sorted(shapes, key=str)}: "
                "they cannot be added up with positions=True."
            )
        if None in shapes.pop():
            raise ValueError(
                f"The layer '{path}' has an open number of positions: positions=True needs input shapes "
                "without None."
            )


def _positions(shape, axis):
    """The sizes of all axes but those of samples and of neurons."""
    return tuple(size for at, size in enumerate(shape) if at not in (0, axis % len(shape)))


def _taps(layers, fires, threshold, positions):
    """`{(path of a site, channel axis): _Tap}`: layers that fire in one place are counted once."""
    taps = {}
    for sites, axis in fires.values():
        for site in sites:
            if (site.path, axis) not in taps:
                taps[site.path, axis] = _Tap(layers.calls_of[site.path][0], axis, threshold, positions)
    return taps


class _Tap:
    """Counts what a layer gives out while it is `open`."""

    def __init__(self, call, axis, threshold, positions):
        self._layer, self._axis, self._threshold = call.layer, axis, threshold
        self._count = _firing_by_position if positions else firing
        shape = call.outputs[0].shape
        rows = (math.prod(_positions(shape, axis)),) if positions else ()
        self._counts = tf.Variable(tf.zeros((*rows, shape[axis]), tf.int64), trainable=False)
        self._seen = tf.Variable(tf.zeros((), tf.int64), trainable=False)

    def reset(self):
        for variable in (self._counts, self._seen):
            variable.assign(tf.zeros_like(variable))

    def counted(self, site):
        counts = self._counts.numpy()[..., site.start : site.stop]
        return ActivationCounts(counts.ravel(), int(self._seen.numpy()))

    @contextlib.contextmanager
    def open(self):
        # Both Kerases look `call` up on the instance. Its dict, since Keras watches what is set.
        name = "quantized_call" if getattr(self._layer, "quantization_mode", None) else "call"
        attributes, call = vars(self._layer), getattr(self._layer, name)
        before = {name: attributes[name]} if name in attributes else {}

        def tapped(*args, **kwargs):
            outputs = call(*args, **kwargs)
            counts, seen = self._count(outputs, self._axis, self._threshold)
            self._counts.assign_add(counts)
            self._seen.assign_add(seen)
            return outputs

        attributes[name] = tapped
        try:
            yield
        finally:
            del attributes[name]
            attributes.update(before)


def _firing_by_position(activations, axis, threshold):
    """Like `firing`, but counts of shape `(positions, neurons)`; seen is the number of samples."""
    fired = tf.cast(activations > tf.cast(threshold, activations.dtype), tf.int64)
    if axis == 1:
        fired = tf.transpose(fired, [0, *range(2, fired.shape.rank), 1])
    by_position = tf.reduce_sum(fired, axis=0)
    return tf.reshape(by_position, (-1, fired.shape[-1])), tf.shape(activations, tf.int64)[0]
