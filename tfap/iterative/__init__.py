"""Iterative pruning: train, prune, rewind, and train again, in resumable cycles."""

from tfap.iterative.results import IterativePruning, Row
from tfap.iterative.run import prune_iteratively

__all__ = ["IterativePruning", "Row", "prune_iteratively"]
