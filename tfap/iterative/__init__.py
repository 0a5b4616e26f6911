"""Pruning in cycles: train, prune, rewind, train again."""

from tfap.iterative.results import IterativePruning, Row
from tfap.iterative.run import prune_iteratively

__all__ = ["IterativePruning", "Row", "prune_iteratively"]
