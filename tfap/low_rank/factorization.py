"""Layers of low rank as two thin layers: the same outputs with fewer weights."""

import numbers

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.low_rank.spectra import KernelMatrix, check_rank, rank_of, why_no_matrix

_FACTORIZED = ("Dense", "Conv1D", "Conv2D", "Conv3D")


def factorize(model, rank=None, energy=None, error=None, layers=None):
    """Replaces layers by two thin ones where the low rank of the kernel makes that fewer weights.

    A Dense layer of m inputs and n units becomes `Dense(r, use_bias=False)` and `Dense(n)`, a convolution
    one with the same window and r filters and a 1 x 1 convolution: r (m + n) weights in place of m n,
    the product of the two the nearest kernel of rank r (Eckart and Young, 1936). Both get the square
    root of the singular values, and can be trained on. The second layer keeps the old name, activation
    and bias, the first is called `<name>_factor`; both are frozen if the old layer was. Neither has the
    old kernel's regularizer, constraint and initializer. Layers where nothing is saved stay as they are.

    Give exactly one of `rank`, `energy` and `error`. No layer gets a higher rank than its kernel has.

    Args:
        model: a plain built Sequential or Functional model of either Keras. It is not changed.
        rank: the largest rank, an int >= 1 for all layers, or `{layer path: int}` for some.
        energy: the share of the squared singular values that every layer keeps at least, in (0, 1].
        error: the largest relative error of a kernel in the Frobenius norm, in [0, 1).
        layers: names or paths of the layers to factorize; None is every Dense and ordinary convolution.

    Returns:
        A new plain model of the same Keras, compiled alike if the model was (with a fresh optimizer).

    Raises:
        TypeError, ValueError: no plain, built model; not exactly one of the three; one outside its range;
            a layer that is not there or cannot be factorized; or nothing that saves weights.

    >>> import keras, numpy
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(32, name="dense")])
    >>> model.layers[0].set_weights([numpy.ones((32, 32)), numpy.zeros(32)])
    >>> thin = low_rank.factorize(model, energy=1.0)
    >>> [(layer.name, layer.units) for layer in thin.layers], thin.count_params()
    ([('dense_factor', 1), ('dense', 32)], 96)
    """
    keras_compat.check_plain(model, "tfap.low_rank.factorize")
    lost = _share_lost(rank, energy, error)
    layers_of = Graph(model)
    ranks = _ranks(layers_of, rank, layers)
    found = {path: _Factors(_matrix(layers_of, path), limit, lost) for path, limit in ranks.items()}
    factors = {path: entry for path, entry in found.items() if entry.saves}
    if not factors:
        raise ValueError(_nothing_saved(model, found))
    names = {layer.name for layer in keras_compat.all_layers(model)}

    def replace(layer):
        path = layers_of.path_of(layer)
        if path not in factors:
            return keras_compat.copied(layer)
        return _two_layers(layer, factors[path], _free_name(f"{layer.name}_factor", names))

    return keras_compat.rebuild(model, replace)


# -- what is asked for -----------------------------------------------------------------------------


def _share_lost(rank, energy, error):
    """The share of the squared singular values that a layer may lose beyond what `rank` takes."""
    if sum(argument is not None for argument in (rank, energy, error)) != 1:
        raise ValueError(
            f"Give exactly one of rank, energy and error: received rank={rank!r}, energy={energy!r}, "
            f"error={error!r}."
        )
    if energy is not None:
        _check_share("energy", energy, "(0, 1]", lambda share: 0 < share <= 1)
        return 1 - energy
    if error is not None:
        _check_share("error", error, "[0, 1)", lambda share: 0 <= share < 1)
        return error**2
    return 0


def _check_share(name, value, interval, is_inside):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number in {interval}: received {value!r}.")
    if not is_inside(value):
        raise ValueError(f"{name} must be in {interval}: received {value}.")


def _ranks(layers_of, rank, layers):
    """`{path: largest rank}` of the layers to factorize; None where only the kernel sets a limit."""
    reasons = {path: _why_not(layer) for path, layer in layers_of.layers()}
    if isinstance(rank, dict):
        if layers is not None:
            raise ValueError("rank names the layers already: leave out layers.")
        ranks = {path: most for name, most in rank.items() for path in _paths(layers_of, name)}
    elif layers is None:
        ranks = {path: rank for path, reason in reasons.items() if reason is None}
    else:
        named = [layers] if isinstance(layers, str) else layers
        ranks = {path: rank for name in named for path in _paths(layers_of, name)}
    for path, most in ranks.items():
        if reasons[path]:
            raise ValueError(f"The layer '{path}' cannot be factorized: {reasons[path]}.")
        if most is not None:
            check_rank(most, "rank", 1)
    return ranks


