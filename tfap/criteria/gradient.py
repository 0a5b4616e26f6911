"""Gradient: weights whose loss would hardly be noticed go first."""

import contextlib
import itertools

import numpy as np
import tensorflow as tf

from tfap import keras_compat
from tfap.criteria.base import Criterion, built_in
from tfap.utils import checks

_BATCH = 128  # samples, where arrays are given
MISSING = (
    "{criterion} needs gradients: pass tfap.UpdatePruningStep(gradient_data=(x, y)) to fit, or "
    "gradient_data=(x, y) to the function that prunes."
)


class MeanGradients:
    """The gradient of the mean loss over batches with respect to weights of a model.

    The loss is the compiled one, with regularizers and sample weights, in inference mode. Every batch counts
    by its samples. Metrics, moving averages, counts and seeds are afterwards as before.

    Args:
        model: a compiled model of either Keras.
        data: a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, where x and y may be lists or dicts; or
            batches of these that can be gone through again: a list, a `tf.data.Dataset` with a fixed order, a
            `PyDataset` or a `Sequence`.
        steps: at most this many batches (of 128 samples, where arrays are given); None for all.

    Raises:
        TypeError: data that cannot be gone through, or only once.
        ValueError: a model that is not compiled, or of tf_keras under a distribution strategy; data without
            an end and no `steps`, or steps < 1.

    >>> import keras, numpy
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "linear", False, "ones")])
    >>> model.compile(loss="mse")
    >>> x = numpy.array([[1.0], [2.0]])
    >>> MeanGradients(model, (x, 0 * x)).of([model.layers[0].kernel])  # of the mean of x^2 w^2
    [array([[5.]], dtype=float32)]
    """

    def __init__(self, model, data, steps=None):
        if not keras_compat.is_compiled(model):
            raise ValueError(
                f"The model '{model.name}' is not compiled, so it has no loss to take gradients of: call "
                "compile() on it first."
            )
        if keras_compat.has_loss_in_replicas(model):
            raise ValueError(
                f"Gradients of '{model.name}' cannot be taken under "
                f"{type(model.distribute_strategy).__name__} in tf_keras: use Keras 3, or another criterion."
            )
        check_data(data, steps)
        self._model, self._data, self._steps = model, data, steps
        self._variables = self._function = None

    def of(self, variables):
        """One NumPy array a variable.

        Raises:
            TypeError: a batch is no `(x, y)`.
            ValueError: there is no batch in the data, or no loss in the model.
        """
        if self._function is None or list(map(id, variables)) != list(map(id, self._variables)):
            self._variables, self._function = variables, self._traced(variables)
        total, samples = None, 0
        with _unchanged(self._model):
            for batch in itertools.islice(_batches(self._data), self._steps):
                _check_batch(batch)
                size, gradients = len(tf.nest.flatten(batch)[0]), self._function(*batch)
                total = total or [np.zeros(gradient.shape) for gradient in gradients]
                for summed, gradient in zip(total, gradients):
                    summed += size * gradient.numpy()
                samples += size
        if not samples:
            raise ValueError("gradient_data is empty: there is nothing to take gradients of.")
        return [(summed / samples).astype(np.float32) for summed in total]

    def _traced(self, variables):
        watched = [keras_compat.tensorflow_variable(variable) for variable in variables]

        def gradients(x, y, sample_weight=None):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                loss = self._model.compute_loss(x, y, self._model(x, training=False), sample_weight)
            found = tape.gradient(loss, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) for gradient in found]

        # As each Keras compiles its own steps.
        return tf.function(
            gradients, reduce_retracing=True, autograph=not keras_compat.is_keras3(self._model)
        )


def check_data(data, steps):
    """Raises TypeError or ValueError unless gradients can be taken on the data, again and again."""
    if steps is not None:
        checks.whole("gradient_steps", steps)
    if not hasattr(data, "__iter__") or hasattr(data, "__array__") or isinstance(data, str | dict):
        raise TypeError(
            "gradient_data must be a tuple of arrays (x, y), or batches of them, such as a tf.data.Dataset: "
            f"received {type(data).__name__}."
        )
    if hasattr(data, "__next__"):
        raise TypeError(
            "gradient_data is needed at every mask update, and an iterator can be gone through only once: "
            "pass a list of batches, a tf.data.Dataset or arrays."
        )
    if steps is None and getattr(data, "cardinality", lambda: 0)() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("gradient_data has no end: say with gradient_steps how many batches to take.")


def _check_batch(batch):
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise TypeError(
            "gradient_data must be (x, y) or (x, y, sample_weight), or batches of these: received a batch of "
            f"type {type(batch).__name__}."
        )


def _batches(data):
    return _slices(data) if isinstance(data, tuple) else iter(data)


def _slices(data):
    arrays = tf.nest.map_structure(np.asarray, data)
    samples = len(tf.nest.flatten(arrays)[0])
    for start in range(0, samples, _BATCH):
        yield tf.nest.map_structure(lambda array, start=start: array[start : start + _BATCH], arrays)


@contextlib.contextmanager
def _unchanged(model):
    """Restores all that is no trainable weight; computing a loss changes metrics in tf_keras."""
    held = [(variable, variable.numpy()) for variable in keras_compat.untrained_variables(model)]
    try:
        yield
    finally:
        for variable, value in held:
            variable.assign(value)
        known = {id(variable) for variable, _ in held}
        for metric in model.metrics:
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()  # the loss has made it


@built_in
class Gradient(Criterion):
    """The absolute weight times gradient: by how much the loss would change, to first order, without it.

    `|w * dL/dw|`, L the mean of the model's compiled loss, regularizers included, over the batches given as
    `tfap.UpdatePruningStep(gradient_data=...)` or to `tfap.update_masks`, with the weights as they are at the
    update and in inference mode. With `scope="global"` and `"local"` these are the global and the layerwise
    gradient pruning of Blalock et al. (*What is the state of neural network pruning?*, MLSys 2020).

    >>> import numpy, tfap
    >>> weights, gradients = numpy.array([[1.0, -2.0]]), numpy.array([[0.5, 1.0]])
    >>> mask = numpy.ones((1, 2), "uint8")
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, mask, gradients=gradients)
    >>> Gradient().scores(kernel)
    array([[0.5, 2. ]])
    """

    needs = frozenset({"gradients"})

    def scores(self, kernel):
        return np.abs(kernel.weights * kernel.gradients)
