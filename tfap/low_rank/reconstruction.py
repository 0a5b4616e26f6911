"""Models whose kernels are replaced by the nearest ones of a lower rank."""

import numpy as np

from tfap import keras_compat
from tfap.graph.calls import Graph
from tfap.keras_compat import Replacement
from tfap.low_rank.spectra import check_rank, of_model


def pca_reconstruction(model, ranks):
    """Replaces kernels by their reconstruction from principal components, as Ganguli and Chong (2024) do.

    As in scikit-learn's PCA the rows of the matrix (a row for each input of a neuron) are the samples:
    their mean is subtracted, k components are kept and the mean is added back. The mean has a rank of its
    own, so the kernel's rank is up to k + 1.

    Args:
        model: a plain built Sequential or Functional model of either Keras. It is not changed.
        ranks: the number of components k, an int >= 0 for every layer that `tfap.low_rank.ranks` names,
            or `{layer path: int}`; layers not named stay. As many as there are, or more, change nothing.

    Returns:
        A new model of the same graph, compiled alike if the model was (with a fresh optimizer).

    Raises:
        TypeError, ValueError: no plain, built model; ranks of another type, below 0, or of layers that
            have no kernel that is a matrix or cannot be rebuilt from their config.

    >>> import keras, tfap
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")])
    >>> low_rank.ranks(low_rank.pca_reconstruction(model, 3))
    {'dense': 4}
    """
    return _reconstructed(model, ranks, _principal_components, "tfap.low_rank.pca_reconstruction")


def svd_reconstruction(model, ranks):
    """Replaces kernels by the nearest ones of a rank: their truncated singular value decomposition.

    Args:
        model: a plain built Sequential or Functional model of either Keras. It is not changed.
        ranks: the largest rank, an int >= 0 for every layer that `tfap.low_rank.ranks` names, or
            `{layer path: int}`; layers not named stay.

    Returns:
        A new model of the same graph, compiled alike if the model was (with a fresh optimizer).

    Raises:
        TypeError, ValueError: as for `pca_reconstruction`.

    >>> import keras
    >>> from tfap import low_rank
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="dense")])
    >>> low_rank.ranks(low_rank.svd_reconstruction(model, 3))
    {'dense': 3}
    """
    return _reconstructed(model, ranks, _truncated, "tfap.low_rank.svd_reconstruction")


def _reconstructed(model, ranks, reconstruct, function):
    keras_compat.check_plain(model, function)
    layers = Graph(model)
    found = {matrix.path: matrix for matrix in of_model(model)}
    ranks = _checked(ranks, found)

    def replace(layer):
        copied, path = keras_compat.copied(layer), layers.path_of(layer)
        if path not in ranks:
            return copied
        if copied.layer is layer:
            raise ValueError(f"The layer '{path}' cannot be replaced: {keras_compat.why_shared(layer)}.")
        matrix, weights = found[path], list(copied.weights)
        weights[matrix.index] = matrix.kernel(reconstruct(matrix.values, ranks[path]))
        return Replacement(copied.layer, weights)

    return keras_compat.rebuild(model, replace)


def _checked(ranks, found):
    """`{layer path: rank}` of the ranks that were given."""
    ranks = ranks if isinstance(ranks, dict) else dict.fromkeys(found, ranks)
    for path, rank in ranks.items():
        check_rank(rank, "ranks", 0)
        if path not in found:
            raise ValueError(
                f"ranks names '{path}', which is no layer whose kernel is a matrix: these are "
                f"{', '.join(found)}."
            )
    return ranks


def _principal_components(matrix, count):
    mean = matrix.mean(axis=0)
    return _truncated(matrix - mean, count) + mean


def _truncated(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]
