"""Pruning in cycles: train, prune, rewind, train again."""

from tfap.iterative.pruning import prune_iteratively
from tfap.iterative.results import IterativePruning
from tfap.iterative.rows import Row

__all__ = ["IterativePruning", "Row", "prune_iteratively"]