def _paths(layers_of, name):
    """The paths of the layers with a name or path."""
    found = [path for path, layer in layers_of.layers() if name in (path, layer.name)]
    if not found:
        raise ValueError(
            f"There is no layer '{name}' in the model. Its layers are: {', '.join(layers_of.calls_of)}."
        )
    return found


def _why_not(layer):
    """The reason why a layer cannot be two, or None if it can."""
    if keras_compat.kind_of(layer) not in _FACTORIZED:
        return f"it is a {type(layer).__name__}, and only Keras's own {', '.join(_FACTORIZED)} layers can"
    return why_no_matrix(layer)


def _nothing_saved(model, found):
    listed = [f"'{path}' rank {entry.rank} (saves up to {entry.most})" for path, entry in found.items()]
    return (
        f"Factorizing the model '{model.name}' saves no weights: two layers have as many as one or more. "
        f"Asked for: {', '.join(listed) or 'nothing, as there is no Dense layer or convolution'}."
    )


# -- two layers in place of one --------------------------------------------------------------------


class _Factors:
    """A matrix as the product of two.

    Attributes:
        rank: columns of `first`, rows of `second`.
        most: the largest rank at which the two have fewer weights than the matrix.
        first, second: float arrays `(rows, rank)` and `(rank, columns)` of the kernel's dtype.
    """

    def __init__(self, matrix, limit, lost):
        left, values, right = np.linalg.svd(matrix.values, full_matrices=False)
        rank = _rank_that_loses(values, lost)
        rank = min(rank, rank_of(matrix, values), len(values) if limit is None else limit)
        self.rank = max(1, rank)  # Keras has no layers without units
        rows, columns = matrix.values.shape
        self.most = (rows * columns - 1) // (rows + columns)
        root = np.sqrt(values[: self.rank])
        self.first = (left[:, : self.rank] * root).astype(matrix.dtype)
        self.second = (root[:, None] * right[: self.rank]).astype(matrix.dtype)

    @property
    def saves(self):
        return self.rank <= self.most


def _matrix(layers_of, path):
    return KernelMatrix(path, layers_of.calls_of[path][0].layer)


def _rank_that_loses(values, share):
    """The lowest rank that loses at most this share of the squared singular values."""
    tails = np.cumsum(values[::-1] ** 2)[::-1]  # what each rank, from 0, loses
    return int((tails > share * tails[0]).sum())


def _free_name(name, names):
    while name in names:
        name += "_"
    names.add(name)
    return name


def _two_layers(layer, factors, name):
    """The Replacement of a layer by two."""
    left_out = ("batch_input_shape",)  # of tf_keras, for the first layer of a model
    size = "units" if type(layer).__name__ == "Dense" else "filters"
    kernel, *bias = layer.get_weights()
    window = kernel.ndim - 2
    first = {**_PLAIN_KERNEL, **_NO_BIAS, "name": name, size: factors.rank}
    second = {**_PLAIN_KERNEL, **(_one_by_one(window) if window else {})}
    before = Replacement(
        keras_compat.from_config(layer, first, left_out),
        [factors.first.reshape(*kernel.shape[:-1], factors.rank)],
    )
    weights = [factors.second.reshape(*[1] * window, *factors.second.shape), *bias]
    return Replacement(keras_compat.from_config(layer, second, left_out), weights, before=before)


# What was meant for the one kernel means nothing for its factors.
_PLAIN_KERNEL = {
    "kernel_initializer": "glorot_uniform",
    "kernel_regularizer": None,
    "kernel_constraint": None,
}
_NO_BIAS = {
    "activation": "linear",
    "use_bias": False,
    "bias_initializer": "zeros",
    "bias_regularizer": None,
    "bias_constraint": None,
    "activity_regularizer": None,
}


def _one_by_one(window):
    """What makes a convolution one that mixes channels only."""
    ones = (1,) * window
    return {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
