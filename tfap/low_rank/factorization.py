"""Replaces layers by low-rank factors: two layers with fewer weights."""

import numbers
from collections.abc import Iterable

import numpy as np

from tfap import keras_compat
from tfap.graph import layer_types
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.keras_compat.types import Model
from tfap.low_rank.spectra import KernelMatrix, check_rank, rank_of, why_not_matrix

_FACTORIZABLE = ("Dense", "Conv1D", "Conv2D", "Conv3D")


def factorize(
    model: Model,
    rank: int | dict[str, int] | None = None,
    energy: float | None = None,
    error: float | None = None,
    layers: str | Iterable[str] | None = None,
) -> Model:
    """Replaces layers by low-rank factors if that saves weights.

    A Dense layer with m inputs and n units becomes `Dense(r, use_bias=False)` and `Dense(n)`: r (m + n)
    weights instead of m n. A convolution becomes one with the same window and r filters, and a 1 x 1
    convolution. The product of both kernels is the nearest kernel of rank r (Eckart and Young, 1936). Each
    factor gets the square root of the singular values, so the model can be fine-tuned.

    The second layer keeps the name, activation, and bias. The first is named `<name>_factor`. Both are frozen
    if the given layer is. Regularizer, constraint, and initializer of the kernel are dropped. A layer is
    unchanged if factoring saves nothing.

    Pass exactly one of `rank`, `energy`, and `error`. The rank of a layer is at most the rank of its kernel.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        rank: Largest rank: an integer >= 1 for all layers, or a dict of layer path to integer.
        energy: Float in (0, 1]. Fraction of the squared singular values to keep in every layer.
        error: Float in [0, 1). Largest relative error of a kernel in the Frobenius norm.
        layers: Names or paths of the layers to factorize. None means every Dense layer and every convolution
            that is neither grouped nor depthwise.

    Returns:
        A new model of the same Keras, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a value is invalid; the model is wrapped, subclassed, or unbuilt; a layer is missing or
            cannot be factorized; or factoring saves no weights.

    Example:

    >>> import keras, numpy
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(32, name="dense")])
    >>> model.layers[0].set_weights([numpy.ones((32, 32)), numpy.zeros(32)])
    >>> factorized = low_rank.factorize(model, energy=1.0)
    >>> [(layer.name, layer.units) for layer in factorized.layers], factorized.count_params()
    ([('dense_factor', 1), ('dense', 32)], 96)

    References:
        - [Eckart and Young, 1936](https://doi.org/10.1007/BF02288367)
    """
    keras_compat.check_plain(model, "tfap.low_rank.factorize")
    energy_to_lose = _energy_to_lose(rank, energy, error)
    graph = Graph(model)
    largest_ranks = _largest_ranks(graph, rank, layers)
    candidates = {
        path: _Factors(_kernel_matrix(graph, path), largest_rank, energy_to_lose)
        for path, largest_rank in largest_ranks.items()
    }
    factors = {path: candidate for path, candidate in candidates.items() if candidate.saves_weights}
    if not factors:
        raise ValueError(_nothing_saved(model, candidates))
    names = {layer.name for layer in keras_compat.all_layers(model)}

    def replace(layer):
        path = graph.path_of(layer)
        if path not in factors:
            return keras_compat.copied(layer)
        return _factor_layers(layer, factors[path], _unused_name(f"{layer.name}_factor", names))

    return keras_compat.rebuild(model, replace)


# -- arguments -------------------------------------------------------------------------------------


def _energy_to_lose(rank, energy, error):
    """The fraction of the squared singular values that a layer may lose if `rank` does not limit it."""
    if sum(argument is not None for argument in (rank, energy, error)) != 1:
        raise ValueError(
            f"Pass exactly one of rank, energy and error: received rank={rank!r}, energy={energy!r}, "
            f"error={error!r}."
        )
    if energy is not None:
        _check_fraction("energy", energy, "(0, 1]", lambda fraction: 0 < fraction <= 1)
        return 1 - energy
    if error is not None:
        _check_fraction("error", error, "[0, 1)", lambda fraction: 0 <= fraction < 1)
        return error**2
    return 0


def _check_fraction(name, value, interval, is_inside):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number in {interval}: received {value!r}.")
    if not is_inside(value):
        raise ValueError(f"{name} must be in {interval}: received {value}.")


