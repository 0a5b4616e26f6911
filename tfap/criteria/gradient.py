"""The gradient criterion: weights whose removal changes the loss least are pruned first."""

import contextlib
import itertools

import numpy as np

from tfap import keras_compat
from tfap.criteria.base import Criterion, built_in
from tfap.graph.kernel import Kernel
from tfap.utils import checks

_INFINITE = -1  # tf.data.INFINITE_CARDINALITY
_BATCH = 128  # samples, where arrays are given
NEEDS = frozenset({"gradients", "squared_gradients", "loss_changes"})  # fields of a `Kernel` from gradients
MISSING = (
    "{criterion} needs gradients: pass tfap.UpdatePruningStep(gradient_data=(x, y)) to fit, or "
    "gradient_data=(x, y) to the function that prunes."
)


class MeanGradients:
    """Computes the gradient of the mean loss over batches with respect to weights of a model.

    The loss is the compiled loss in inference mode, with regularizers and sample weights. Batches are
    weighted by their number of samples. Metrics, moving averages, counts and seeds are restored afterwards.

    Args:
        model: A compiled model of either Keras.
        data: What `fit` takes: a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, where x and y may be
            lists or dicts; or a re-iterable of such batches: a list, a `tf.data.Dataset` with a fixed order,
            a `PyDataset` or a `Sequence`. For a model whose loss is `add_loss` alone, x is enough: an array,
            a dict of arrays, a tuple `(x,)`, or batches of them.
        steps: Integer. The largest number of batches to read, of 128 samples each if arrays are given. None
            reads all.

    Raises:
        TypeError: If the data is not iterable, or is a one-shot iterator.
        ValueError: If the model is not compiled, or is of tf_keras under a distribution strategy; if the data
            is infinite and `steps` is None; or if steps < 1.

    Example:

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
        """Computes the gradients with respect to some variables.

        Args:
            variables: A list of variables of the model.

        Returns:
            One float32 array per variable.

        Raises:
            TypeError: If a batch is not `(x, y)` or `(x, y, sample_weight)`, or has no y though the model is
                compiled with a loss.
            ValueError: If the data has no batch, or the model no loss.
        """
        return self._means(variables, lambda gradient: gradient)

    def squares_of(self, variables):
        """Computes the means of the squared gradients of the batches; arguments and errors as in `of`.

        Returns:
            One float32 array per variable. It depends on how the data is split into batches.
        """
        return self._means(variables, lambda gradient: np.square(gradient, dtype=np.float64))

    def _means(self, variables, power):
        if self._function is None or list(map(id, variables)) != list(map(id, self._variables)):
            self._variables = variables
            self._function = keras_compat.backend_of(self._model).gradient_function(self._model, variables)
        total, samples = None, 0
        with _unchanged(self._model):
            for batch in itertools.islice(_batches(self._data), self._steps):
                batch = _unpacked(batch)
                self._check_targets(batch)
                size, gradients = len(_parts(batch)[0]), self._function(*batch)
                total = total or [np.zeros(gradient.shape) for gradient in gradients]
                for summed, gradient in zip(total, gradients):
                    summed += size * power(gradient)
                samples += size
        if not samples:
            raise ValueError("gradient_data is empty: there is nothing to take gradients of.")
        return [(summed / samples).astype(np.float32) for summed in total]

    def _check_targets(self, batch):
        if len(batch) == 1 and keras_compat.has_compiled_loss(self._model):
            raise TypeError(
                f"gradient_data has inputs alone, but the model '{self._model.name}' is compiled with a "
                "loss, which needs targets: pass (x, y), or batches of these."
            )


def check_data(data, steps):
    """Raises TypeError or ValueError unless gradients can be taken on the data at every mask update."""
    if steps is not None:
        checks.integer("gradient_steps", steps)
    if isinstance(data, str) or not (hasattr(data, "__iter__") or hasattr(data, "__array__")):
        raise TypeError(
            "gradient_data must be a tuple of arrays (x, y), or batches of them, such as a tf.data.Dataset: "
            f"received {type(data).__name__}."
        )
    if hasattr(data, "__next__"):
        raise TypeError(
            "gradient_data is needed at every mask update, and an iterator can be read only once: "
            "pass a list of batches, a tf.data.Dataset or arrays."
        )
    if steps is None and keras_compat.is_tf_dataset(data) and int(data.cardinality()) == _INFINITE:
        raise ValueError("gradient_data is infinite: pass gradient_steps, the number of batches to read.")


def _unpacked(batch):
    """Returns a batch as a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`, as each Keras unpacks it."""
    if isinstance(batch, dict) or hasattr(batch, "__array__"):
        return (batch,)
    if not isinstance(batch, tuple | list) or len(batch) not in (1, 2, 3):
        raise TypeError(
            "gradient_data must be (x, y) or (x, y, sample_weight), or batches of these: received a batch of "
            f"type {type(batch).__name__}."
        )
    *needed, last = batch
    return tuple(needed) if needed and last is None else tuple(batch)


def _batches(data):
    if isinstance(data, dict) or hasattr(data, "__array__"):
        data = (data,)
    return _slices(data) if isinstance(data, tuple) else iter(data)


def _slices(data):
    arrays = _mapped(np.asarray, data)
    for start in range(0, len(_parts(arrays)[0]), _BATCH):
        yield _mapped(lambda part, start=start: part[start : start + _BATCH], arrays)


def _mapped(function, structure):
    """Applies a function to all arrays in tuples, lists and dicts; None stays."""
    if isinstance(structure, dict):
        return {key: _mapped(function, part) for key, part in structure.items()}
    if isinstance(structure, tuple | list):
        parts = [_mapped(function, part) for part in structure]
        return tuple(parts) if isinstance(structure, tuple) else parts
    return None if structure is None else function(structure)


def _parts(structure):
    """Lists all arrays in tuples, lists and dicts."""
    found = []
    _mapped(found.append, structure)
    return found


@contextlib.contextmanager
def _unchanged(model):
    """Restores everything but trainable weights: computing a loss changes metrics in tf_keras."""
    held = [(variable, variable.numpy()) for variable in keras_compat.untrained_variables(model)]
    try:
        yield
    finally:
        for variable, value in held:
            variable.assign(value)
        known = {id(variable) for variable, _ in held}
        for metric in model.metrics:
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()  # computing the loss has made its variables


@built_in
class Gradient(Criterion):
    """Scores weights by how much the loss would change, to first order, if they were pruned.

    The score is `|w * dL/dw|`. L is the mean compiled loss, regularizers included, in inference mode, over
    the batches given to `tfap.UpdatePruningStep(gradient_data=...)` or `tfap.update_masks`. With
    `scope="global"` and `"local"`, these are the global and the layerwise gradient pruning of the reference.

    Example:

    >>> import numpy, tfap
    >>> weights, gradients = numpy.array([[1.0, -2.0]]), numpy.array([[0.5, 1.0]])
    >>> mask = numpy.ones((1, 2), "uint8")
    >>> kernel = tfap.Kernel("a", tfap.KernelSpec(), weights, mask, gradients=gradients)
    >>> Gradient().scores(kernel)
    array([[0.5, 2. ]])

    References:
        - Blalock et al., *What is the state of neural network pruning?*, MLSys 2020
    """

    needs = frozenset({"gradients"})

    def scores(self, kernel: Kernel) -> np.ndarray:
        return np.abs(kernel.weights * kernel.gradients)
