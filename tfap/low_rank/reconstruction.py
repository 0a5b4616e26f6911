"""Replaces kernels by low-rank approximations of the same shape."""

from collections.abc import Callable

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.keras_compat.types import Model
from tfap.low_rank.spectra import check_rank, of_model


def pca_reconstruction(model: Model, ranks: int | dict[str, int]) -> Model:
    """Replaces kernels by their reconstruction from principal components.

    As in scikit-learn's PCA, the rows of the kernel matrix (one per input of a neuron) are the samples. Their
    mean is subtracted, k components are kept, and the mean is added back. The mean can add 1 to the rank, so
    the rank of the new kernel is at most k + 1.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        ranks: Number of components k: an integer >= 0 for every layer in `tfap.low_rank.ranks`, or a dict of
            layer path to integer. Layers that are not in the dict are unchanged. A kernel with at most k
            components is unchanged.

    Returns:
        A new model with the same graph, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If `model` is not a Keras model, or `ranks` has the wrong type.
        ValueError: If the model is wrapped, subclassed, or unbuilt; a rank is negative; or a layer has a
            kernel that is not a matrix or cannot be rebuilt from its config.

    Example:

    >>> import keras, tfap
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")])
    >>> low_rank.ranks(low_rank.pca_reconstruction(model, 3))
    {'dense': 4}

    References:
        - [Ganguli and Chong, 2024](https://doi.org/10.3390/a17010048)
    """
    return _reconstruct(model, ranks, _principal_components, "tfap.low_rank.pca_reconstruction")


def svd_reconstruction(model: Model, ranks: int | dict[str, int]) -> Model:
    """Replaces kernels by the nearest kernels of a lower rank: their truncated singular value decomposition.

    Args:
        model: A built Sequential or Functional model of either Keras without wrappers. Unchanged.
        ranks: Largest rank: an integer >= 0 for every layer in `tfap.low_rank.ranks`, or a dict of layer path
            to integer. Layers that are not in the dict are unchanged.

    Returns:
        A new model with the same graph, compiled alike, with a fresh optimizer.

    Raises:
        TypeError: If `model` is not a Keras model, or `ranks` has the wrong type.
        ValueError: If the model is wrapped, subclassed, or unbuilt; a rank is negative; or a layer has a
            kernel that is not a matrix or cannot be rebuilt from its config.

    Example:

    >>> import keras
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")])
    >>> low_rank.ranks(low_rank.svd_reconstruction(model, 3))
    {'dense': 3}
    """
    return _reconstruct(model, ranks, _truncated_svd, "tfap.low_rank.svd_reconstruction")


def _reconstruct(
    model: Model,
    ranks: int | dict[str, int],
    approximate: Callable[[np.ndarray, int], np.ndarray],
    function: str,
) -> Model:
    keras_compat.check_plain(model, function)
    graph = Graph(model)
    matrices = {matrix.path: matrix for matrix in of_model(model)}
    rank_of_layer = _rank_of_layer(ranks, matrices)

    def replace(layer):
        replacement, path = keras_compat.copied(layer), graph.path_of(layer)
        if path not in rank_of_layer:
            return replacement
        if replacement.layer is layer:
            raise ValueError(f"The layer '{path}' cannot be replaced: {keras_compat.why_shared(layer)}.")
        matrix, weights = matrices[path], list(replacement.weights)
        weights[matrix.index] = matrix.kernel(approximate(matrix.values, rank_of_layer[path]))
        return Replacement(replacement.layer, weights)

    return keras_compat.rebuild(model, replace)


def _rank_of_layer(ranks, matrices):
    """`{layer path: rank}`, checked, from the argument `ranks`."""
    rank_of_layer = ranks if isinstance(ranks, dict) else dict.fromkeys(matrices, ranks)
    for path, rank in rank_of_layer.items():
        check_rank(rank, "ranks", 0)
        if path not in matrices:
            raise ValueError(
                f"ranks names '{path}', which is not a layer whose kernel is a matrix: these are "
                f"{', '.join(matrices)}."
            )
    return rank_of_layer


def _principal_components(matrix, count):
    mean = matrix.mean(axis=0)
    return _truncated_svd(matrix - mean, count) + mean


def _truncated_svd(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]
