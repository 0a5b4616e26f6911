"""How often the neurons of a plain model fire on given data, at fixed weights."""

import contextlib
import functools
import itertools
import numbers
import operator
import time

import numpy as np
import rich.console
import rich.progress
import tensorflow as tf

from tfap import graph, keras_compat, kernels
from tfap.activations import ActivationCounts
from tfap.layers.base import firing

_PATIENCE = 3  # seconds of work without a progress bar


def measure_activations(model, data, batch_size=32, threshold=0.0, steps=None):
    """Counts how often each neuron of a plain model fires on data, in inference mode.

    A neuron fires where `tfap.prune` would count it: at its true activation, past BatchNormalization, Add
    and the like. Layers whose neurons fire nowhere, such as the output layer before its softmax, are left
    out.

    Args:
        model: a built Sequential or Functional model of either Keras, such as `strip_pruning` and `compact`
            return. It is not changed.
        data: an array, or a list or dict of arrays for several inputs; or batches of `x`, `(x, y)` or
            `(x, y, sample_weight)`: a `tf.data.Dataset`, a generator, a `keras.utils.PyDataset` or a
            `tf_keras.utils.Sequence`.
        batch_size: samples a batch, for arrays only.
        threshold: an activation above it counts as firing.
        steps: at most this many batches; None for all of them.

    Returns:
        `{layer path: ActivationCounts}` in graph order, with paths such as `inner/dense` for nested models:
        exact int64 counts of shape `(neurons,)`, and `seen`, which is samples x positions x calls. The
        places where a shared layer fires are added up.

    Raises:
        TypeError: data of another kind.
        ValueError: a model that is subclassed, not built or still wrapped; data that is empty or has no end,
            or of another number of inputs than the model has.

    >>> import keras, numpy
    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(2, "relu", kernel_initializer="identity", name="hidden")]
    ... )
    >>> counted = measure_activations(model, numpy.array([[1.0, -1.0], [2.0, 0.5], [3.0, -2.0]]))["hidden"]
    >>> counted.counts, counted.seen
    (array([3, 1]), 3)
    """
    keras_compat.check_plain(model, "tfap.measure_activations")
    _check_whole("batch_size", batch_size)
    if steps is not None:
        _check_whole("steps", steps)
    batches, count = _batches(model, data, batch_size)
    if count == np.inf and steps is None:
        raise ValueError("The dataset has no end: say with steps how many batches to measure.")
    layers = graph.Graph(model)
    fires = _where_neurons_fire(layers)
    taps = _taps(layers, fires, float(threshold))
    _run(model, taps.values(), _with_progress(itertools.islice(batches, steps), count, steps))
    return {
        path: functools.reduce(operator.add, [taps[site.path, axis].counted(site) for site in sites])
        for path, (sites, axis) in fires.items()
    }


def _check_whole(name, value):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1: received {value!r}.")


# -- counting in the model's own layers ------------------------------------------------------------


def _where_neurons_fire(layers):
    """`{path: (sites, channel axis)}` of every layer with a kernel whose firing is known."""
    found = {}
    for path, layer in layers.layers():
        if any(spec.feeds_output for spec in kernels.kernel_specs(layer)):
            sites = layers.firing(path).sites
            if sites:
                found[path] = sites, graph.channel_axis(layer)
    return found


def _taps(layers, fires, threshold):
    """`{(path of a site, channel axis): _Tap}`: layers that fire in one place are counted once."""
    taps = {}
    for sites, axis in fires.values():
        for site in sites:
            if (site.path, axis) not in taps:
                taps[site.path, axis] = _Tap(layers.calls_of[site.path][0], axis, threshold)
    return taps