def _largest_ranks(graph, rank, layers):
    """`{path: largest rank}` of the layers to factorize. None means that only the kernel limits the rank."""
    reasons = {path: _why_not_factorizable(layer) for path, layer in graph.layers()}
    if isinstance(rank, dict):
        if layers is not None:
            raise ValueError("rank already names the layers: remove the argument layers.")
        ranks = {path: largest for name, largest in rank.items() for path in _paths(graph, name)}
    elif layers is None:
        ranks = {path: rank for path, reason in reasons.items() if reason is None}
    else:
        names = [layers] if isinstance(layers, str) else layers
        ranks = {path: rank for name in names for path in _paths(graph, name)}
    for path, largest in ranks.items():
        if reasons[path]:
            raise ValueError(f"The layer '{path}' cannot be factorized: {reasons[path]}.")
        if largest is not None:
            check_rank(largest, "rank", 1)
    return ranks


def _paths(graph, name):
    """The paths of the layers with a name or path."""
    paths = [path for path, layer in graph.layers() if name in (path, layer.name)]
    if not paths:
        raise ValueError(
            f"There is no layer '{name}' in the model. Its layers are: {', '.join(graph.calls_of)}."
        )
    return paths


def _why_not_factorizable(layer):
    """Why a layer cannot be factorized, or None."""
    if keras_compat.kind_of(layer) not in _FACTORIZABLE:
        return f"it is a {type(layer).__name__}, but only Keras's {', '.join(_FACTORIZABLE)} can be"
    return why_not_matrix(layer)


def _nothing_saved(model, candidates):
    listed = [
        f"'{path}' rank {factors.rank} (saves up to {factors.largest_saving_rank})"
        for path, factors in candidates.items()
    ]
    return (
        f"Factorizing the model '{model.name}' saves no weights: lower the ranks. Asked for: "
        f"{', '.join(listed) or 'nothing, as there is no Dense layer or convolution'}."
    )


# -- the factors -----------------------------------------------------------------------------------


class _Factors:
    """A matrix as the product of two low-rank factors.

    Attributes:
        rank: Columns of `first`, rows of `second`.
        largest_saving_rank: The largest rank at which the factors have fewer weights than the matrix.
        first: Array `(rows, rank)` of the kernel's dtype.
        second: Array `(rank, columns)` of the kernel's dtype.
    """

    def __init__(self, matrix, largest_rank, energy_to_lose):
        left, values, right = np.linalg.svd(matrix.values, full_matrices=False)
        rank = _lowest_rank(values, energy_to_lose)
        rank = min(rank, rank_of(matrix, values), len(values) if largest_rank is None else largest_rank)
        self.rank = max(1, rank)  # a Keras layer has at least one unit
        rows, columns = matrix.values.shape
        self.largest_saving_rank = (rows * columns - 1) // (rows + columns)
        root = np.sqrt(values[: self.rank])
        self.first = (left[:, : self.rank] * root).astype(matrix.dtype)
        self.second = (root[:, None] * right[: self.rank]).astype(matrix.dtype)

    @property
    def saves_weights(self):
        return self.rank <= self.largest_saving_rank


def _kernel_matrix(graph, path):
    return KernelMatrix(path, graph.calls_of[path][0].layer)


def _lowest_rank(values, energy_to_lose):
    """The lowest rank that loses at most this fraction of the squared singular values."""
    lost_energy = np.cumsum(values[::-1] ** 2)[::-1]  # at each rank, from 0
    return int((lost_energy > energy_to_lose * lost_energy[0]).sum())


def _unused_name(name, names):
    while name in names:
        name += "_"
    names.add(name)
    return name


def _factor_layers(layer, factors, first_name):
    """The `Replacement` of a layer by two layers."""
    left_out = ("batch_input_shape",)  # of tf_keras, for the first layer of a model
    size = layer_types.of(layer).units
    kernel, *bias = layer.get_weights()
    window_axes = kernel.ndim - 2
    first_config = {**_DEFAULT_KERNEL, **_NO_BIAS, "name": first_name, size: factors.rank}
    second_config = {**_DEFAULT_KERNEL, **(_one_by_one(window_axes) if window_axes else {})}
    first = Replacement(
        keras_compat.from_config(layer, first_config, left_out),
        [factors.first.reshape(*kernel.shape[:-1], factors.rank)],
    )
    second_weights = [factors.second.reshape(*[1] * window_axes, *factors.second.shape), *bias]
    return Replacement(keras_compat.from_config(layer, second_config, left_out), second_weights, before=first)


# Settings of the kernel do not apply to its factors.
_DEFAULT_KERNEL = {
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


def _one_by_one(window_axes):
    """Config of a convolution that mixes channels only."""
    ones = (1,) * window_axes
    return {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
