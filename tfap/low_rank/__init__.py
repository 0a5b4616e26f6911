"""Singular values and ranks of kernels, low-rank factors, and a regularizer toward low rank."""

from tfap.low_rank.factorization import factorize
from tfap.low_rank.reconstruction import pca_reconstruction, svd_reconstruction
from tfap.low_rank.recorder import RecordSingularValues, SpectraAtUpdate
from tfap.low_rank.regularizer import SingularValueRegularizer
from tfap.low_rank.spectra import ranks, singular_values

__all__ = [
    "RecordSingularValues",
    "SingularValueRegularizer",
    "SpectraAtUpdate",
    "factorize",
    "pca_reconstruction",
    "ranks",
    "singular_values",
    "svd_reconstruction",
]