class _Tap:
    """Counts what a layer gives out while it is `open`."""

    def __init__(self, call, axis, threshold):
        self._layer, self._axis, self._threshold = call.layer, axis, threshold
        self._counts = tf.Variable(tf.zeros(call.outputs[0].shape[axis], tf.int64), trainable=False)
        self._seen = tf.Variable(tf.zeros((), tf.int64), trainable=False)

    def counted(self, site):
        return ActivationCounts(self._counts.numpy(), int(self._seen.numpy()))[site.start : site.stop]

    @contextlib.contextmanager
    def open(self):
        # Both Kerases look `call` up on the instance. Its dict, since Keras watches what is set.
        name = "quantized_call" if getattr(self._layer, "quantization_mode", None) else "call"
        attributes, call = vars(self._layer), getattr(self._layer, name)
        before = {name: attributes[name]} if name in attributes else {}

        def tapped(*args, **kwargs):
            outputs = call(*args, **kwargs)
            counts, seen = firing(outputs, self._axis, self._threshold)
            self._counts.assign_add(counts)
            self._seen.assign_add(seen)
            return outputs

        attributes[name] = tapped
        try:
            yield
        finally:
            del attributes[name]
            attributes.update(before)


def _run(model, taps, batches):
    # A partial, since TensorFlow warns of retracing where many functions have the same code.
    forward = tf.function(
        functools.partial(model, training=False),
        reduce_retracing=True,
        autograph=not keras_compat.is_keras3(model),  # as each Keras compiles its own steps
    )
    empty = True
    for batch in batches:  # outside the taps: a generator may call the model itself
        with contextlib.ExitStack() as stack:
            for tap in taps:
                stack.enter_context(tap.open())
            forward(batch)
        empty = False
    if empty:
        raise ValueError("The data is empty: there is nothing to measure.")


# -- data ------------------------------------------------------------------------------------------


def _batches(model, data, batch_size):
    """`(iterable of inputs, number of batches)`: None where it is not known, inf where there is no end."""
    if isinstance(data, tf.data.Dataset):
        size = int(data.cardinality())
        count = np.inf if size == tf.data.INFINITE_CARDINALITY else size if size >= 0 else None
        return map(_inputs_of, data), count
    if isinstance(data, dict | list | tuple) or hasattr(data, "__array__"):
        return _slices(model, data, batch_size)
    if hasattr(data, "__getitem__"):  # a PyDataset, whose num_batches may be None, or a Sequence
        count = data.num_batches if hasattr(data, "num_batches") else len(data)
        positions = itertools.count() if count is None else range(count)
        return (_inputs_of(data[at]) for at in positions), np.inf if count is None else count
    if hasattr(data, "__iter__"):
        return map(_inputs_of, data), None
    raise TypeError(
        "data must be an array, a list or dict of arrays, a tf.data.Dataset, a generator or a PyDataset: "
        f"received {type(data).__name__}."
    )


def _inputs_of(batch):
    """`x` of `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`."""
    return batch[0] if isinstance(batch, list | tuple) else batch


def _slices(model, data, batch_size):
    named = isinstance(data, dict)
    arrays = list(data.values() if named else [data] if hasattr(data, "__array__") else data)
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"data has {len(arrays)} arrays; the model '{model.name}' has {len(model.inputs)} inputs."
        )
    arrays = [np.asarray(array) for array in arrays]
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"The arrays in data have different numbers of samples: {sorted(sizes)}.")

    def batch(start):
        parts = [array[start : start + batch_size] for array in arrays]
        return dict(zip(data, parts)) if named else keras_compat.packed_inputs(model, parts)

    starts = range(0, sizes.pop(), batch_size)
    return map(batch, starts), len(starts)


def _with_progress(batches, count, steps):
    """The batches, with a progress bar once they have taken a while; none where nobody looks on."""
    console = rich.console.Console(stderr=True)
    known = [number for number in (count, steps) if number is not None]
    begin, bar, task = time.monotonic(), None, None
    with contextlib.ExitStack() as stack:
        for done, batch in enumerate(batches):
            if bar is None and console.is_terminal and time.monotonic() - begin > _PATIENCE:
                bar = stack.enter_context(rich.progress.Progress(console=console, transient=True))
                task = bar.add_task("Measuring activations", total=min(known, default=None))
            if bar is not None:
                bar.update(task, completed=done)
            yield batch
